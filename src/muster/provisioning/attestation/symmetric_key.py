"""Symmetric keys: a device signs a SAS token with the key of its enrollment, or with one derived from its group's
(provisioning.md 6.1)."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.errors import UNAUTHORIZED
from muster.identity import sas
from muster.identity.examination import Examination
from muster.identity.keys import Credentials
from muster.identity.mistakes import KeyHolder, missigned, misused_key, shown
from muster.identity.model import AuthenticationType
from muster.identity.sas import SasToken
from muster.provisioning.attempt import Attested
from muster.provisioning.ids import normal
from muster.provisioning.model import AttestationKind, Enrollment

_PATH = "registrations"


@dataclass(frozen=True, slots=True)
class SymmetricKeys:
    """The keys of an enrollment, base64 text; either signs."""

    primary: str
    secondary: str
    kind = AttestationKind.SYMMETRIC_KEY

    def __repr__(self) -> str:
        return "SymmetricKeys()"

    def stored(self) -> dict[str, Any]:
        """See ``model.Attestation``."""
        return {"primary": self.primary, "secondary": self.secondary}

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> SymmetricKeys:
        """What ``stored`` gave."""
        return cls(content["primary"], content["secondary"])


def derive(group_key: str, registration_id: str) -> str:
    """The key of a device of a group: base64 of HMAC-SHA256, by the group's key, of the id exactly as it is written.

    Raises ``ValueError`` when ``group_key`` is not base64.
    """
    secret = sas.decode_key(group_key)
    if secret is None:
        raise ValueError("the group's key is not base64")
    return _derived(secret, registration_id)


def _derived(secret: bytes, registration_id: str) -> str:
    return base64.b64encode(hmac.digest(secret, registration_id.encode(), "sha256")).decode()


def check_resource(exam: Examination, scope: str, registration_id: str, token: SasToken) -> None:
    """Whether the token was made for this registration; ``skn`` does not count. ``sr`` is compared without case."""
    expected = f"sr={scope}/{_PATH}/{shown(registration_id)}"
    wanted = (scope.lower(), (_PATH, normal(registration_id)))
    if any((reading.host, reading.path) == wanted for reading in token.readings):
        exam.passed("token-resource", "the registration", "the registration")
        return
    first = token.readings[0]
    if first.path[:1] == ("devices",) or (not first.path and token.policy is not None):
        cause = "hub-token-on-provisioning"
    elif first.path[:1] != (_PATH,) or len(first.path) != 2:
        cause = "token-resource-malformed"
    else:
        cause = "token-scope-differs" if first.host != scope.lower() else "token-registration-differs"
    exam.failed("token-resource", cause, UNAUTHORIZED, expected=expected, seen=f"sr={shown(token.resource)}")


def check_individual(
    exam: Examination, enrollment: Enrollment, keys: SymmetricKeys, token: SasToken
) -> Attested | None:
    """Whether a key of the enrollment signed."""
    match = sas.matching_key(token, keys.primary, keys.secondary)
    if match is not None:
        exam.passed("signature", "by a key of the enrollment", f"{match.slot} key")
        return _attested(keys.primary, keys.secondary, {})
    cause, seen = missigned(token, keys.primary, keys.secondary) or _derived_by_mistake(enrollment, keys, token)
    exam.failed("signature", cause, UNAUTHORIZED, expected="by a key of the enrollment", seen=seen)
    return None


def _derived_by_mistake(enrollment: Enrollment, keys: SymmetricKeys, token: SasToken) -> tuple[str, str]:
    """Some derive a key where the enrollment is the device's own."""
    for slot, key in (("primary", keys.primary), ("secondary", keys.secondary)):
        secret = sas.decode_key(key)
        if secret is not None and _signed(token, _derived(secret, enrollment.key.id)):
            return "wrong-enrollment-key", f"by a key derived from the {slot} key, which is the device's own"
    return "wrong-enrollment-key", "by another key"


def matching_group(
    groups: Iterable[Enrollment], registration_id: str, token: SasToken
) -> tuple[Enrollment, Attested] | None:
    """The first of ``groups`` from whose key the signing key derives, and what that gives the device."""
    name = registration_id.encode()
    for group in groups:
        keys = group.attestation
        assert isinstance(keys, SymmetricKeys)
        derived: list[str] = []
        matches = False
        for key in (keys.primary, keys.secondary):
            own = hmac.digest(sas.decode_key(key) or b"", name, "sha256")
            matches = sas.signed_by(token, own) or matches
            derived.append(base64.b64encode(own).decode())
        if matches:
            return group, _attested(derived[0], derived[1], {"enrollmentGroupId": group.key.id})
    return None


def group_mistake(groups: Iterable[Enrollment], registration_id: str, token: SasToken) -> tuple[str, str]:
    """Why no group's key derives to the one that signed: the cause and a description."""
    for group in groups:
        keys = group.attestation
        assert isinstance(keys, SymmetricKeys)
        who = f"the group {group.key.id}"
        found = misused_key(token, [KeyHolder("group-key-used", who, keys.primary, keys.secondary)])
        if found is not None:
            return found
        for slot, key in (("primary", keys.primary), ("secondary", keys.secondary)):
            secret = sas.decode_key(key) or b""
            for other in {registration_id.lower(), registration_id.upper()} - {registration_id}:
                if _signed(token, _derived(secret, other)):
                    return "derived-from-other-id", f"by the key of {shown(other)!r}, from the {slot} key of {who}"
            if _signed(token, _derived(key.encode(), registration_id)):
                return "derived-with-key-as-text", f"by a key derived with the text of the {slot} key of {who}"
            found = missigned(token, _derived(secret, registration_id), None)
            if found is not None:
                cause, _ = found
                return cause, f"the device's key, from the {slot} key of {who}, put to use wrongly"
    return "derived-key-unknown", "by a key that derives from no group's"


def _signed(token: SasToken, key: str) -> bool:
    return sas.matching_key(token, key, None) is not None


def _attested(primary: str, secondary: str, told: Mapping[str, Any]) -> Attested:
    credentials = Credentials(AuthenticationType.SAS, primary_key=primary, secondary_key=secondary)
    return Attested(credentials, {"symmetricKey": dict(told)}, {"symmetricKey": {}})
