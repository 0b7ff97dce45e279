"""What the provisioning service holds: enrollments, and what became of the devices that registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from muster.core.values import value
from muster.identity.keys import Credentials

Content = Mapping[str, Any]
"""A JSON object."""


class EnrollmentKind(StrEnum):
    """Whether an enrollment is one device's, or that of all devices of a group."""

    INDIVIDUAL = "individual"
    GROUP = "group"


class EnrollmentKey(NamedTuple):
    """Names an enrollment. ``id`` is a registration id or a group's, in lower case (``ids.normal``)."""

    kind: EnrollmentKind
    id: str


class AttestationKind(StrEnum):
    """How a device proves who it is (provisioning.md 7.3)."""

    SYMMETRIC_KEY = "symmetricKey"
    X509 = "x509"
    TPM = "tpm"


class Attestation(Protocol):
    """What an enrollment holds of a device's proof; a kind per file in ``attestation``."""

    @property
    def kind(self) -> AttestationKind:
        """Which kind."""
        ...

    def stored(self) -> dict[str, Any]:
        """As JSON values, for a store; ``attestation.from_stored`` reads it."""
        ...


class AllocationKind(StrEnum):
    """How a hub is chosen (provisioning.md 7.4); a kind per file in ``allocation``."""

    HASHED = "hashed"
    GEO_LATENCY = "geoLatency"
    STATIC = "static"
    CUSTOM = "custom"


class CustomAllocation(NamedTuple):
    """The webhook that a custom allocation asks."""

    url: str
    api_version: str


class ReprovisionPolicy(NamedTuple):
    """What happens to a device that registers again (provisioning.md 7.5)."""

    update_hub: bool = True
    migrate_data: bool = True


class DeviceData(NamedTuple):
    """What a hub keeps of a device besides its identity: the parts of its twin."""

    tags: Content = {}  # noqa: RUF012 - never changed in place
    desired: Content = {}  # noqa: RUF012
    reported: Content = {}  # noqa: RUF012


@value(frozen=True, slots=True, kw_only=True)
class Enrollment:
    """An enrollment of one device or of a group.

    ``device_id`` is the id that the device gets at its hub, empty for the registration id. ``hubs`` are host names of
    linked hubs, none for all of them; ``allocation`` and ``reprovision`` are ``None`` where the service's default
    holds. ``version`` begins at random and grows by one with each write: the ETag is made from it. Times are seconds
    since 1970.
    """

    key: EnrollmentKey
    attestation: Attestation
    device_id: str = ""
    enabled: bool = True
    iot_edge: bool = False
    hubs: tuple[str, ...] = ()
    allocation: AllocationKind | None = None
    custom: CustomAllocation | None = None
    reprovision: ReprovisionPolicy | None = None
    initial_twin: DeviceData | None = None
    information: Content | None = None
    credential_policy: str = ""
    version: int = 0
    created: float = 0.0
    updated: float = 0.0

    @property
    def group_id(self) -> str:
        """The group's id; empty for an individual enrollment."""
        return self.key.id if self.key.kind is EnrollmentKind.GROUP else ""


class RegistrationStatus(StrEnum):
    """Where a registration stands (provisioning.md 5.3). ``unassigned`` is never sent: clients cannot bear it."""

    ASSIGNING = "assigning"
    ASSIGNED = "assigned"
    FAILED = "failed"
    DISABLED = "disabled"


class Substatus(StrEnum):
    """How a device came to its hub."""

    INITIAL = "initialAssignment"
    MIGRATED = "deviceDataMigrated"
    RESET = "deviceDataReset"
    SAME_HUB = "reprovisionedToInitialAssignment"


@value(frozen=True, slots=True, kw_only=True)
class Intent:
    """What an assignment is about to do, on disk before it is begun, so that a hub that was killed can finish it.

    ``hub`` is empty until the hub is chosen; ``context`` is what its choice needs of the device. ``previous`` and
    ``previous_device`` say where the device is now, both empty when it is nowhere, and ``migrate`` whether its data
    goes with it. ``there``: the hub had the device already; ``fresh``: what it has beside the identity is written anew.
    """

    hub: str
    device_id: str
    credentials: Credentials
    iot_edge: bool
    context: Content = field(default_factory=dict)
    previous: str = ""
    previous_device: str = ""
    migrate: bool = False
    there: bool = False
    fresh: bool = False
    data: DeviceData | None = None
    substatus: Substatus = Substatus.INITIAL

    @property
    def moves(self) -> bool:
        """Whether the device is to disappear from where it is."""
        return bool(self.previous) and (self.previous, self.previous_device) != (self.hub, self.device_id)


@value(frozen=True, slots=True, kw_only=True)
class Registration:
    """What became of a device that registered.

    ``key`` is the enrollment by which it was let in. ``attested`` is what the device is told of its own proof, by the
    kind of attestation; ``payload`` what a webhook gave for it (``None``: nothing). ``error_code`` is 0 for none.
    """

    registration_id: str
    key: EnrollmentKey
    operation_id: str
    status: RegistrationStatus
    substatus: Substatus | None = None
    assigned_hub: str = ""
    device_id: str = ""
    attested: Content = field(default_factory=dict)
    payload: Any = None
    error_code: int = 0
    error_message: str = ""
    intent: Intent | None = None
    version: int = 0
    created: float = 0.0
    updated: float = 0.0
