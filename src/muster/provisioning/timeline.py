"""The registration timeline: every attempt with its verdict and every assignment with its outcome, and counts of both.

``muster provisioning log`` shows it. Counts are since the start; their names are the cloud's metrics
(provisioning.md section 9).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from muster.core.ambient import Ambient, iso
from muster.core.provisioning_limits import REFUSED_ATTEMPTS_WRITTEN
from muster.core.rate import RateLimit
from muster.identity.explain import to_json
from muster.identity.mistakes import shown
from muster.identity.verdict import Verdict
from muster.provisioning.attempt import Attempt
from muster.provisioning.contract import Entry, TimelineStore
from muster.provisioning.ids import normal
from muster.provisioning.model import Enrollment, Registration, RegistrationStatus

_BURST_SECONDS = 10
ATTEMPT, ASSIGNMENT = "attempt", "assignment"
"""Kinds of entries."""


class Timeline:
    """What has happened to the devices that register. Counts are of all; of refused attempts, which cost a stranger
    nothing, only so many a second are kept."""

    def __init__(self, store: TimelineStore, ambient: Ambient) -> None:
        self._store = store
        self._ambient = ambient
        rate = REFUSED_ATTEMPTS_WRITTEN.open
        self._refusals = RateLimit(rate, rate * _BURST_SECONDS, ambient.monotonic)
        self._attestations: Counter[tuple[str, str]] = Counter()
        self._registrations: Counter[tuple[str, str]] = Counter()
        self._assignments: Counter[str] = Counter()

    def attempted(self, attempt: Attempt, verdict: Verdict, enrollment: Enrollment | None) -> None:
        """A device has asked to be registered, and ``verdict`` says what it proved."""
        self._attestations[attempt.transport, verdict.cause or "allowed"] += 1
        if not verdict.allowed and not self._refusals.take():
            return
        found = None if enrollment is None else {"kind": enrollment.key.kind.value, "id": enrollment.key.id}
        self._keep(
            normal(shown(attempt.registration_id)),
            {"entry": ATTEMPT, "apiVersion": shown(attempt.api_version), "enrollment": found, **to_json(verdict)},
        )

    def settled(self, registration: Registration) -> None:
        """An assignment has come to its end."""
        failed = registration.status is RegistrationStatus.FAILED
        outcome = str(registration.error_code) if failed else registration.status.value
        self._registrations[registration.assigned_hub, outcome] += 1
        if not failed:
            self._assignments[registration.assigned_hub] += 1
        self._keep(
            registration.registration_id,
            {
                "entry": ASSIGNMENT,
                "status": registration.status.value,
                "substatus": None if registration.substatus is None else registration.substatus.value,
                "assignedHub": registration.assigned_hub,
                "deviceId": registration.device_id,
                "errorCode": registration.error_code,
                "errorMessage": registration.error_message,
            },
        )

    def _keep(self, registration_id: str, report: dict[str, Any]) -> None:
        now = self._ambient.now()
        self._store.keep(Entry(now, registration_id, {"registrationId": registration_id, "at": iso(now), **report}))

    async def newest(self, registration_id: str | None, limit: int) -> Sequence[Entry]:
        """Up to ``limit`` entries, newest first: all, or those of one device."""
        return await self._store.newest(None if registration_id is None else normal(registration_id), limit)

    def counts(self) -> dict[str, Any]:
        """How many attempts, registrations and assignments there were, by what became of them."""
        return {
            "attestationAttempts": [
                {"protocol": protocol, "status": status, "count": count}
                for (protocol, status), count in sorted(self._attestations.items())
            ],
            "registrationAttempts": [
                {"iotHubName": hub, "status": status, "count": count}
                for (hub, status), count in sorted(self._registrations.items())
            ],
            "deviceAssignments": [
                {"iotHubName": hub, "count": count} for hub, count in sorted(self._assignments.items())
            ],
        }
