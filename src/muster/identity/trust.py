"""What a hub trusts at this moment: its verified authorities, the chains found to them, and what they have revoked.

All in memory, renewed from the store when ``core.bus.AUTHORITIES_CHANGED`` says so. Who has opened a session with a
``ChainProof`` asks with ``lost`` whether it still stands, and hears from ``when_changed`` when to ask.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from enum import Enum, auto
from typing import NamedTuple
from weakref import WeakValueDictionary

from muster.core.ambient import Ambient, iso
from muster.core.bus import AUTHORITIES_CHANGED, MISSED, Bus
from muster.core.certificate_limits import CHAINS_REMEMBERED, RESPONDER_ANSWERS, REVOCATION_WAIT
from muster.core.errors import HubError
from muster.identity.authority_contract import Authority, AuthorityStore
from muster.identity.certificates import Certificate, CertificateError, read_certificate
from muster.identity.chains import Anchors, Fault, Found, find
from muster.identity.revocation import Answer, RevocationList, read_list

log = logging.getLogger("muster.trust")


class ChainProof(NamedTuple):
    """Why a certificate was believed, small enough to be kept with a session: its serial and thumbprint, and the
    issuers up to the authority (none when it is registered itself), which sessions share."""

    serial: int
    sha256: str
    issuers: tuple[Certificate, ...]

    @property
    def anchor(self) -> str:
        """The thumbprint of the authority."""
        return self.issuers[-1].sha256 if self.issuers else self.sha256

    def links(self) -> Iterable[tuple[int, Certificate]]:
        """Each certificate below the authority as serial and issuer."""
        if not self.issuers:
            return ()
        serials = (self.serial, *(one.serial for one in self.issuers[:-1]))
        return zip(serials, self.issuers, strict=True)


class Standing(Enum):
    """What is known of the revocation of a chain."""

    UNASKED = auto()
    """Its authority has no way to revoke."""
    GOOD = auto()
    REVOKED = auto()
    UNKNOWN = auto()
    """Nothing current is known."""
    TO_ASK = auto()
    """Nothing current is known of ``link``, but a responder may be asked."""


class Revoked(NamedTuple):
    """The standing of a chain, in words too; ``link`` is the certificate that it is about."""

    standing: Standing
    seen: str
    link: tuple[int, Certificate] | None = None


AnswerKey = tuple[str, int]
"""The thumbprint of an issuer and the serial of a certificate."""


class Heard(NamedTuple):
    """What a responder said last and when, if it ever answered; ``pause``: it need not be asked again before."""

    answer: Answer | None = None
    at: float = 0.0
    pause: float = 0.0


_NOTHING = Heard()
_FRESH = 2.0 * REVOCATION_WAIT.open
"""Seconds for which an answer is fresh at least: a chain with two questions may take as long as each may."""


class Trust:
    """The authorities of ``hub`` as they stand. ``store`` is ``None`` for a hub that has none."""

    def __init__(self, hub: str, store: AuthorityStore | None, bus: Bus, ambient: Ambient) -> None:
        self._hub = hub
        self._store = store
        self._ambient = ambient
        self._authorities: dict[str, Authority] = {}
        self._by_thumbprint: dict[str, Authority] = {}
        self._anchors = Anchors({}, {})
        self._lists: dict[str, list[RevocationList]] = {}
        self._read: dict[bytes, RevocationList] = {}
        self._chains: OrderedDict[bytes, Found] = OrderedDict()
        self._readings: OrderedDict[tuple[bytes, ...], tuple[Certificate, ...]] = OrderedDict()
        self._issuers: WeakValueDictionary[str, Certificate] = WeakValueDictionary()
        self._heard: OrderedDict[AnswerKey, Heard] = OrderedDict()
        self._listeners: list[Callable[[], None]] = []
        self._reloading: asyncio.Task[None] | None = None
        self._stale = False
        for subject in (AUTHORITIES_CHANGED, MISSED):
            bus.subscribe(subject, lambda _: self._changed())

    # --- the authorities

    async def load(self) -> None:
        """Read all from the store; before the first time nothing is trusted."""
        if self._store is None:
            return
        authorities = {one.name: one for one in await self._store.authorities(self._hub)}
        lists: dict[str, list[RevocationList]] = {}
        read: dict[bytes, RevocationList] = {}
        for kept in await self._store.lists(self._hub):
            digest = hashlib.sha256(kept.der).digest()
            one = self._read.get(digest)
            if one is None:
                try:
                    one = await asyncio.to_thread(read_list, kept.der)
                except CertificateError as error:
                    log.error("a revocation list of %s cannot be read: %s", kept.authority, error)
                    continue
            read[digest] = one
            lists.setdefault(kept.authority, []).append(one)
        self._put(authorities, lists)
        self._read = read

    def _put(self, authorities: dict[str, Authority], lists: dict[str, list[RevocationList]]) -> None:
        verified: dict[str, Certificate] = {}
        unverified: dict[str, Certificate] = {}
        for name, one in authorities.items():
            try:
                certificate = self._shared(read_certificate(one.certificate))
            except CertificateError as error:
                log.error("the certificate of authority %s cannot be read: %s", name, error)
                continue
            (verified if one.verified else unverified)[name] = certificate
        self._authorities, self._lists = authorities, lists
        self._anchors = Anchors(verified, unverified)
        self._by_thumbprint = {certificate.sha256: authorities[name] for name, certificate in verified.items()}
        self._chains.clear()

    def _shared(self, certificate: Certificate) -> Certificate:
        return self._issuers.setdefault(certificate.sha256, certificate)

    def _changed(self) -> None:
        self._stale = True
        if self._reloading is None:
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        try:
            while self._stale:
                self._stale = False
                await self.load()
        except HubError as error:
            log.error("authorities were changed and cannot be read: %s", error)
        finally:
            self._reloading = None
        self._tell()

    async def settled(self) -> None:
        """Wait until changes told of so far are in force."""
        while self._reloading is not None:
            await asyncio.shield(self._reloading)

    def look_again(self) -> None:
        """Time has passed: what was current may be overdue."""
        self._tell()

    def when_changed(self, listener: Callable[[], None]) -> None:
        """From now on call ``listener`` when proofs may have been lost."""
        self._listeners.append(listener)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

    @property
    def registered(self) -> Sequence[Authority]:
        """All authorities, by name."""
        return [self._authorities[name] for name in sorted(self._authorities)]

    def lists_of(self, name: str) -> Sequence[RevocationList]:
        """The revocation lists kept for an authority."""
        return self._lists.get(name, ())

    # --- chains

    def find(self, sent: Sequence[Certificate]) -> Found | list[Fault]:
        """See ``chains.find``; what was found is remembered while the authorities stay."""
        key = b"".join([bytes.fromhex(one.sha256) for one in sent])
        known = self._chains.get(key)
        if known is not None:
            self._chains.move_to_end(key)
            return known
        found = find(sent, self._anchors)
        if isinstance(found, Found):
            found = Found((found.path[0], *(self._shared(one) for one in found.path[1:])))
            self._chains[key] = found
            if len(self._chains) > CHAINS_REMEMBERED.open:
                self._chains.popitem(last=False)
        return found

    def reading(self, sent: Sequence[bytes]) -> tuple[Certificate, ...] | None:
        """The certificates in ``sent`` as they were read when they were last believed."""
        return self._readings.get(tuple(sent))

    def believed(self, sent: Sequence[bytes], chain: tuple[Certificate, ...]) -> None:
        """Remember how ``sent`` reads: the same device comes again with it."""
        self._readings[tuple(sent)] = chain
        if len(self._readings) > CHAINS_REMEMBERED.open:
            self._readings.popitem(last=False)

    def name_of(self, certificate: Certificate) -> str:
        """Under which name a trusted authority is registered."""
        return self._anchors.trusted.get(certificate.sha256, "")

    def trusts(self, sha256: str) -> bool:
        """Whether the authority with this thumbprint is trusted."""
        return sha256 in self._by_thumbprint

    @staticmethod
    def proof_of(found: Found) -> ChainProof:
        """What a session keeps of a chain."""
        leaf = found.path[0]
        return ChainProof(leaf.serial, leaf.sha256, tuple(found.path[1:]))

    # --- revocation

    def revocation(self, proof: ChainProof, *, begins: bool = True) -> Revoked:
        """What is known of the revocation of a chain whose authority is trusted.

        Where a session ``begins`` with it a responder is asked anew (``TO_ASK``) when its answer is not fresh; the
        session then lives by the last one for as long as that counts.
        """
        authority = self._by_thumbprint[proof.anchor]
        rules, lists = authority.rules, self._lists.get(authority.name, [])
        if not lists and not rules.fail_closed and not rules.list_url and not rules.responder_url:
            return Revoked(Standing.UNASKED, "the authority keeps no revocation list and no responder")
        worst = Revoked(Standing.GOOD, "not revoked")
        for serial, issuer in proof.links():
            one = self._link((serial, issuer), authority, lists, begins=begins)
            if one.standing is Standing.REVOKED:
                return one
            if one.standing is not Standing.GOOD and worst.standing is not Standing.TO_ASK:
                worst = one
        return worst

    def _link(
        self, link: tuple[int, Certificate], authority: Authority, lists: list[RevocationList], *, begins: bool
    ) -> Revoked:
        now, (serial, issuer), covered, overdue = self._ambient.now(), link, False, ""
        for one in lists:
            if one.by(issuer):
                if serial in one.serials:
                    when = f"the list of {iso(one.this_update)}"
                    return Revoked(Standing.REVOKED, f"serial {serial:x} of {issuer.subject_text}: {when}", link)
                covered = covered or one.current(now)
                overdue = "" if one.current(now) else "; the list is overdue"
        answer, at, pause = self._heard.get((issuer.sha256, serial), _NOTHING)
        revoked = answer is not None and answer.revoked
        text = f"nothing current on serial {serial:x} of {issuer.subject_text}{overdue}"
        if begins and authority.rules.responder_url and pause <= now and (revoked or not covered):
            fresh = max(_FRESH, authority.rules.refresh)
            if answer is None or not at <= now <= at + fresh:
                return Revoked(Standing.TO_ASK, text, link)
        if revoked:
            return Revoked(Standing.REVOKED, f"serial {serial:x} of {issuer.subject_text}: the responder", link)
        if covered or (answer is not None and answer.until >= now):
            return Revoked(Standing.GOOD, "not revoked", link)
        return Revoked(Standing.UNKNOWN, text, link)

    def rules_of(self, proof: ChainProof) -> Authority | None:
        """The authority of a proof, while it is trusted."""
        return self._by_thumbprint.get(proof.anchor)

    def answered(self, link: tuple[int, Certificate], answer: Answer | float) -> None:
        """A responder has answered for ``link``; a number instead says until when it need not be asked again."""
        serial, issuer = link
        key = issuer.sha256, serial
        before = self._heard.get(key, _NOTHING)
        if isinstance(answer, Answer):
            self._heard[key] = Heard(answer, self._ambient.now())
        else:
            self._heard[key] = before._replace(pause=answer)
        self._heard.move_to_end(key)
        if len(self._heard) > RESPONDER_ANSWERS.open:
            self._heard.popitem(last=False)
        if isinstance(answer, Answer) and answer.revoked and not (before.answer and before.answer.revoked):
            self._tell()

    def lost(self, proof: ChainProof) -> tuple[str, str]:
        """The cause and a description of why ``proof`` does not stand any more; empty texts while it does."""
        authority = self._by_thumbprint.get(proof.anchor)
        if authority is None:
            return "authority-not-verified", "the authority was deleted, or is not verified any more"
        revoked = self.revocation(proof, begins=False)
        if revoked.standing is Standing.REVOKED:
            return "certificate-revoked", revoked.seen
        if revoked.standing is not Standing.GOOD and authority.rules.fail_closed:
            return "revocation-unknown", revoked.seen
        return "", ""
