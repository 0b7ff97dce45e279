"""Enrollments as the provisioning service's REST API spells them (provisioning.md 7.2 and 7.3)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from muster.core.ambient import iso
from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.dialect.etag import etag_of, match_of
from muster.dialect.json_body import Members
from muster.dialect.registration_bodies import state_body
from muster.identity.certificates import CertificateError, read_certificate
from muster.identity.mistakes import shown
from muster.provisioning.attestation import tpm
from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.attestation.tpm import EndorsementKey
from muster.provisioning.attestation.x509 import Role, X509Certificates, information
from muster.provisioning.enrollments import BulkItem, BulkMode
from muster.provisioning.ids import check_id, normal
from muster.provisioning.model import (
    AllocationKind,
    Attestation,
    AttestationKind,
    Content,
    CustomAllocation,
    DeviceData,
    Enrollment,
    EnrollmentKey,
    EnrollmentKind,
    Registration,
    ReprovisionPolicy,
)
from muster.provisioning.rules import Draft, DraftedAttestation, DraftedCertificates, DraftedKeys, DraftedTpm

ID_NAMES = {EnrollmentKind.INDIVIDUAL: "registrationId", EnrollmentKind.GROUP: "enrollmentGroupId"}
"""The member that holds an enrollment's id."""
LIST_NAMES = {EnrollmentKind.INDIVIDUAL: "enrollments", EnrollmentKind.GROUP: "enrollmentGroups"}
"""What enrollments of a kind are called in paths, queries and bulk calls."""

_STATUS = {"enabled": True, "disabled": False}
_COLLECTION_NOTES = {"$metadata", "$version"}


# --- writing


def enrollment_body(
    one: Enrollment, registration: Registration | None = None, *, with_keys: bool = False
) -> dict[str, Any]:
    """An ``IndividualEnrollment`` or ``EnrollmentGroup``; ``registration`` is that of an individual's device."""
    body: dict[str, Any] = {
        ID_NAMES[one.key.kind]: one.key.id,
        "deviceId": one.device_id or None,
        "attestation": attestation_body(one.attestation, with_keys=with_keys),
        "registrationState": None if registration is None else state_body(registration),
        "optionalDeviceInformation": one.information,
        "capabilities": {"iotEdge": one.iot_edge},
        "iotHubHostName": one.hubs[0] if len(one.hubs) == 1 else None,
        "iotHubs": list(one.hubs) or None,
        "allocationPolicy": None if one.allocation is None else one.allocation.value,
        "customAllocationDefinition": None if one.custom is None else _custom_body(one.custom),
        "initialTwin": None if one.initial_twin is None else _twin_body(one.initial_twin),
        "reprovisionPolicy": None if one.reprovision is None else _reprovision_body(one.reprovision),
        "credentialPolicyName": one.credential_policy or None,
        "provisioningStatus": "enabled" if one.enabled else "disabled",
        "createdDateTimeUtc": iso(one.created),
        "lastUpdatedDateTimeUtc": iso(one.updated),
        "etag": etag_of(one.version),
    }
    return {name: value for name, value in body.items() if value is not None}


def attestation_body(held: Attestation, *, with_keys: bool) -> dict[str, Any]:
    """An ``AttestationMechanism``; ``with_keys`` shows what is secret in it."""
    body: dict[str, Any] = {"type": held.kind.value}
    if isinstance(held, SymmetricKeys):
        if with_keys:
            body["symmetricKey"] = {"primaryKey": held.primary, "secondaryKey": held.secondary}
    elif isinstance(held, X509Certificates):
        spell = _reference_body if held.role is Role.REFERENCES else _certificate_body
        body["x509"] = {held.role.value: {slot: spell(content) for slot, content in held.slots}}
    elif isinstance(held, EndorsementKey):
        storage = {"storageRootKey": tpm.text(held.storage)} if held.storage else {}
        body["tpm"] = {"endorsementKey": tpm.text(held.public), **storage}
    return body


def _reference_body(name: bytes) -> str:
    return name.decode()


def _certificate_body(der: bytes) -> dict[str, Any]:
    """Certificates are told by what stands in them; they come back with ``certificate`` null."""
    try:
        return {"certificate": None, "info": information(read_certificate(der))}
    except CertificateError:  # of a service that took what this one does not
        return {"certificate": base64.b64encode(der).decode()}


def _custom_body(custom: CustomAllocation) -> dict[str, Any]:
    return {"webhookUrl": custom.url, "apiVersion": custom.api_version}


def _twin_body(twin: DeviceData) -> dict[str, Any]:
    return {"tags": twin.tags, "properties": {"desired": twin.desired}}


def _reprovision_body(policy: ReprovisionPolicy) -> dict[str, Any]:
    return {"updateHubAssignment": policy.update_hub, "migrateDeviceData": policy.migrate_data}


def webhook_body(enrollment: Enrollment, context: Content, hosts: Sequence[str]) -> dict[str, Any]:
    """An ``AllocationRequest``: what a custom allocation's webhook is asked (provisioning.md 7.4)."""
    member = "enrollmentGroup" if enrollment.key.kind is EnrollmentKind.GROUP else "individualEnrollment"
    record = enrollment_body(enrollment)
    record["etag"] = f'"{record["etag"]}"'
    return {member: record, "deviceRuntimeContext": dict(context), "linkedHubs": list(hosts)}


# --- reading


