"""What the management API needs of a node: its hubs, and who adds and removes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from muster.core.audit import Note
from muster.core.meters import Meters
from muster.core.resource import ResourceRecord
from muster.core.settings_store import HubSettingsStore
from muster.dialect.arm_hubs import HubDescription
from muster.dialect.arm_provisioning import Link, ServiceDescription
from muster.heads.http.auth import ServiceGate
from muster.identity.authorities import Authorities
from muster.identity.hub import Hub
from muster.identity.kept_policies import KeptPolicies
from muster.identity.kept_switches import KeptSwitches
from muster.identity.network_access import NetworkAccess
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.messages.groups import ConsumerGroups
from muster.messages.telemetry import Telemetry
from muster.provisioning.hubs import LinkedHubs


@dataclass(frozen=True, slots=True)
class ManagedHub:
    """An open hub. ``names`` are those that a path may call it by, in small letters; ``describe`` tells how it is at
    this moment, ``change`` takes what ``dialect.arm_hubs.read_changes`` found. ``first``: the node's own, whose owner
    manages all."""

    facts: Hub
    first: bool
    names: frozenset[str]
    describe: Callable[[], HubDescription]
    change: Callable[[Mapping[str, Any], Note], Awaitable[None]]
    policies: KeptPolicies
    switches: KeptSwitches
    gate: ServiceGate
    network: NetworkAccess
    refusals: Refusals
    registry: Registry
    telemetry: Telemetry
    groups: ConsumerGroups
    meters: Meters
    authorities: Authorities
    resource: ResourceRecord

    @property
    def name(self) -> str:
        """See ``identity.hub.Hub``."""
        return self.facts.name


@dataclass(frozen=True, slots=True)
class ManagedService:
    """The provisioning service of a deployment. ``names`` are those that a path may call it by, in small letters, the
    first its own; ``authorities`` are those that it trusts, which are the first hub's."""

    names: tuple[str, ...]
    host: str
    scope: str
    gate: ServiceGate
    network: NetworkAccess
    policies: KeptPolicies
    hubs: LinkedHubs
    store: HubSettingsStore
    authorities: Authorities
    resource: ResourceRecord

    def called(self, name: str) -> bool:
        """Whether that is a name of it."""
        return name.lower() in self.names

    def describe(self) -> ServiceDescription:
        """How it is at this moment."""
        links = [Link(host, self.hubs.weight(host)) for host in self.hubs]
        return ServiceDescription(
            self.names[0], self.host, self.scope, self.resource.resource, self.hubs.default, links, self.network.rules
        )


class ManagedNode(Protocol):
    """The hubs of a running node, seen and changed; a ``node.deployment.Deployment``."""

    def managed(self) -> Sequence[ManagedHub]:
        """The hubs that are open, the first one first."""
        ...

    def find(self, *hosts: str) -> ManagedHub:
        """The hub that is meant by the first of ``hosts`` that is the name of one alone, else the first."""
        ...

    def default(self, name: str) -> HubDescription:
        """What a hub ``name`` will be like of which nothing is said."""
        ...

    def check(self, name: str, members: Mapping[str, Any]) -> None:
        """Raise ``HubError`` 400004 unless such a hub may be added."""
        ...

    async def add(self, name: str, members: Mapping[str, Any], note: Note | None = None) -> None:
        """Open a hub, now and at every start, on record as ``note`` says. Raises ``HubError``."""
        ...

    def removable(self, name: str) -> None:
        """Raise ``HubError`` 400003 or 404000 unless the hub may be removed."""
        ...

    async def remove(self, name: str, note: Note | None = None) -> None:
        """End a hub and all that it has. Raises ``HubError``."""
        ...
