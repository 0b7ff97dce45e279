"""What `muster doctor` looks at: things that work today and will hurt, each with what to do. Knows no protocol."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from muster.core.ambient import iso
from muster.identity.authority_contract import Authority
from muster.identity.certificates import CertificateError, read_certificate
from muster.identity.chains import key_fault
from muster.identity.model import AuthenticationType, Identity
from muster.identity.policies import LOCAL, OWNER
from muster.identity.revocation import RevocationList
from muster.identity.sas import decode_key

DAY_SECONDS = 86_400
STEPS = ((7, "bad"), (30, "warning"), (60, "notice"))
"""Days before an end, and how loudly it is told from then on."""
_SHOWN = 5
_KEY_BYTES, _LEAST_DIFFERENT = 32, 12


class Level(StrEnum):
    """How loud a finding is."""

    BAD = "bad"
    WARNING = "warning"
    NOTICE = "notice"


class Finding(NamedTuple):
    """One thing to see to. ``name`` is stable; ``what`` and ``remedy`` are sentences."""

    level: Level
    name: str
    what: str
    remedy: str


Examine = Callable[[], Awaitable[Sequence[Finding]]]
"""Looks at something and tells what is to be seen to."""


def ending(name: str, what: str, end: float, now: float, remedy: str) -> Iterator[Finding]:
    """The finding, if ``what`` ends within 60 days or has ended."""
    days = (end - now) / DAY_SECONDS
    if days < 0:
        yield Finding(Level.BAD, name, f"{what} ended at {iso(end)}.", remedy)
        return
    for step, level in STEPS:
        if days < step:
            yield Finding(Level(level), name, f"{what} ends in {int(days)} days, at {iso(end)}.", remedy)
            return


class Shown(NamedTuple):
    """The certificates that the hub shows its clients, DER, by what they are called; what to do when one ends; and why
    a new one was not taken, empty for nothing."""

    certificates: Mapping[str, bytes]
    remedy: str
    trouble: str = ""


def server_findings(shown: Shown, now: float) -> Iterator[Finding]:
    """Of the hub's own certificates."""
    for called, der in shown.certificates.items():
        yield from ending("hub-certificate-ends", f"The {called}", read_certificate(der).not_after, now, shown.remedy)
    if shown.trouble:
        text = f"The hub's new certificate is not taken, the one of before goes on: {shown.trouble}."
        yield Finding(Level.BAD, "hub-certificate-not-taken", text, "Correct the files: the hub notices.")


def authority_findings(
    authorities: Iterable[Authority], lists: Mapping[str, Sequence[RevocationList]], now: float
) -> Iterator[Finding]:
    """Of whom the hub trusts."""
    for one in authorities:
        try:
            certificate = read_certificate(one.certificate)
        except CertificateError as error:
            yield Finding(Level.BAD, "authority-unreadable", f"Authority {one.name}: {error}.", "Register it anew.")
            continue
        yield from ending(
            "authority-ends", f"The certificate of authority {one.name}", certificate.not_after, now,
            "Register its successor beside it (muster ca add), roll the devices over, then delete it.",
        )  # fmt: skip
        weak = key_fault(certificate)
        if weak is not None:
            text = f"Authority {one.name} has a key of kind {certificate.key}: its certificates are refused."
            yield Finding(Level.BAD, "authority-key-weak", text, "Make one with EC P-256 or RSA 2048 at least.")
        if not one.verified:
            yield Finding(
                Level.WARNING, "authority-not-verified", f"Authority {one.name} is not verified, so not trusted.",
                f"muster ca verify {one.name}",
            )  # fmt: skip
        yield from _revocation_findings(one, lists.get(one.name, ()), now)


def _revocation_findings(one: Authority, lists: Sequence[RevocationList], now: float) -> Iterator[Finding]:
    rules = one.rules
    if not lists and not rules.list_url and not rules.responder_url:
        yield Finding(
            Level.NOTICE, "no-revocation", f"Authority {one.name} has no way to revoke a certificate.",
            f"Load its list (muster ca crl {one.name} FILE), or name a URL (muster ca revocation). Until then "
            "disable the device to keep it out.",
        )  # fmt: skip
    for each in lists:
        if each.next_update is not None:
            remedy = f"Load the next one: muster ca crl {one.name} FILE."
            yield from ending("list-ends", f"The revocation list of {each.issuer_text}", each.next_update, now, remedy)


