"""TPM: a device shows the keys of its chip, and signs with a key that only this chip could take in (provisioning.md
6.3).

Nothing is kept of a challenge: its key derives from a secret of the enrollment and the hour. So whoever asks in a
device's name, whose endorsement key is no secret, displaces nothing, and a device that polls is known after a restart.
The key for the hub derives likewise, from the storage root key too: a TPM that was cleared gets another one.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from muster.core.errors import UNAUTHORIZED
from muster.core.provisioning_limits import TPM_CHALLENGE_VALIDITY
from muster.identity import sas
from muster.identity.certificate_checks import seen_pass
from muster.identity.examination import Examination
from muster.identity.keys import Credentials
from muster.identity.mistakes import missigned
from muster.identity.model import AuthenticationType
from muster.identity.sas import SasToken
from muster.provisioning.attempt import Attempt, Attested
from muster.provisioning.attestation.activation import TpmKey, TpmKeyError, read_key, wrap
from muster.provisioning.ids import normal
from muster.provisioning.model import AttestationKind

CHALLENGED = "tpm-challenged"
"""The cause of a refusal that is half of an attestation."""


@dataclass(frozen=True, slots=True)
class EndorsementKey:
    """What an enrollment holds of a TPM: the public endorsement key, a TPM2B_PUBLIC, and a secret to derive keys from.

    ``storage`` is the storage root key that the caller gave. It is told again and never compared: who clears the TPM
    gets another one (provisioning.md 6.3).
    """

    public: bytes
    secret: bytes = field(repr=False)
    storage: bytes = b""
    kind = AttestationKind.TPM

    def stored(self) -> dict[str, Any]:
        """See ``model.Attestation``."""
        return {"public": text(self.public), "secret": text(self.secret), "storage": text(self.storage)}

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> EndorsementKey:
        """What ``stored`` gave."""
        return cls(*(base64.b64decode(content[name]) for name in ("public", "secret", "storage")))


def text(blob: bytes) -> str:
    """As the wire has it: base64."""
    return base64.b64encode(blob).decode()


def check_keys(exam: Examination, held: EndorsementKey, attempt: Attempt) -> tuple[TpmKey, TpmKey] | None:
    """Whether the keys that came are those of the enrolled TPM; ``None`` unless both are good. They need not come with
    a token, as who has signed it has taken in a key by them."""
    if not attempt.endorsement_key:
        exam.skipped("endorsement-key", "it came with an earlier question")
        return None
    if attempt.endorsement_key != held.public:
        exam.failed(
            "endorsement-key", "endorsement-key-differs", UNAUTHORIZED,
            expected=f"the enrolled one, SHA-256 {_digest(held.public)}",
            seen=f"SHA-256 {_digest(attempt.endorsement_key)}",
        )  # fmt: skip
        return None
    exam.passed("endorsement-key", "the enrolled one", "the same")
    try:
        storage = read_key(attempt.storage_root_key)
    except TpmKeyError as error:
        exam.failed(
            "storage-root-key", "storage-root-key-malformed", UNAUTHORIZED,
            expected="a storage key of a TPM", seen=str(error) if attempt.storage_root_key else "none",
        )  # fmt: skip
        return None
    exam.passed("storage-root-key", "a storage key of a TPM", "well formed")
    return read_key(held.public), storage


def challenge(
    held: EndorsementKey, keys: tuple[TpmKey, TpmKey], attempt: Attempt, now: float,
    random_bytes: Callable[[int], bytes],
) -> bytes:  # fmt: skip
    """The key that a token is to be signed with, for this TPM only."""
    return wrap(_challenge_key(held, attempt.registration_id, _period(now)), *keys, random_bytes)


def check_signature(exam: Examination, held: EndorsementKey, registration_id: str, token: SasToken, now: float) -> bool:
    """Whether the TPM signed, with the key of a challenge that is still good."""
    key, before = (text(_challenge_key(held, registration_id, _period(now) - back)) for back in (0, 1))
    if sas.matching_key(token, key, before) is not None:
        exam.passed("signature", "by the TPM, with the key of its challenge", "the same")
        return True
    cause, seen = missigned(token, key, before) or ("challenge-key-differs", "by another key, or one that is too old")
    exam.failed("signature", cause, UNAUTHORIZED, expected="by the TPM, with the key of its challenge", seen=seen)
    return False


def attested(
    held: EndorsementKey, keys: tuple[TpmKey, TpmKey], attempt: Attempt, random_bytes: Callable[[int], bytes]
) -> Attested:
    """What it gives: a key for the hub, in the form that only this TPM can take in."""
    key = _derived(held, "hub", attempt.registration_id, keys[1].name)
    credentials = Credentials(AuthenticationType.SAS, primary_key=text(key), secondary_key=text(key))
    shown = {"endorsementKey": text(attempt.endorsement_key), "storageRootKey": text(attempt.storage_root_key)}
    return Attested(credentials, {"tpm": {"authenticationKey": text(wrap(key, *keys, random_bytes))}}, {"tpm": shown})


def note_challenge(exam: Examination) -> None:
    """No token came: the device is asked for one."""
    exam.failed(
        "signature", CHALLENGED, UNAUTHORIZED, expected="a token signed with the key of the challenge", seen="none yet"
    )


def note_keys(exam: Examination, attempt: Attempt) -> None:
    """The device has shown the keys of its TPM in the place of a token."""
    seen_pass(exam, "credential", "the keys of a TPM", f"endorsement key, SHA-256 {_digest(attempt.endorsement_key)}")


def _digest(blob: bytes) -> str:
    return sha256(blob).hexdigest()


def _period(now: float) -> int:
    return int(now // TPM_CHALLENGE_VALIDITY.open)


def _challenge_key(held: EndorsementKey, registration_id: str, period: int) -> bytes:
    return _derived(held, "challenge", registration_id, str(period).encode())


def _derived(held: EndorsementKey, purpose: str, registration_id: str, more: bytes) -> bytes:
    named = f"{purpose}\0{normal(registration_id)}\0".encode()
    return hmac.digest(held.secret, named + held.public + more, "sha256")
