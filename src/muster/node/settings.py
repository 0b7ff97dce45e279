"""What a node is told at its start. Defaults and their meaning are the contract of ``muster serve``."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.limits import Profile
from muster.core.queue_limits import QUEUE_DELIVERIES, QUEUE_TTL
from muster.core.throttles import Plan, Tier
from muster.events.model import Source
from muster.identity.hub import TAKES_ALL, Hub, Switches, make_hub
from muster.identity.policies import SharedAccessPolicy, make_local_policy
from muster.node.certificate_files import CertificateFiles
from muster.node.credential_policies import PolicyFiles

DEFAULT_BIND = ("127.0.0.1", "::1")
DAY_SECONDS = 86_400


class Worker(NamedTuple):
    """One of the processes that share a directory: ``place`` is that of all, ``number`` counts them."""

    place: Path
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """A hub besides the first of a node. Each field but ``name`` is one of ``Settings``; ``None``: as the first has it.

    ``storage_container`` must be its own where files go to a storage account, or the hubs' files would mix there:
    without, it is the first hub's with this hub's name behind.
    """

    name: str
    hostnames: tuple[str, ...]
    partitions: int | None = None
    consumer_groups: tuple[str, ...] | None = None
    retention_seconds: int | None = None
    retention_bytes: int | None = None
    events: frozenset[Source] | None = None
    command_ttl_seconds: int | None = None
    command_deliveries: int | None = None
    storage_container: str | None = None
    switches: Switches | None = None
    tier: Tier | None = None
    units: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One node and its first hub; ``hubs`` are the others. ``data`` is ``None`` for an ephemeral one; a port of 0
    takes any that is free.

    ``amqp_plain_port`` opens AMQP without TLS for clients told ``UseDevelopmentEmulator=true``; ``None``: closed.
    ``command_ttl_seconds`` is how long a cloud-to-device message waits that brings no expiry time,
    ``command_deliveries`` how often it may fail. ``events`` are the events that the built-in endpoint gets beside
    telemetry. ``sync`` off gives up the promise that an acknowledged message survives a power cut. ``storage`` says
    whether devices may upload files to the hub; ``storage_connection_string`` names an Azure Storage account (or
    Azurite) in its place, and ``storage_container`` the container there. ``file_notifications`` is ``None`` for the
    profile's own way. ``indexes`` are properties of twins that queries find fast (``tags.building``).
    ``fault_injection`` lets clients ask for faults of their own connections; ``None`` for an ephemeral hub's only.
    ``certificate``: where the operator's own
    certificate for the hub is, ``None`` for one by the hub's own CA. ``credential_policies`` are authorities that issue
    certificates to devices, besides that of ``muster ca init``. ``roles_file`` holds roles and grants of the operator.
    ``database`` (a PostgreSQL URL) and ``bus`` (NATS URLs) make it one of several equal nodes, which have all settings
    in common but directory, addresses and ports; ``shared_ports`` says that others of this machine have the same ones.
    ``worker`` makes it one of several processes on one directory, ``data`` (``None`` for an ephemeral one) being that;
    ``local_secret`` is what they make the keys of this machine's commands from.
    ``switches`` say which kinds of SAS token the hub takes no more.
    ``throttle``, ``None`` for the profile's own way,
    says whether the rates and the daily quota of ``units`` of ``tier`` are enforced; ``principal_rate`` is how many
    calls a second each caller of the service API has, 0 for any number. ``oidc_issuers`` are the OpenID
    Connect issuers (URLs) whose bearer tokens count, ``oidc_audiences`` what they may call the hub besides Azure's
    names, ``oidc_ca`` a file of certificates (PEM) to trust besides the system's when they are asked for their keys.
    """

    data: Path | None
    hostnames: tuple[str, ...] = ("localhost",)
    dps_hostname: str = ""
    bind: tuple[str, ...] = DEFAULT_BIND
    mqtt_port: int = 8883
    amqp_port: int = 5671
    https_port: int = 443
    amqp_plain_port: int | None = None
    profile: Profile = Profile.OPEN
    partitions: int = 4
    consumer_groups: tuple[str, ...] = ()
    retention_seconds: int = 7 * DAY_SECONDS
    retention_bytes: int = 10 * 1024**3
    command_ttl_seconds: int = QUEUE_TTL.open
    command_deliveries: int = QUEUE_DELIVERIES.open
    events: frozenset[Source] = frozenset()
    sync: bool = True
    storage: bool = True
    storage_connection_string: str = field(default="", repr=False)
    storage_container: str = "muster-uploads"
    upload_bytes: int = 10 * 1024**3
    upload_ttl_seconds: int = 3600
    file_notifications: bool | None = None
    indexes: tuple[str, ...] = ()
    ready_file: Path | None = None
    credential_policies: tuple[PolicyFiles, ...] = ()
    switches: Switches = TAKES_ALL
    fault_injection: bool | None = None
    certificate: CertificateFiles | None = None
    roles_file: Path | None = None
    tier: Tier = Tier.S1
    units: int = 1
    throttle: bool | None = None
    principal_rate: int = 0
    oidc_issuers: tuple[str, ...] = ()
    oidc_audiences: tuple[str, ...] = ()
    oidc_ca: Path | None = None
    hubs: tuple[HubSettings, ...] = ()
    database: str = field(default="", repr=False)
    bus: tuple[str, ...] = field(default=(), repr=False)
    shared_ports: bool = False
    worker: Worker | None = None
    local_secret: bytes = field(default=b"", repr=False)

    def of(self, hub: HubSettings) -> Settings:
        """The settings as they are for ``hub``, which is the first of them then."""
        own = {one.name: getattr(hub, one.name) for one in fields(hub) if one.name != "name"}
        known = {name: value for name, value in own.items() if value is not None}
        known.setdefault("storage_container", f"{self.storage_container}-{hub.name}")
        if hub.tier is Tier.F1:
            known["units"] = 1
        return replace(self, hubs=(), dps_hostname="", **known)

    @property
    def durable(self) -> bool:
        """Whether what is acknowledged is kept, also when the power is cut."""
        return self.sync and self.data is not None

    @property
    def clustered(self) -> bool:
        """Whether it is one of several nodes."""
        return bool(self.database)

    @property
    def hub_host(self) -> str:
        """The name that connection strings carry."""
        return self.hostnames[0]

    @property
    def notify_of_files(self) -> bool:
        """Whether services are told of files that have arrived; off in the cloud unless it is switched on."""
        return self.profile is Profile.OPEN if self.file_notifications is None else self.file_notifications

    @property
    def plan(self) -> Plan | None:
        """What the hub is given of messages and operations; ``None``: as many as it can take."""
        throttled = self.profile is Profile.AZURE if self.throttle is None else self.throttle
        return Plan(self.tier, self.units) if throttled else None

    @property
    def takes_faults(self) -> bool:
        """Whether clients may ask for faults of their own connections; by default only an ephemeral hub's."""
        return self.data is None if self.fault_injection is None else self.fault_injection

    @property
    def loopback_only(self) -> bool:
        """Whether nobody but this machine can reach the node."""
        return all(_is_loopback(address) for address in self.bind)

    @property
    def given_hostnames(self) -> tuple[str, ...]:
        """The names that the operator gave the hub and provisioning; a certificate must be for them."""
        return (*self.hostnames, *filter(None, (self.dps_hostname,)))

    @property
    def all_hostnames(self) -> tuple[str, ...]:
        """Every name and address the hub answers to, the built-in ones included, each once."""
        names = (*self.given_hostnames, "localhost", "hub.localhost", "127.0.0.1", "::1")
        return tuple(dict.fromkeys(names))

    def hub(
        self,
        name: str,
        policies: Mapping[str, SharedAccessPolicy],
        ambient: Ambient,
        taken: Callable[[], Switches],
    ) -> Hub:
        """The hub of these settings, with a policy of its own for the commands of this machine."""
        local = make_local_policy(ambient, self.local_secret)
        return make_hub(self.all_hostnames, policies, self.profile, name=name, taken=taken, local=local)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
