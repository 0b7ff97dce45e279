"""The checks of a device that came with a client certificate: by thumbprint, or by a chain to an authority.

That the client has the private key was proven by the TLS handshake; nothing here looks at it.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from muster.core.ambient import iso
from muster.core.certificate_limits import CERTIFICATE_CLOCK_SKEW
from muster.core.errors import DEVICE_UNAUTHORIZED, UNAVAILABLE
from muster.identity.certificates import Certificate, CertificateError, read_chain, thumbprint_digits
from muster.identity.chains import Fault, Found, key_fault, purpose_faults, text_of
from muster.identity.examination import Examination
from muster.identity.mistakes import shown
from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey
from muster.identity.trust import ChainProof, Revoked, Standing, Trust
from muster.identity.verdict import Check, Outcome

SKEW = CERTIFICATE_CLOCK_SKEW.open
_RULES = ("basic-constraints", "key-usage", "extended-key-usage", "path-length", "key-strength", "signature-algorithm")
_NOT_REACHED = "no verified authority was reached"


class Believed(NamedTuple):
    """What a certificate gives when all checks of it passed: until when, and the proof of its chain, or the registered
    thumbprint that was its."""

    until: float
    proof: ChainProof | None = None
    thumbprint: str = ""


class Unsettled(Exception):
    """No error, but a responder has to be asked first: the verdict hangs on what a responder says of ``link``."""

    def __init__(self, until: float, proof: ChainProof, known: Revoked) -> None:
        super().__init__()
        assert known.link is not None
        self.believed, self.proof, self.link, self.seen = Believed(until, proof), proof, known.link, known.seen


def seen_pass(exam: Examination, name: str, expected: str, seen: str) -> None:
    """Record a check that passed, with a text of its own."""
    exam.checks.append(Check(name, Outcome.PASSED, expected, seen))


def read(
    exam: Examination, sent: Sequence[bytes], known: tuple[Certificate, ...] | None = None
) -> tuple[Certificate, ...]:
    """The certificates that came, none when they cannot be read; ``known`` is how they were read before."""
    try:
        chain = known or read_chain(sent)
    except CertificateError as error:
        exam.failed(
            "certificate", "certificate-malformed", DEVICE_UNAUTHORIZED,
            expected="X.509 certificates", seen=shown(str(error)),
        )  # fmt: skip
        return ()
    seen_pass(exam, "certificate", "X.509 certificates", f"{chain[0].subject_text}, {chain[0].key}, {len(chain)} sent")
    exam.passed("possession", "the certificate's private key", "proven by the TLS handshake")
    return chain


def check_kind(exam: Examination, identity: Identity | None) -> bool:
    """Whether the identity takes certificates at all."""
    if identity is None:
        exam.skipped("authentication", "there is no such identity")
        return False
    kind = identity.authentication.type
    if kind in {AuthenticationType.SELF_SIGNED, AuthenticationType.CERTIFICATE_AUTHORITY}:
        exam.passed("authentication", "selfSigned or certificateAuthority", kind.value)
        return True
    if kind is AuthenticationType.NONE:
        cause, expected = "authentication-none", "an identity with keys or a certificate"
    else:
        cause, expected = "certificate-for-sas-identity", "a SAS token"
    exam.failed(
        "authentication", cause, DEVICE_UNAUTHORIZED,
        expected=expected, seen=f"a client certificate; the identity's type is {kind}",
    )  # fmt: skip
    return False


# --- thumbprints


def matching_thumbprint(leaf: Certificate, held: Authentication) -> str:
    """``primary`` or ``secondary``, whichever of the thumbprints is the leaf's; empty for neither."""
    matches = ""
    for slot, text in (("secondary", held.secondary_thumbprint), ("primary", held.primary_thumbprint)):
        digits = thumbprint_digits(text or "")
        if hmac.compare_digest(digits.encode(), (leaf.sha1 if len(digits) == 40 else leaf.sha256).encode()):
            matches = slot
    return matches


def owner_of(leaf: Certificate, others: Sequence[Identity]) -> tuple[str, str] | None:
    """Which of ``others`` has the leaf's thumbprint: the cause and a description."""
    for other in others:
        slot = matching_thumbprint(leaf, other.authentication)
        if slot:
            cause = "thumbprint-of-other-device" if slot == "primary" else "thumbprint-is-secondary-of-other-device"
            return cause, f"the {slot} thumbprint of {other.key}"
    return None


def wrong_thumbprint(chain: Sequence[Certificate], held: Authentication) -> tuple[str, str] | None:
    """The usual mistakes with one's own thumbprint: the cause and a description."""
    for issuer in chain[1:]:
        if matching_thumbprint(issuer, held):
            return "thumbprint-of-issuer", f"the registered one is that of the issuer {issuer.subject_text}"
    return None


def check_leaf_alone(exam: Examination, leaf: Certificate, now: float) -> float:
    """What else is asked of a certificate that is trusted by its thumbprint; until when it is good."""
    until = check_validity(exam, (leaf,), now)
    faults = [*purpose_faults(leaf, chained=False), *filter(None, (key_fault(leaf),))]
    failing = {fault.check: fault for fault in faults}
    for name in ("key-usage", "key-strength"):
        if name in failing:
            _, cause, expected, seen = failing[name]
            exam.failed(name, cause, DEVICE_UNAUTHORIZED, expected=expected, seen=seen)
        else:
            exam.passed(name)
    return until


