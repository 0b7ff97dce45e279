"""What may stand in an enrollment, and what becomes of a draft that leaves keys or certificates out."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.core.limits import TWIN_PROPERTIES, TWIN_TAGS
from muster.identity.certificates import CertificateError, read_upload
from muster.identity.ids import check_id as check_device_id
from muster.identity.keys import check_symmetric_key, generate_key
from muster.identity.mistakes import shown
from muster.provisioning.attestation.activation import TpmKeyError, read_key
from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.attestation.tpm import EndorsementKey
from muster.provisioning.attestation.x509 import Role, X509Certificates
from muster.provisioning.model import (
    AllocationKind,
    Attestation,
    Content,
    CustomAllocation,
    DeviceData,
    Enrollment,
    EnrollmentKey,
    EnrollmentKind,
    ReprovisionPolicy,
)
from muster.twins.rules import DESIRED, TAGS, check_content, check_size

_URL = re.compile(r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?", re.ASCII)
_LONGEST_URL = 2048
_OLDEST_WEBHOOK = "2018-09-01-preview"
_AUTHORITY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class DraftedKeys:
    """Symmetric keys as a caller gives them, empty for those that are left out."""

    primary: str = field(default="", repr=False)
    secondary: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class DraftedCertificates:
    """Certificates as a caller gives them: PEM, DER or either in base64, or names of authorities; empty for those that
    are left out. ``role`` is ``None`` where even that is left open."""

    role: Role | None = None
    primary: bytes = field(default=b"", repr=False)
    secondary: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class DraftedTpm:
    """The public keys of a TPM as a caller gives them, TPM2B_PUBLIC in base64; empty for those that are left out."""

    endorsement: str = ""
    storage: str = ""


DraftedAttestation = DraftedKeys | DraftedCertificates | DraftedTpm


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a caller wants an enrollment to be; see ``model.Enrollment``. All of it replaces what was there, but for
    keys and certificates that are left out."""

    key: EnrollmentKey
    attestation: DraftedAttestation
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


def check(draft: Draft, linked: Collection[str]) -> None:
    """Refuse a draft that is wrong by itself; ``linked`` are the host names of the linked hubs, in lower case.

    Raises ``HubError`` 400004 or 400005 naming the field.
    """
    if draft.device_id:
        check_device_id("deviceId", draft.device_id)
    for position, host in enumerate(draft.hubs):
        if host not in linked:
            raise HubError(
                ARGUMENT_INVALID, f"iotHubs[{position}] is {shown(host)}, linked are: {', '.join(sorted(linked))}."
            )
    if draft.allocation is AllocationKind.CUSTOM and draft.custom is None:
        raise HubError(
            ARGUMENT_INVALID, "A CustomAllocationDefinition is required when the allocation policy is set to 'Custom'"
        )
    if draft.allocation is AllocationKind.STATIC and not draft.hubs:
        raise HubError(ARGUMENT_NULL, "iotHubs is empty, allocationPolicy static needs the hub's host name there.")
    if draft.custom is not None:
        _check_webhook(draft.custom)
    if draft.initial_twin is not None:
        for place, content, most in (
            (f"initialTwin.{TAGS}", draft.initial_twin.tags, TWIN_TAGS),
            (f"initialTwin.{DESIRED}", draft.initial_twin.desired, TWIN_PROPERTIES),
        ):
            check_content(place, content)
            check_size(place, content, most)
    attestation, group = draft.attestation, draft.key.kind is EnrollmentKind.GROUP
    if isinstance(attestation, DraftedKeys):
        for what, key in (("primaryKey", attestation.primary), ("secondaryKey", attestation.secondary)):
            if key:
                check_symmetric_key(f"attestation.symmetricKey.{what}", key)
    elif isinstance(attestation, DraftedTpm):
        if group:
            raise HubError(ARGUMENT_INVALID, "attestation.type tpm is for the enrollment of one device.")
    elif group and attestation.role is Role.CLIENT:
        raise HubError(
            ARGUMENT_INVALID,
            "attestation.x509.clientCertificates is for the enrollment of one device; a group takes "
            "signingCertificates or caReferences.",
        )
    elif not group and attestation.role is Role.SIGNING:
        raise HubError(
            ARGUMENT_INVALID,
            "attestation.x509.signingCertificates is for a group; the enrollment of one device takes "
            "clientCertificates or caReferences.",
        )


