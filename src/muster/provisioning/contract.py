"""What the provisioning service asks of others: stores, the hubs that are linked to it, and a way to call webhooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from muster.core.audit import Draft
from muster.identity.keys import Credentials
from muster.provisioning.model import (
    DeviceData,
    Enrollment,
    EnrollmentKey,
    EnrollmentKind,
    Registration,
)


class EnrollmentStanding(NamedTuple):
    """How things stand when an enrollment is changed: the enrollment (``None``: absent), and for a group all other
    groups; empty for an individual one."""

    enrollment: Enrollment | None
    groups: Sequence[Enrollment] = ()


EnrollmentChange = Callable[[EnrollmentStanding], Enrollment | None]
"""What the enrollment shall be, ``None`` for deleted. Pure; raises ``HubError`` to refuse; may run again."""

RegistrationChange = Callable[[Registration | None], Registration | None]
"""What the registration shall be, ``None`` for none, made from what it is. As ``EnrollmentChange``."""


EnrollmentNote = Callable[[Enrollment | None, Enrollment | None], Draft]
"""The audit record of an enrollment that was the first and is the second (``None``: not there). Pure."""

RegistrationNote = Callable[[Registration | None, Registration | None], Draft]
"""As ``EnrollmentNote``."""


class ProvisioningStore(Protocol):
    """Keeps enrollments and registrations of a provisioning service, by its id scope.

    Promises: an edit that returned is durable and seen by every later read; with an enrollment that is deleted go the
    registrations that came by it, but for those whose assignment is in progress. Does not promise any order between
    edits made at the same time, nor that an enrollment's attestation is good for anything.
    """

    async def enrollment(self, scope: str, key: EnrollmentKey) -> Enrollment | None:
        """The enrollment, or ``None``."""
        ...

    async def enrollments(self, scope: str, kind: EnrollmentKind, after: str, limit: int) -> Sequence[Enrollment]:
        """Up to ``limit`` enrollments of ``kind`` whose ids come after ``after``, in the order of their ids."""
        ...

    async def edit_enrollment(
        self, scope: str, key: EnrollmentKey, change: EnrollmentChange, note: EnrollmentNote | None = None
    ) -> Enrollment | None:
        """Apply ``change``, and put on record what ``note`` makes of it; what the enrollment is now. Raises what
        ``change`` raises, having done nothing then."""
        ...

    async def registration(self, scope: str, registration_id: str) -> Registration | None:
        """The registration, or ``None``."""
        ...

    async def registrations(self, scope: str, key: EnrollmentKey, after: str, limit: int) -> Sequence[Registration]:
        """Up to ``limit`` registrations by the enrollment ``key`` whose ids come after ``after``, in the order of their
        ids."""
        ...

    async def edit_registration(
        self, scope: str, registration_id: str, change: RegistrationChange, note: RegistrationNote | None = None
    ) -> Registration | None:
        """Apply ``change``, and put on record what ``note`` makes of it; what the registration is now. Raises what
        ``change`` raises, having done nothing then."""
        ...

    async def unfinished(self, scope: str) -> Sequence[Registration]:
        """All registrations with an intent: assignments that were in progress when the service ended, or that other
        nodes are working on. To work on one twice is harmless, for only who is first can record how it ended."""
        ...


class Entry(NamedTuple):
    """One entry of the timeline: what happened to ``registration_id`` at ``at``, in JSON values."""

    at: float
    registration_id: str
    report: Mapping[str, Any]


class TimelineStore(Protocol):
    """Keeps the timeline over restarts, the oldest entries dropped first.

    Promises: ``keep`` and ``flush`` return at once and never raise. Does not promise that what was handed over is ever
    stored.
    """

    def keep(self, entry: Entry) -> None:
        """Store it some time soon."""
        ...

    def flush(self) -> None:
        """Store what waits before anything that is asked for later, so that a service that stops keeps it."""
        ...

    async def newest(self, registration_id: str | None, limit: int) -> Sequence[Entry]:
        """Up to ``limit`` entries, newest first: all, or those of one device."""
        ...


class DeviceDraft(NamedTuple):
    """What a linked hub shall have of a device. ``data`` is written as a whole, reported properties included;
    ``None`` leaves what is there as it is."""

    device_id: str
    credentials: Credentials
    iot_edge: bool
    data: DeviceData | None


class LinkedHub(Protocol):
    """A hub that devices are assigned to. All calls may be repeated: a second one with the same arguments finds
    everything done. They raise ``HubError``."""

    @property
    def host(self) -> str:
        """The host name that devices are told, in lower case; names the hub among the linked ones."""
        ...

    def trusts(self, authority: str) -> bool:
        """Whether devices may connect with certificates of the authority with this SHA-256 thumbprint."""
        ...

    async def has(self, device_id: str) -> bool:
        """Whether the device is registered there."""
        ...

    async def put(self, draft: DeviceDraft) -> None:
        """Register the device, or write over its credentials. Its status stays: who was disabled at the hub remains
        so."""
        ...

    async def data_of(self, device_id: str) -> DeviceData | None:
        """What is kept of the device, ``None`` when it is not there."""
        ...

    async def remove(self, device_id: str, held: Credentials | None = None) -> None:
        """Remove the device; harmless when it is not there. With ``held`` only if the hub knows it by these
        credentials: otherwise it is somebody else's by now, and stays."""
        ...


class WebhookError(Exception):
    """A webhook gave no answer, or not status 200; ``status`` is 0 for none. The text says what was wrong."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


Webhook = Callable[[str, bytes], Awaitable[bytes]]
"""POSTs a JSON body to a URL, and returns the body of the answer. Within bounded time and memory; raises
``WebhookError``."""
