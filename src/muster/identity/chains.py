"""Certificate chains: from what a device sent to an authority that the hub trusts, and the rules on the way.

Which library judges what (the table in clients.md, "Verifying device chains"): cryptography's own verifier asks of
devices' certificates what the web asks of servers' (a SAN, an AKI) and refuses those that people have, so it is not
used. Here the path is found and each rule checked by itself, because a refusal must have a name; then OpenSSL's
``X509Store`` judges the same path once more, with ``PARTIAL_CHAIN`` and that one authority as its only anchor, and
both must agree: OpenSSL knows name constraints, unknown critical extensions and what else nobody thought of here.
It is told not to look at the clock: validity is checked by ``examination`` of each attempt, by the hub's own.

What is found does not depend on time and may be remembered; validity and revocation are never remembered with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from OpenSSL import crypto

from muster.core.certificate_limits import CHAIN_CERTIFICATES
from muster.identity.certificates import BROKEN_DIGESTS, Certificate

LEAST_RSA_BITS, LEAST_EC_BITS = 2048, 256
_NO_CHECK_TIME = 0x200000
"""``X509_V_FLAG_NO_CHECK_TIME``, which pyOpenSSL has no name for."""
_SIGNATURE_CHECKS = 24
"""Signatures verified while one chain is looked for; real chains need three."""
_MOST_PATHS = 8


class Fault(NamedTuple):
    """A rule that a chain breaks: the name of the check and of the cause, and what was expected and seen."""

    check: str
    cause: str
    expected: str
    seen: str


class Found(NamedTuple):
    """The way to an authority. ``path`` begins with the leaf and ends with the authority, which may be the same."""

    path: tuple[Certificate, ...]


class Anchors:
    """The authorities of a hub: those it trusts, and those that are registered and not verified yet."""

    def __init__(self, verified: Mapping[str, Certificate], unverified: Mapping[str, Certificate]) -> None:
        """By the name under which they are registered."""
        self.trusted = {one.sha256: name for name, one in verified.items()}
        self.unverified = {one.sha256: name for name, one in unverified.items()}
        self._by_subject: dict[bytes, list[Certificate]] = {}
        for one in (*verified.values(), *unverified.values()):
            self._by_subject.setdefault(one.subject, []).append(one)

    def named(self, subject: bytes) -> Sequence[Certificate]:
        """The registered authorities of this name, trusted ones first."""
        return self._by_subject.get(subject, ())

    def __bool__(self) -> bool:
        return bool(self._by_subject)


class _Search:
    """Walks from a leaf towards the authorities, each issuer tried that fits, until the budget is spent."""

    def __init__(self, sent: Sequence[Certificate], anchors: Anchors) -> None:
        self._sent = sent
        self._anchors = anchors
        self._left = _SIGNATURE_CHECKS
        self._known: dict[tuple[str, str], bool] = {}
        self.ends: list[tuple[tuple[Certificate, ...], bool]] = []
        """Ways that lead nowhere, and whether something that bears the issuer's name was there."""

    def paths(self, path: tuple[Certificate, ...]) -> Iterator[tuple[Certificate, ...]]:
        top = path[-1]
        if top.sha256 in self._anchors.trusted:
            yield path
            return
        if len(path) > CHAIN_CERTIFICATES.open:
            return
        named, further = False, False
        for issuer in self._issuers(top):
            if any(issuer.sha256 == one.sha256 for one in path):
                continue
            named = True
            if self._signed(top, issuer):
                further = True
                yield from self.paths((*path, issuer))
        if not further:
            self.ends.append((path, named))

    def _issuers(self, top: Certificate) -> Iterable[Certificate]:
        registered = self._anchors.named(top.issuer)
        known = {one.sha256 for one in registered}
        sent = [one for one in self._sent if one.subject == top.issuer and one.sha256 not in known]
        return (*registered, *sent)

    def _signed(self, top: Certificate, issuer: Certificate) -> bool:
        pair = top.sha256, issuer.sha256
        if pair not in self._known:
            if self._left <= 0:
                return False
            self._left -= 1
            self._known[pair] = top.signed_by(issuer)
        return self._known[pair]


def find(sent: Sequence[Certificate], anchors: Anchors) -> Found | list[Fault]:
    """The first way from ``sent[0]`` to a trusted authority that keeps all rules; the others of ``sent`` may help,
    in any order. Otherwise what is wrong: with the first way, or why there is none."""
    straight = _straight_way(sent, anchors)
    if straight is not None:
        return Found(straight)
    search = _Search(sent[1:], anchors)
    first: list[Fault] = []
    for number, path in enumerate(search.paths((sent[0],))):
        faults = broken_rules(path)
        if not faults:
            return Found(path)
        first = first or faults
        if number + 1 == _MOST_PATHS:
            break
    return first or [_no_way(search.ends, anchors)]


def _straight_way(sent: Sequence[Certificate], anchors: Anchors) -> tuple[Certificate, ...] | None:
    """The way where one certificate at each step bears the issuer's name, as is usual, if it is good.

    Then there is nothing to choose, and OpenSSL verifies the signatures with the rest: half the work.
    """
    path = [sent[0]]
    while path[-1].sha256 not in anchors.trusted:
        top = path[-1]
        named = {one.sha256: one for one in (*anchors.named(top.issuer), *sent[1:]) if one.subject == top.issuer}
        if len(named) != 1 or len(path) > CHAIN_CERTIFICATES.open:
            return None
        (issuer,) = named.values()
        if not top.names_as_issuer(issuer) or any(issuer.subject == one.subject for one in path):
            return None
        path.append(issuer)
    return None if broken_rules(path) else tuple(path)