def _check_webhook(custom: CustomAllocation) -> None:
    if not _URL.fullmatch(custom.url) or len(custom.url) > _LONGEST_URL:
        raise HubError(
            ARGUMENT_INVALID, "customAllocationDefinition.webhookUrl is not http:// or https://, correct it."
        )
    if custom.api_version < _OLDEST_WEBHOOK:
        raise HubError(
            ARGUMENT_INVALID, f"customAllocationDefinition.apiVersion is older than {_OLDEST_WEBHOOK}, give that one."
        )


def fresh_keys(ambient: Ambient) -> tuple[str, str]:
    """Keys for an enrollment that brings none."""
    return generate_key(ambient), generate_key(ambient)


def settle(draft: Draft, present: Enrollment | None, spare: tuple[str, str]) -> Enrollment:
    """``draft`` as an enrollment over ``present``; ``spare`` are keys to take where there are none.

    A primary certificate that is left out, as in an enrollment that was read, leaves the present ones. Raises
    ``HubError`` 400004 or 400005 naming what is wrong with the attestation.
    """
    kept = None if present is None else present.attestation
    given = draft.attestation
    if isinstance(given, DraftedKeys):
        settled = _settle_keys(given, kept, spare)
    elif isinstance(given, DraftedTpm):
        settled = _settle_tpm(given, kept, spare)
    else:
        settled = _settle_certificates(given, kept)
    return Enrollment(
        key=draft.key, attestation=settled, device_id=draft.device_id, enabled=draft.enabled, iot_edge=draft.iot_edge,
        hubs=draft.hubs, allocation=draft.allocation, custom=draft.custom, reprovision=draft.reprovision,
        initial_twin=draft.initial_twin, information=draft.information, credential_policy=draft.credential_policy,
    )  # fmt: skip


def _settle_keys(given: DraftedKeys, kept: Attestation | None, spare: tuple[str, str]) -> Attestation:
    primary, secondary = (kept.primary, kept.secondary) if isinstance(kept, SymmetricKeys) else spare
    return SymmetricKeys(given.primary or primary, given.secondary or secondary)


def _settle_tpm(given: DraftedTpm, kept: Attestation | None, spare: tuple[str, str]) -> Attestation:
    """The secret stays as long as the endorsement key does."""
    present = kept if isinstance(kept, EndorsementKey) else None
    public = _settle_tpm_key("endorsementKey", given.endorsement) or (b"" if present is None else present.public)
    if not public:
        raise HubError(ARGUMENT_NULL, "attestation.tpm.endorsementKey is missing.")
    if present is not None and present.public == public:
        return replace(present, storage=_settle_tpm_key("storageRootKey", given.storage) or present.storage)
    return EndorsementKey(public, base64.b64decode(spare[0]), _settle_tpm_key("storageRootKey", given.storage))


def _settle_tpm_key(name: str, given: str) -> bytes:
    if not given:
        return b""
    try:
        blob = base64.b64decode(given, validate=True)
        read_key(blob)
    except binascii.Error:
        raise HubError(ARGUMENT_INVALID, f"attestation.tpm.{name} is not base64.") from None
    except TpmKeyError as error:
        raise HubError(ARGUMENT_INVALID, f"attestation.tpm.{name} cannot be taken: {error}.") from None
    return blob


def _settle_certificates(given: DraftedCertificates, kept: Attestation | None) -> Attestation:
    if not given.primary and not given.secondary:
        if isinstance(kept, X509Certificates) and given.role in {None, kept.role}:
            return kept
        raise HubError(
            ARGUMENT_NULL,
            "attestation.x509 holds no certificate, give clientCertificates, signingCertificates or caReferences.",
        )
    assert given.role is not None
    place = f"attestation.x509.{given.role.value}"
    if not given.primary:
        raise HubError(ARGUMENT_NULL, f"{place}.primary is missing.")
    primary = _settle_one(f"{place}.primary", given.role, given.primary)
    secondary = _settle_one(f"{place}.secondary", given.role, given.secondary) if given.secondary else b""
    return X509Certificates(given.role, primary, secondary)


def _settle_one(place: str, role: Role, content: bytes) -> bytes:
    """The certificate in DER, or the authority's name."""
    if role is Role.REFERENCES:
        if not _AUTHORITY_NAME.fullmatch(content.decode("utf-8", "replace")):
            raise HubError(ARGUMENT_INVALID, f"{place} is not the name of a certificate authority, see muster ca list.")
        return content
    try:
        certificate = read_upload(content)
    except CertificateError as error:
        raise HubError(ARGUMENT_INVALID, f"{place} cannot be taken: {error}.") from None
    if role is Role.SIGNING and not certificate.authority:
        raise HubError(
            ARGUMENT_INVALID,
            f"{place} is no authority's certificate, give one with basicConstraints CA:TRUE; a device's own goes into "
            "its enrollment.",
        )
    return certificate.der