def read_enrollment(body: Members, key: EnrollmentKey) -> Draft:
    """The enrollment ``key`` in a body, whose id must be the same. Raises ``HubError`` 400004, 400005."""
    name = ID_NAMES[key.kind]
    if normal(body.needed_text(name)) != key.id:
        raise HubError(ARGUMENT_INVALID, f"{name} is not the one in the address, give the same.")
    legacy = body.text("iotHubHostName")
    hubs = body.texts("iotHubs") or ((legacy,) if legacy else ())
    reprovision, custom, twin = (
        body.members(name) for name in ("reprovisionPolicy", "customAllocationDefinition", "initialTwin")
    )
    information = body.any("optionalDeviceInformation")
    if information is not None and not isinstance(information, dict):
        raise HubError(ARGUMENT_INVALID, "optionalDeviceInformation must be an object.")
    return Draft(
        key=key,
        attestation=_read_attestation(body.members("attestation")),
        device_id=(body.text("deviceId") or "") if key.kind is EnrollmentKind.INDIVIDUAL else "",
        enabled=_read_status(body.text("provisioningStatus")),
        iot_edge=body.members("capabilities").flag("iotEdge"),
        hubs=tuple(host.lower() for host in hubs),
        allocation=body.choice("allocationPolicy", AllocationKind),
        custom=_read_custom(custom) if custom else None,
        reprovision=_read_reprovision(reprovision) if reprovision else None,
        initial_twin=_read_twin(twin) if twin else None,
        information=information,
        credential_policy=body.text("credentialPolicyName") or "",
    )


def _read_status(text: str | None) -> bool:
    if text is None:
        return True
    if text.lower() not in _STATUS:
        raise HubError(ARGUMENT_INVALID, "provisioningStatus must be one of enabled, disabled.")
    return _STATUS[text.lower()]


def _read_custom(body: Members) -> CustomAllocation:
    return CustomAllocation(body.needed_text("webhookUrl"), body.needed_text("apiVersion"))


def _read_reprovision(body: Members) -> ReprovisionPolicy:
    default = ReprovisionPolicy()
    update, migrate = (
        body.flag(name) if body.any(name) is not None else preset
        for name, preset in (("updateHubAssignment", default.update_hub), ("migrateDeviceData", default.migrate_data))
    )
    return ReprovisionPolicy(update, migrate)


def _read_twin(body: Members) -> DeviceData:
    """An ``InitialTwin``; what SDKs note beside the values of a collection is passed over."""
    return DeviceData(
        *(
            {}
            if part is None
            else {name: value for name, value in _object(part, place).items() if name not in _COLLECTION_NOTES}
            for place, part in (
                ("initialTwin.tags", body.any("tags")),
                ("initialTwin.properties.desired", body.members("properties").any("desired")),
            )
        )
    )


def _object(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise HubError(ARGUMENT_INVALID, f"{place} must be an object.")
    return value


def _read_attestation(body: Members) -> DraftedAttestation:
    if not body:
        raise HubError(ARGUMENT_NULL, "attestation is missing, say how the device proves who it is.")
    kind = body.choice("type", AttestationKind)
    if kind is None:
        raise HubError(ARGUMENT_NULL, f"attestation.type is missing, give one of {', '.join(AttestationKind)}.")
    if kind is AttestationKind.SYMMETRIC_KEY:
        keys = body.members("symmetricKey")
        return DraftedKeys(keys.text("primaryKey") or "", keys.text("secondaryKey") or "")
    if kind is AttestationKind.X509:
        return _read_certificates(body.members("x509"))
    chip = body.members("tpm")
    return DraftedTpm(chip.text("endorsementKey") or "", chip.text("storageRootKey") or "")


def _read_certificates(body: Members) -> DraftedCertificates:
    given = [role for role in Role if body.members(role.value)]
    if not given:
        return DraftedCertificates()
    if len(given) > 1:
        raise HubError(ARGUMENT_INVALID, f"attestation.x509 holds {' and '.join(given)}, give one of them.")
    (role,) = given
    members = body.members(role.value)
    if role is Role.REFERENCES:
        texts = [members.text(slot) or "" for slot in ("primary", "secondary")]
    else:
        texts = [members.members(slot).text("certificate") or "" for slot in ("primary", "secondary")]
    return DraftedCertificates(role, texts[0].encode(), texts[1].encode())


# --- bulk


def read_bulk(body: Members, kind: EnrollmentKind) -> tuple[BulkMode, list[BulkItem | tuple[EnrollmentKey, HubError]]]:
    """A bulk call: its mode and items; an item that cannot be read, though its id can, comes with why.

    Raises ``HubError`` 400004, 400005 for the whole call.
    """
    mode = body.choice("mode", BulkMode)
    if mode is None:
        raise HubError(ARGUMENT_NULL, f"mode is missing, give one of {', '.join(BulkMode)}.")
    name = LIST_NAMES[kind]
    entries = body.items(name)
    if not entries:
        raise HubError(ARGUMENT_NULL, f"{name} is missing or empty, give at least one.")
    items: list[BulkItem | tuple[EnrollmentKey, HubError]] = []
    for position, entry in enumerate(entries):
        one = Members.of(entry, f"{name}[{position}]", f"{name}[{position}].")
        key = EnrollmentKey(kind, check_id(f"{name}[{position}].{ID_NAMES[kind]}", one.needed_text(ID_NAMES[kind])))
        etag = one.text("etag")
        try:
            draft = None if mode is BulkMode.DELETE else read_enrollment(one, key)
        except HubError as error:
            items.append((key, error))
        else:
            items.append(BulkItem(key, draft, match_of(etag.strip('"')) if etag else None))
    return mode, items


def bulk_body(outcomes: Sequence[tuple[EnrollmentKey, HubError | None]]) -> dict[str, Any]:
    """A ``BulkEnrollmentOperationResult``."""
    errors = [
        {ID_NAMES[key.kind]: key.id, "errorCode": error.row.code, "errorStatus": shown(error.message)}
        for key, error in outcomes
        if error is not None
    ]
    return {"isSuccessful": not errors, "errors": errors}
