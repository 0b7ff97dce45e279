"""Registrations as devices and services see them (provisioning.md 5)."""

from __future__ import annotations

import base64
from typing import Any, NamedTuple

from muster.core.ambient import iso, shown_id
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.etag import etag_of
from muster.dialect.json_body import Members
from muster.provisioning.attempt import ChallengedError
from muster.provisioning.model import Registration, RegistrationStatus, Substatus


class DeviceRegistration(NamedTuple):
    """What a device sends: its registration id (empty: not said), its own payload, the keys of its TPM as TPM2B_PUBLIC
    and a signing request in DER (empty: none)."""

    registration_id: str = ""
    payload: Any = None
    endorsement_key: bytes = b""
    storage_root_key: bytes = b""
    csr: bytes = b""


def read_registration(body: Members) -> DeviceRegistration:
    """A ``DeviceRegistration``. Raises ``HubError`` 400004, also for a signing request in the form of the preview of
    2021: an answer without the certificate would leave the device without one."""
    if body.any("clientCertificateCsr") is not None:
        raise HubError(ARGUMENT_INVALID, "clientCertificateCsr is of a preview that was withdrawn, send csr.")
    chip = body.members("tpm")
    return DeviceRegistration(
        body.text("registrationId") or "", body.any("payload"), _binary(chip, "endorsementKey", "tpm."),
        _binary(chip, "storageRootKey", "tpm."), _binary(body, "csr"),
    )  # fmt: skip


def _binary(body: Members, name: str, path: str = "") -> bytes:
    try:
        return base64.b64decode(body.text(name) or "", validate=True)
    except ValueError:
        raise HubError(ARGUMENT_INVALID, f"{path}{name} is not base64.") from None


def operation_body(registration: Registration) -> dict[str, Any]:
    """A ``RegistrationOperationStatus``."""
    return {
        "operationId": registration.operation_id,
        "status": registration.status.value,
        "registrationState": device_state_body(registration),
    }


def disabled_body(registration_id: str) -> dict[str, Any]:
    """What a device hears whose enrollment is disabled: no error (provisioning.md 5.3)."""
    status = RegistrationStatus.DISABLED.value
    state = {"registrationId": registration_id, "status": status}
    return {"operationId": "", "status": status, "registrationState": state}


def error_body(error: HubError, tracking_id: str, moment: float) -> dict[str, Any]:
    """A refusal (provisioning.md 5.5); to a TPM the challenge is in it (6.4)."""
    challenge: dict[str, Any] = {}
    if isinstance(error, ChallengedError):
        challenge = {"authenticationKey": base64.b64encode(error.key).decode(), "keyName": "registration"}
    return challenge | {
        "errorCode": error.row.code,
        "trackingId": shown_id(tracking_id[:32]),
        "message": error.message,
        "timestampUtc": iso(moment),
    }


def state_body(registration: Registration) -> dict[str, Any]:
    """A ``DeviceRegistrationState`` for services."""
    substatus: Substatus | None = registration.substatus
    body: dict[str, Any] = {
        "registrationId": registration.registration_id,
        "createdDateTimeUtc": iso(registration.created),
        "assignedHub": registration.assigned_hub or None,
        "deviceId": registration.device_id or None,
        "status": registration.status.value,
        "substatus": None if substatus is None else substatus.value,
        "errorCode": registration.error_code or None,
        "errorMessage": registration.error_message or None,
        "lastUpdatedDateTimeUtc": iso(registration.updated),
        "payload": registration.payload,
        "etag": etag_of(registration.version),
    }
    return {name: value for name, value in body.items() if value is not None}


def device_state_body(registration: Registration) -> dict[str, Any]:
    """A ``DeviceRegistrationResult``: as ``state_body``, with what the device is told of its proof once it is assigned.
    Before that little is known, and clients want the id and the status."""
    if registration.status is RegistrationStatus.ASSIGNING:
        status = registration.status.value
        return {"registrationId": registration.registration_id, "status": status}
    body = state_body(registration)
    body["etag"] = base64.b64encode(f'"{body["etag"]}"'.encode()).decode()
    return {**registration.attested, **body} if registration.status is RegistrationStatus.ASSIGNED else body
