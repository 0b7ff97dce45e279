"""One hub of a node, open: its parts, and what each head needs of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from muster.access.decision import Decide
from muster.access.issuers import Issuers
from muster.audit.contract import AuditLog
from muster.audit.refused import RefusedChanges
from muster.core.ambient import Ambient
from muster.core.errors import ErrorRow
from muster.core.listeners import Listener
from muster.core.settings_store import HubSettingsStore
from muster.heads.amqp import AmqpHub
from muster.heads.amqp_faults import device_links
from muster.heads.amqp_links import Role
from muster.heads.device_services import DeviceServices
from muster.heads.eventhubs import EventHub
from muster.heads.http.admin import AdminOperations
from muster.heads.http.app import build_app
from muster.heads.http.connection import App
from muster.heads.http.device_messages import DeviceMessageOperations
from muster.heads.http.digital_twins import DigitalTwinOperations
from muster.heads.http.meters import Lines, MeterOperations
from muster.heads.http.methods import MethodOperations
from muster.heads.http.network import NetworkOperations
from muster.heads.http.operations import Operation
from muster.heads.http.queries import QueryOperations
from muster.heads.http.service_policies import PolicyOperations
from muster.heads.http.transfer import TransferOperations
from muster.heads.http.twins import TwinOperations
from muster.identity.doctor import Examine, Shown
from muster.identity.hub import Hub
from muster.identity.kept_policies import KeptPolicies
from muster.identity.kept_switches import KeptSwitches, open_switches
from muster.node.changes import HubChanges, with_changes
from muster.node.directory import DataDirectory
from muster.node.engines import Engines
from muster.node.files import file_operations
from muster.node.foundation import Foundation, Undo
from muster.node.material import HubKeys
from muster.node.nodes import Nodes
from muster.node.parts import Parts, make_parts
from muster.node.settings import Settings
from muster.provisioning.renewals import Renewals
from muster.sessions.grounds import TokenGrounds


@dataclass(frozen=True, slots=True)
class Site:
    """What the hubs of a node have in common.

    ``ready`` holds while the node serves and ``healthy`` while the disk takes every hub's messages and sessions may
    begin; ``own`` are the certificates that the node shows. ``audit`` is the log of all, and ``refused`` what puts
    refusals there.
    ``nodes`` are those of the deployment.
    """

    settings: Settings
    directory: DataDirectory
    engines: Engines
    kept: HubSettingsStore
    ambient: Ambient
    ports: Mapping[str, int]
    ready: Callable[[], bool]
    healthy: Callable[[], bool]
    own: Callable[[], Shown]
    renewals: Renewals
    issuers: Issuers
    audit: AuditLog
    refused: RefusedChanges
    decide: Decide
    nodes: Nodes


class OpenHub:
    """A hub that runs. ``end`` and then ``close`` it."""

    def __init__(
        self, base: Foundation, parts: Parts, site: Site, policies: KeptPolicies, switches: KeptSwitches
    ) -> None:
        self.base = base
        self.facts: Hub = base.hub
        self.policies, self.switches = policies, switches
        """What tokens count by; both may be changed."""
        self.when_access_changes(parts.authenticator.policies_changed)
        self.when_access_changes(TokenGrounds(parts.sessions, base.hub, parts.refusals, base.ambient).changed)
        self.own_hosts = base.settings.hostnames
        self.parts = parts
        self.changes = HubChanges(base.settings, base.kept, parts)
        self.rest: App | None = None
        """What answers its REST calls, once it serves."""
        self._site = site
        self._ended = False
        self.devices = DeviceServices(
            parts.authenticator, parts.sessions, parts.subscriptions, parts.telemetry, parts.refusals, base.ambient,
            parts.twins, parts.methods, parts.messaging.commands, parts.meters,
            partial(site.renewals.renew, base.hub.host), parts.faults, parts.network,
        )  # fmt: skip
        events = EventHub(
            parts.telemetry, self.name, parts.readers, groups=parts.groups, redirect_port=site.ports["amqp"]
        )
        roles: list[Role] = [device_links(self.devices), events, *parts.messaging.roles]
        self.amqp = AmqpHub(parts.authenticator, parts.refusals, roles, parts.faults, parts.network)

    @property
    def name(self) -> str:
        """See ``identity.hub.Hub``."""
        return self.facts.name

    def when_access_changes(self, listener: Listener) -> None:
        """From now on call ``listener`` after each change of what tokens count by."""
        self.policies.when_changed(listener)
        self.switches.when_changed(listener)

    def ready(self) -> bool:
        """Whether it serves."""
        return not self._ended and self._site.ready()

    async def app(self, more: Sequence[Operation], metrics: Lines = tuple, deployment: Sequence[Examine] = ()) -> App:
        """Its REST data plane, with ``more`` operations and ``metrics``; ``deployment`` are looks at what all hubs
        share. Once, for file uploads begin with it."""
        base, parts, site = self.base, self.parts, self._site
        methods = MethodOperations(parts.methods, base.ambient)
        admin = AdminOperations(
            parts.refusals, parts.telemetry, base.settings.profile, self.ready, gate=parts.authenticator,
            network=parts.network,
        )  # fmt: skip
        self.when_access_changes(admin.access_changed)
        connected = lambda: site.nodes.connected(self.name, parts.sessions.connected_count())  # noqa: E731
        messages = DeviceMessageOperations(self.devices, base.settings.profile)
        files = await file_operations(
            base, parts.stores, parts.authenticator, parts.messaging.file_notifications, site.ports["https"]
        )
        return build_app(
            registry=parts.registry,
            gate=parts.authenticator,
            ambient=base.ambient,
            ready=lambda: site.ready() and site.healthy(),
            meters=parts.meters,
            network=parts.network,
            back_off=parts.refusals.back_off,
            refused=site.refused.add,
            hub=self.name,
            more=[
                *NetworkOperations(parts.network).table(),
                *MeterOperations(parts.meters, metrics, connected).table(),
                *admin.table(),
                *TwinOperations(parts.registry, parts.twins).table(),
                *TransferOperations(parts.transfer).table(),
                *QueryOperations(parts.queries).table(),
                *methods.table(),
                *DigitalTwinOperations(parts.twins, parts.methods, methods).table(),
                *parts.messaging.operations,
                *PolicyOperations(self.policies).table(),
                *messages.table(),
                *files,
                *parts.certificates.operations(
                    parts.authenticator, parts.identities, parts.sessions, site.own, deployment
                ),
                *more,
            ],
        )

    def end(self, row: ErrorRow) -> None:
        """End its sessions, and those that begin from now on; methods that wait for a device are refused."""
        self._ended = True
        self.parts.methods.close()
        self.parts.sessions.end_all(row)

    async def close(self) -> None:
        """Make durable what was accepted, and give up the stores."""
        await _undo(self.base.undo)


async def open_hub(
    site: Site, settings: Settings, keys: HubKeys, kept: HubSettingsStore, *, first: bool = False
) -> OpenHub:
    """Open the hub with ``keys``; ``settings`` and ``kept`` are as they are for it.

    Raises ``HubError`` or ``OSError``; what was begun is undone.
    """
    settings = await with_changes(settings, kept)
    switches = await open_switches(settings.switches, kept)
    hub = settings.hub(keys.name, keys.policies, site.ambient, switches.now)
    files = site.directory.hub_files("" if first else keys.name)
    engines = site.engines
    base = Foundation(
        settings=settings, files=files, hub=hub, storage=engines.storage, open_log=engines.open_log,
        bus=engines.bus(keys.name), several=engines.several, watch=engines.watch, kept=kept, ambient=site.ambient,
        undo=[], issuers=site.issuers, decide=site.decide,
    )  # fmt: skip
    try:
        return OpenHub(base, await make_parts(base), site, keys.policies, switches)
    except BaseException:
        await _undo(base.undo)
        raise


async def _undo(undo: Undo) -> None:
    while undo:
        pending = undo.pop()()
        if pending is not None:
            await pending