# --- chains


class Finder(Protocol):
    """Finds the way to what is trusted; ``identity.trust.Trust`` is one."""

    def find(self, sent: Sequence[Certificate]) -> Found | list[Fault]:
        """See ``chains.find``."""
        ...

    def name_of(self, certificate: Certificate) -> str:
        """Under which name the end of a way is registered."""
        ...


def check_chain(exam: Examination, trust: Finder, chain: Sequence[Certificate]) -> Found | None:
    """The way to a verified authority, and each rule on it."""
    found = trust.find(chain)
    if isinstance(found, Found):
        seen_pass(exam, "chain", "a way to a verified authority", text_of(found.path))
        seen_pass(exam, "authority", "a verified authority of the hub", trust.name_of(found.path[-1]))
        for name in _RULES:
            exam.passed(name)
        return found
    failing = {fault.check: fault for fault in found}
    missing = failing.pop("chain", None)
    if missing is not None:
        exam.failed("chain", missing.cause, DEVICE_UNAUTHORIZED, expected=missing.expected, seen=missing.seen)
        for name in ("authority", *_RULES):
            exam.skipped(name, _NOT_REACHED)
        return None
    exam.passed("chain", "a way to a verified authority", "found")
    for name in (*_RULES, "chain-rules"):
        fault = failing.get(name)
        if fault is not None:
            exam.failed(name, fault.cause, DEVICE_UNAUTHORIZED, expected=fault.expected, seen=fault.seen)
        elif name != "chain-rules":
            exam.passed(name)
    return None


def check_validity(exam: Examination, path: Sequence[Certificate], now: float) -> float:
    """Whether each certificate is good at ``now``; until when all of them are, clock skew included."""
    for one in path:
        if now < one.not_before - SKEW:
            exam.failed(
                "validity", "certificate-not-yet-valid", DEVICE_UNAUTHORIZED,
                expected=f"certificates that are good at {iso(now)}",
                seen=f"{one.subject_text} begins at {iso(one.not_before)}",
            )  # fmt: skip
            return now
        if now > one.not_after + SKEW:
            exam.failed(
                "validity", "certificate-expired", DEVICE_UNAUTHORIZED,
                expected=f"certificates that are good at {iso(now)}",
                seen=f"{one.subject_text} ended at {iso(one.not_after)}",
            )  # fmt: skip
            return now
    until = min(one.not_after for one in path)
    seen_pass(exam, "validity", f"good now, {SKEW} s allowed for clocks that differ", f"until {iso(until)}")
    return until + SKEW


def check_common_name(exam: Examination, leaf: Certificate, key: IdentityKey) -> None:
    """The leaf's common name must be the id, to the letter (device.md 6.2)."""
    wanted, names = str(key), leaf.common_names
    if names == (wanted,):
        exam.passed("common-name", "the id", "the same")
        return
    if not names:
        cause, seen = "cn-missing", f"no common name in {leaf.subject_text}"
    elif len(names) > 1:
        cause, seen = "cn-mismatch", f"{len(names)} common names: {shown(', '.join(names))}"
    elif names[0].lower() == wanted.lower():
        cause, seen = "cn-case", shown(names[0])
    elif key.module_id is not None and names[0] in {key.device_id, key.module_id}:
        cause, seen = "cn-without-module", shown(names[0])
    else:
        cause, seen = "cn-mismatch", shown(names[0])
    exam.failed("common-name", cause, DEVICE_UNAUTHORIZED, expected=f"CN={shown(wanted)}", seen=seen)


def check_revocation(exam: Examination, trust: Trust, proof: ChainProof, until: float) -> None:
    """Whether something of the chain was revoked. Raises ``Unsettled`` when a responder has to be asked."""
    authority = trust.rules_of(proof)
    if authority is None:
        raise LookupError("the chain ends at no verified authority")
    known = trust.revocation(proof)
    if known.standing is Standing.REVOKED:
        exam.failed("revocation", "certificate-revoked", DEVICE_UNAUTHORIZED, expected="not revoked", seen=known.seen)
    elif known.standing is Standing.GOOD:
        exam.passed("revocation", "not revoked", "not revoked")
    elif known.standing is Standing.UNASKED:
        exam.skipped("revocation", known.seen)
    elif known.standing is Standing.TO_ASK and exam.error is None:
        raise Unsettled(until, proof, known)
    else:
        unknown(exam, known.seen, fail_closed=authority.rules.fail_closed)


def unknown(exam: Examination, seen: str, *, fail_closed: bool) -> None:
    """Nothing current is known: the authority's rules say what that means."""
    if fail_closed:
        exam.failed("revocation", "revocation-unknown", UNAVAILABLE, expected="current news of it", seen=seen)
    else:
        exam.checks.append(Check("revocation", Outcome.SKIPPED, "", f"{seen}; the authority fails open"))
