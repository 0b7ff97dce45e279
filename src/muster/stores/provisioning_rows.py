"""Enrollments and registrations as rows of a database: what is looked for in columns, the rest as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from muster.core.json_text import decode, encode
from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType
from muster.provisioning.attestation import from_stored
from muster.provisioning.model import (
    AllocationKind,
    CustomAllocation,
    DeviceData,
    Enrollment,
    EnrollmentKey,
    EnrollmentKind,
    Intent,
    Registration,
    RegistrationStatus,
    ReprovisionPolicy,
    Substatus,
)

ENROLLMENT_COLUMNS = "kind, id, attestation, secrets, record, version, created, updated"
"""What ``enrollment_of`` takes and ``enrollment_row`` gives, in their order."""
REGISTRATION_COLUMNS = "registration_id, kind, enrollment_id, record, intent, version, created, updated"
"""What ``registration_of`` takes and ``registration_row`` gives, in their order."""

Row = tuple[Any, ...]


def enrollment_row(one: Enrollment) -> Row:
    """The row of an enrollment."""
    record = {
        "device_id": one.device_id, "enabled": one.enabled, "iot_edge": one.iot_edge, "hubs": one.hubs,
        "allocation": one.allocation, "custom": one.custom, "reprovision": one.reprovision,
        "initial_twin": one.initial_twin, "information": one.information, "credential_policy": one.credential_policy,
    }  # fmt: skip
    held = one.attestation
    return (
        one.key.kind.value, one.key.id, held.kind.value, encode(held.stored()), encode(record),
        one.version, one.created, one.updated,
    )  # fmt: skip


def enrollment_of(row: Iterable[Any]) -> Enrollment:
    """The enrollment of a row."""
    kind, name, attestation, secrets, text, version, created, updated = row
    record = decode(text)
    allocation, custom, reprovision = record["allocation"], record["custom"], record["reprovision"]
    return Enrollment(
        key=EnrollmentKey(EnrollmentKind(kind), name),
        attestation=from_stored(attestation, decode(secrets)),
        device_id=record["device_id"],
        enabled=record["enabled"],
        iot_edge=record["iot_edge"],
        hubs=tuple(record["hubs"]),
        allocation=None if allocation is None else AllocationKind(allocation),
        custom=None if custom is None else CustomAllocation(*custom),
        reprovision=None if reprovision is None else ReprovisionPolicy(*reprovision),
        initial_twin=_data(record["initial_twin"]),
        information=record["information"],
        credential_policy=record["credential_policy"],
        version=version,
        created=created,
        updated=updated,
    )


def registration_row(one: Registration) -> Row:
    """The row of a registration."""
    record = {
        "operation_id": one.operation_id, "status": one.status, "substatus": one.substatus,
        "assigned_hub": one.assigned_hub, "device_id": one.device_id, "attested": one.attested,
        "payload": one.payload, "error_code": one.error_code, "error_message": one.error_message,
    }  # fmt: skip
    return (
        one.registration_id, one.key.kind.value, one.key.id, encode(record),
        None if one.intent is None else encode(_intent_record(one.intent)),
        one.version, one.created, one.updated,
    )  # fmt: skip


def registration_of(row: Iterable[Any]) -> Registration:
    """The registration of a row."""
    registration_id, kind, enrollment_id, text, intent, version, created, updated = row
    record = decode(text)
    substatus = record.pop("substatus")
    return Registration(
        registration_id=registration_id,
        key=EnrollmentKey(EnrollmentKind(kind), enrollment_id),
        status=RegistrationStatus(record.pop("status")),
        substatus=None if substatus is None else Substatus(substatus),
        intent=None if intent is None else _intent(decode(intent)),
        version=version,
        created=created,
        updated=updated,
        **record,
    )


def _intent_record(one: Intent) -> dict[str, Any]:
    held = one.credentials
    return {
        "hub": one.hub, "device_id": one.device_id, "iot_edge": one.iot_edge, "context": one.context,
        "previous": one.previous, "previous_device": one.previous_device, "migrate": one.migrate, "there": one.there,
        "fresh": one.fresh, "data": one.data, "substatus": one.substatus,
        "credentials": [
            held.type, held.primary_key, held.secondary_key, held.primary_thumbprint, held.secondary_thumbprint,
        ],
    }  # fmt: skip


def _intent(record: dict[str, Any]) -> Intent:
    kind, *rest = record.pop("credentials")
    return Intent(
        credentials=Credentials(None if kind is None else AuthenticationType(kind), *rest),
        data=_data(record.pop("data")),
        substatus=Substatus(record.pop("substatus")),
        **record,
    )


def _data(parts: list[Any] | None) -> DeviceData | None:
    return None if parts is None else DeviceData(*parts)