def _no_way(ends: Sequence[tuple[tuple[Certificate, ...], bool]], anchors: Anchors) -> Fault:
    """Why no trusted authority was reached, told of the way that went furthest."""
    expected = "a way from the device's certificate to a verified authority of the hub"
    if not ends:
        return Fault("chain", "chain-too-long", expected, f"more than {CHAIN_CERTIFICATES.open} certificates")
    path, named = max(ends, key=lambda end: len(end[0]))
    top = path[-1]
    unverified = next((anchors.unverified[one.sha256] for one in path if one.sha256 in anchors.unverified), None)
    if unverified is not None:
        return Fault(
            "chain", "authority-not-verified", expected, f"{text_of(path)}; authority {unverified} is not verified"
        )
    if named and top.digest in BROKEN_DIGESTS:
        return Fault(
            "chain", "signature-algorithm-weak", "signatures with SHA-256 or better",
            f"{top.subject_text} is signed with {top.digest.upper()}",
        )  # fmt: skip
    if named:
        return Fault(
            "chain", "issuer-key-differs", expected,
            f"{text_of(path)}; there is a certificate named {top.issuer_text}, but its key did not sign",
        )  # fmt: skip
    if top.names_itself:
        cause = "certificate-self-signed" if len(path) == 1 else "authority-unknown"
        return Fault("chain", cause, expected, f"{text_of(path)}, which is signed by itself and not registered")
    if len(path) == 1 and anchors:
        cause, what = "intermediate-missing", "its issuer was neither sent nor is it registered"
    else:
        cause, what = "authority-unknown", "the issuer of the last was neither sent nor is it registered"
    return Fault("chain", cause, expected, f"{text_of(path)}, issued by {top.issuer_text}: {what}")


def text_of(path: Sequence[Certificate]) -> str:
    """The subjects of a path, the leaf first."""
    return " < ".join(one.subject_text for one in path)


def broken_rules(path: Sequence[Certificate]) -> list[Fault]:
    """The rules of RFC 5280 and of the hub that ``path`` breaks, whatever the time; at most one for each check."""
    faults = [*_issuer_faults(path), *purpose_faults(path[0], chained=len(path) > 1)]
    for one in path:
        strength = key_fault(one)
        if strength is not None:
            faults.append(strength)
    if not faults:
        reason = _openssl_refuses(path)
        if reason:
            faults.append(Fault("chain-rules", "chain-rules", "a chain that OpenSSL takes", reason))
    return list({fault.check: fault for fault in reversed(faults)}.values())[::-1]


def _issuer_faults(path: Sequence[Certificate]) -> Iterator[Fault]:
    below = 0
    for issuer in path[1:]:
        if not issuer.authority:
            yield Fault("basic-constraints", "issuer-not-an-authority", "CA:TRUE in every issuer",
                        f"{issuer.subject_text} is not a certificate authority")  # fmt: skip
        if issuer.signs_certificates is False:
            yield Fault("key-usage", "key-usage", "keyCertSign in every issuer",
                        f"{issuer.subject_text} may not sign certificates")  # fmt: skip
        if issuer.path_length is not None and below > issuer.path_length:
            expected = f"at most {issuer.path_length} authorities below {issuer.subject_text}"
            yield Fault("path-length", "path-length", expected, str(below))
        if not issuer.names_itself:
            below += 1
    for issuer in path[1:-1]:
        if issuer.authenticates is False:
            yield Fault("extended-key-usage", "extended-key-usage", "clientAuth, or no extended key usage",
                        f"{issuer.subject_text} does not allow clients")  # fmt: skip


def purpose_faults(leaf: Certificate, *, chained: bool) -> Iterator[Fault]:
    """Whether a device may use ``leaf``. One that is trusted by its thumbprint needs only to be able to sign."""
    if leaf.signs is False:
        yield Fault("key-usage", "key-usage", "digitalSignature in the device's certificate",
                    f"{leaf.subject_text} may not sign")  # fmt: skip
    if chained and leaf.authenticates is False:
        yield Fault("extended-key-usage", "extended-key-usage", "clientAuth, or no extended key usage",
                    f"{leaf.subject_text} is not for clients")  # fmt: skip


def key_fault(one: Certificate) -> Fault | None:
    """Whether the key of ``one`` is too weak, or of a kind that is not taken."""
    key = one.key
    least = {"RSA": LEAST_RSA_BITS, "EC": LEAST_EC_BITS, "Ed25519": 0, "Ed448": 0}.get(key.kind)
    if least is not None and key.bits >= least:
        return None
    expected = f"RSA of {LEAST_RSA_BITS} bits, EC of {LEAST_EC_BITS}, or Ed25519"
    return Fault("key-strength", "key-too-weak", expected, f"{one.subject_text} has a key of kind {key}")


@lru_cache(maxsize=512)
def _issuer_of_openssl(der: bytes) -> crypto.X509:
    return crypto.load_certificate(crypto.FILETYPE_ASN1, der)


@lru_cache(maxsize=128)
def _store_of(der: bytes) -> crypto.X509Store:
    """A store that trusts the authority in ``der`` alone."""
    store = crypto.X509Store()
    store.add_cert(_issuer_of_openssl(der))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | _NO_CHECK_TIME)
    return store


def _openssl_refuses(path: Sequence[Certificate]) -> str:
    """What OpenSSL has against ``path``, empty for nothing."""
    try:
        leaf = crypto.load_certificate(crypto.FILETYPE_ASN1, path[0].der)
        between = [_issuer_of_openssl(one.der) for one in path[1:-1]]
        crypto.X509StoreContext(_store_of(path[-1].der), leaf, between).verify_certificate()
    except crypto.X509StoreContextError as error:
        return str(error)
    except crypto.Error:
        return "a certificate that it cannot read"
    return ""
