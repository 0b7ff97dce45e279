"""What goes on record of enrollments and registrations: keys, certificates and webhooks as fingerprints."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from muster.core.audit import Act, Draft, draft, fingerprint
from muster.provisioning.contract import EnrollmentNote, RegistrationNote
from muster.provisioning.model import (
    Attestation,
    CustomAllocation,
    Enrollment,
    EnrollmentKey,
    EnrollmentKind,
    Registration,
)

_LISTS = {EnrollmentKind.INDIVIDUAL: "enrollments", EnrollmentKind.GROUP: "enrollmentGroups"}
_PUBLIC = "role"
"""What a stored attestation has besides keys and certificates."""


def enrollment_noted(scope: str, by: Act, key: EnrollmentKey, at: float) -> EnrollmentNote:
    """Makes the record of what ``by`` does with an enrollment at ``at`` (seconds since 1970)."""

    def note(before: Enrollment | None, after: Enrollment | None) -> Draft:
        subject = f"{_LISTS[key.kind]}/{key.id}"
        return draft(scope, by, subject, at, before=_enrollment(before), after=_enrollment(after))

    return note


def registration_noted(scope: str, by: Act, registration_id: str, at: float) -> RegistrationNote:
    """As ``enrollment_noted``, of a registration."""

    def note(before: Registration | None, after: Registration | None) -> Draft:
        subject = f"registrations/{registration_id}"
        return draft(scope, by, subject, at, before=_registration(before), after=_registration(after))

    return note


def _enrollment(one: Enrollment | None) -> dict[str, Any] | None:
    if one is None:
        return None
    members = {
        "version": one.version,
        "attestation": _attestation(one.attestation),
        "deviceId": one.device_id,
        "status": "enabled" if one.enabled else "disabled",
        "iotEdge": one.iot_edge,
        "iotHubs": list(one.hubs),
        "allocationPolicy": one.allocation,
        "webhook": _webhook(one.custom),
        "reprovisionPolicy": None if one.reprovision is None else one.reprovision._asdict(),
        "initialTwin": None if one.initial_twin is None else one.initial_twin._asdict(),
        "additionalInformation": one.information,
        "credentialPolicy": one.credential_policy,
    }
    return {name: value for name, value in members.items() if value not in (None, "", [])}


def _attestation(one: Attestation) -> dict[str, Any]:
    parts = {
        name: value if name == _PUBLIC or not value else fingerprint(value) for name, value in one.stored().items()
    }
    return {"type": one.kind, **parts}


def _webhook(custom: CustomAllocation | None) -> dict[str, Any] | None:
    """Its URL may hold a key."""
    return None if custom is None else {"host": urlsplit(custom.url).hostname, "url": fingerprint(custom.url)}


def _registration(one: Registration | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "version": one.version, "status": one.status, "enrollment": f"{_LISTS[one.key.kind]}/{one.key.id}",
        "assignedHub": one.assigned_hub, "deviceId": one.device_id,
    }  # fmt: skip