def news_findings(troubles: Mapping[str, str]) -> Iterator[Finding]:
    """``troubles``: from where no news of revocations come, and why."""
    for place, trouble in troubles.items():
        yield Finding(
            Level.WARNING, "no-revocation-news", f"No news come from the {place}: {trouble}.",
            "Correct the URL (muster ca revocation) or the server behind it: what is revoked meanwhile is not known.",
        )  # fmt: skip


def session_findings(ends: Iterable[tuple[str, float]], now: float) -> Iterator[Finding]:
    """``ends``: identities that are connected with a certificate, and until when it is good."""
    for level, days in ((Level.BAD, 7), (Level.WARNING, 30), (Level.NOTICE, 60)):
        shorter = {7: 0, 30: 7, 60: 30}[days]
        found = sorted(name for name, end in ends if shorter <= (end - now) / DAY_SECONDS < days)
        if found:
            text = f"The certificates of {_names(found)} end within {days} days."
            yield Finding(
                level, "device-certificate-ends", text, "Renew them now: muster ca issue, or your own authority."
            )


class Identities:
    """Collects what there is to say of identities, one after the other: of credentials only digests are held."""

    def __init__(self) -> None:
        self._holders: dict[bytes, list[str]] = defaultdict(list)
        self._weak: list[str] = []
        self._by_key: list[str] = []
        self._without: list[str] = []

    def add(self, identity: Identity) -> None:
        """The next one."""
        held, name = identity.authentication, str(identity.key)
        if held.type is AuthenticationType.SAS:
            self._by_key.append(name)
            for key in {held.primary_key, held.secondary_key} - {None}:
                self._hold(key or "", name)
                decoded = decode_key(key or "") or b""
                if len(decoded) < _KEY_BYTES or len(set(decoded)) < _LEAST_DIFFERENT:
                    self._weak.append(name)
        elif held.type is AuthenticationType.SELF_SIGNED:
            for thumbprint in {held.primary_thumbprint, held.secondary_thumbprint} - {None}:
                self._hold(thumbprint or "", name)
        elif held.type is AuthenticationType.NONE:
            self._without.append(name)

    def _hold(self, credential: str, name: str) -> None:
        self._holders[hashlib.sha256(credential.encode()).digest()[:16]].append(name)

    def findings(self, *, authorities: bool) -> Iterator[Finding]:
        """What was found; ``authorities``: whether the hub trusts any."""
        for holders in self._holders.values():
            if len(holders) > 1:
                yield Finding(
                    Level.BAD, "credential-shared", f"{_names(holders)} share a key or a certificate.",
                    "Give each its own: whoever has one of them is all of them.",
                )  # fmt: skip
        weak = sorted(set(self._weak))
        if weak:
            text = f"Keys of {_names(weak)} are shorter than {_KEY_BYTES} bytes, or easy to guess."
            yield Finding(Level.WARNING, "key-weak", text, "Regenerate them; the hub makes random keys of 32 bytes.")
        if self._by_key:
            how = "muster device add ID --auth x509-ca" if authorities else "muster ca init makes an authority"
            yield Finding(
                Level.NOTICE, "on-sas", f"{_names(self._by_key)} prove themselves with symmetric keys.",
                f"They could move to certificates, whose keys never leave the device: {how}.",
            )  # fmt: skip
        if self._without:
            text = f"{_names(self._without)} have no way to prove themselves and cannot connect."
            yield Finding(Level.NOTICE, "no-credential", text, "Give them keys or certificates, or delete them.")


def policy_findings(used: Mapping[str, float], *, local_auth: bool) -> Iterator[Finding]:
    """``used``: when a token of each policy was last seen."""
    names = sorted(set(used) - {LOCAL})
    if names and local_auth:
        told = ", ".join(f"{name} (last at {iso(used[name])})" for name in names)
        remedy = (
            "Let services bring tokens of your issuer (--oidc-issuer), then: muster hub set <hub> --local-auth off. "
            "Until then give each a policy of its own with the fewest rights that do: muster hub policy set."
        )
        if OWNER in names:
            remedy += " iothubowner is for administration only."
        yield Finding(Level.NOTICE, "policies-in-use", f"Shared access policies in use: {told}.", remedy)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
