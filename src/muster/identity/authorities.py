"""The certificate authorities of a hub: registered, proven to be one's own, changed and deleted (service.md 6.6).

Knows no protocol. After every change ``core.bus.AUTHORITIES_CHANGED`` is published, and the change is in force on
this node when the call returns.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

from muster.core.ambient import Ambient
from muster.core.audit import BY_THE_HUB, Act, draft
from muster.core.bus import AUTHORITIES_CHANGED, Bus
from muster.core.certificate_limits import (
    AUTHORITIES,
    LEAST_REVOCATION_REFRESH,
    MOST_REVOCATION_REFRESH,
    REVOCATION_LISTS,
)
from muster.core.errors import (
    ARGUMENT_INVALID,
    CERTIFICATE_NOT_FOUND,
    PRECONDITION_FAILED,
    TOO_MANY_AUTHORITIES,
    HubError,
)
from muster.core.limits import Profile
from muster.identity.account import authority_noted
from muster.identity.authority_contract import (
    Authority,
    AuthorityChange,
    AuthorityNote,
    AuthorityStanding,
    AuthorityStore,
    KeptList,
    RevocationRules,
)
from muster.identity.certificates import Certificate, CertificateError, read_certificate, read_upload
from muster.identity.changes import Match
from muster.identity.revocation import RevocationList, read_list
from muster.identity.trust import Trust

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CODE_BYTES = 28
_URL = re.compile(r"https?://[^\s/?#@]+(?:[/?][^\s#]*)?", re.ASCII)


class Authorities:
    """The authorities of ``hub``; what they mean at this moment is ``trust``."""

    def __init__(
        self, hub: str, store: AuthorityStore, trust: Trust, bus: Bus, ambient: Ambient, *, profile: Profile
    ) -> None:
        self._hub = hub
        self._store = store
        self._trust = trust
        self._bus = bus
        self._ambient = ambient
        self._most = AUTHORITIES.under(profile)

    # --- reading

    def all(self) -> Sequence[Authority]:
        """All, by name."""
        return self._trust.registered

    def get(self, name: str) -> Authority:
        """The authority. Raises ``HubError`` 404008."""
        for one in self._trust.registered:
            if one.name.lower() == name.lower():
                return one
        raise HubError(CERTIFICATE_NOT_FOUND, f"There is no certificate {name[:64]!r}, muster ca list shows all.")

    # --- changing

    async def put(
        self, name: str, content: bytes, match: Match | None, *, verified: bool | None, by: Act = BY_THE_HUB
    ) -> tuple[Authority, bool]:
        """Register an authority, or put another certificate in the place of one; whether it is new.

        ``content`` is PEM, DER or either in base64; ``verified`` sets that the caller vouches for it, ``None`` leaves
        it as it is where the certificate is the same. Raises ``HubError``: 400004 for a name or a certificate that is
        not one, 403 for one too many, 412001 also when one is there and no ``match`` was given.
        """
        if not _NAME.fullmatch(name):
            raise HubError(
                ARGUMENT_INVALID, "The certificate's name is not 1 to 64 letters, digits, '.', '_' and '-', change it."
            )
        certificate = _authority_certificate(content)
        now, fresh = self._ambient.now(), 1 + (int.from_bytes(self._ambient.random_bytes(4)) >> 2)

        def change(standing: AuthorityStanding) -> Authority:
            present = standing.authority
            if present is None:
                if match is not None and match.version is not None:
                    raise HubError(PRECONDITION_FAILED)
                if standing.others >= self._most:
                    raise HubError(TOO_MANY_AUTHORITIES, f"The hub has {standing.others} certificates, delete one.")
                return Authority(
                    name=name, certificate=certificate.der, verified=bool(verified), created=now, updated=now,
                    version=fresh,
                )  # fmt: skip
            _require(present, match, name)
            same = present.certificate == certificate.der
            return replace(
                present, certificate=certificate.der, updated=now, version=present.version + 1,
                verified=present.verified and same if verified is None else verified,
                code=present.code if same else "",
            )  # fmt: skip

        before = {one.name for one in self._trust.registered}
        made = await self._edit(name, change, by)
        return made, made.name not in before

    async def delete(self, name: str, match: Match | None, by: Act = BY_THE_HUB) -> None:
        """Remove an authority with its lists. Raises ``HubError`` 404008, 412001."""

        def change(standing: AuthorityStanding) -> None:
            _require(standing.authority, match, name)

        await self._store.edit_authority(self._hub, name, change, self._note(name, by))
        await self._tell(name)

    async def generate_code(self, name: str, match: Match | None, by: Act = BY_THE_HUB) -> Authority:
        """Make a new code to be signed. Raises ``HubError`` 404008, 412001."""
        code = self._ambient.random_bytes(_CODE_BYTES).hex().upper()

        def change(standing: AuthorityStanding) -> Authority:
            present = _require(standing.authority, match, name)
            return replace(present, code=code, version=present.version + 1, updated=self._ambient.now())

        return await self._edit(name, change, by)

    async def verify(self, name: str, content: bytes, match: Match | None, by: Act = BY_THE_HUB) -> Authority:
        """Take ``content``, a certificate that the authority has issued for its code, as the proof that its key is the
        caller's. Raises ``HubError`` 400004 saying what is wrong with it, 404008, 412001."""
        proof = _certificate(content)
        now = self._ambient.now()

        def change(standing: AuthorityStanding) -> Authority:
            present = _require(standing.authority, match, name)
            authority = read_certificate(present.certificate)
            if not present.code:
                raise _wrong("no verification code was made yet", "generate one first")
            if proof.common_names != (present.code,):
                raise _wrong("its common name is not the verification code", "issue it with CN=<verification code>")
            if not proof.signed_by(authority):
                raise _wrong("it was not signed with the authority's key", "sign it with that key")
            if not proof.not_before - 86_400 <= now <= proof.not_after:
                raise _wrong("it is not valid now", "issue it anew")
            return replace(present, verified=True, code="", version=present.version + 1, updated=now)

        return await self._edit(name, change, by)

    async def set_rules(self, name: str, rules: RevocationRules, by: Act = BY_THE_HUB) -> Authority:
        """Say where the authority tells what it has revoked. Raises ``HubError`` 404008, 400004 for a wrong URL or
        interval."""
        for what, url in (("list", rules.list_url), ("responder", rules.responder_url)):
            if url and not (_URL.fullmatch(url) and len(url) <= 2048):
                raise HubError(ARGUMENT_INVALID, f"The URL of the {what} is not http:// or https://, correct it.")
        least, most = LEAST_REVOCATION_REFRESH.open, MOST_REVOCATION_REFRESH.open
        if not least <= rules.refresh <= most:
            raise HubError(ARGUMENT_INVALID, f"The refresh interval is not {least} to {most} seconds, correct it.")

        def change(standing: AuthorityStanding) -> Authority:
            present = _require(standing.authority, Match(), name)
            return replace(present, rules=rules, version=present.version + 1, updated=self._ambient.now())

        return await self._edit(name, change, by)

    async def put_list(self, name: str, content: bytes, by: Act = BY_THE_HUB) -> RevocationList:
        """Keep a revocation list (PEM or DER) of the authority, or of one below it, in place of an earlier one.

        Raises ``HubError`` 404008, 400004 for what is no list, is not signed by the authority whose name it bears, is
        older than the one that is kept, or is one too many.
        """
        authority = self.get(name)
        try:
            made = await asyncio.to_thread(read_list, content)
        except CertificateError as error:
            raise HubError(ARGUMENT_INVALID, f"The revocation list cannot be taken, {error}.") from None
        certificate = read_certificate(authority.certificate)
        if made.issuer == certificate.subject and not made.by(certificate):
            raise HubError(ARGUMENT_INVALID, "The revocation list is not signed by the authority, give its own.")
        kept = self._trust.lists_of(authority.name)
        if any(one.issuer == made.issuer and one.this_update > made.this_update for one in kept):
            raise HubError(ARGUMENT_INVALID, "The revocation list is older than the one kept, give a newer one.")
        if len({one.issuer for one in kept} | {made.issuer}) > REVOCATION_LISTS.open:
            raise HubError(ARGUMENT_INVALID, f"An authority has {REVOCATION_LISTS.open} revocation lists at most.")
        told = {"list": hashlib.sha256(made.der).hexdigest(), "revoked": len(made.serials)}
        note = draft(self._hub, by, f"certificates/{authority.name}/lists", self._ambient.now(), after=told)
        if not await self._store.put_list(self._hub, KeptList(authority.name, made.issuer, made.der), note):
            self.get(name)
        await self._tell(authority.name)
        return made

    def _note(self, name: str, by: Act) -> AuthorityNote:
        return authority_noted(self._hub, by, name, self._ambient.now())

    async def _edit(self, name: str, change: AuthorityChange, by: Act) -> Authority:
        made = await self._store.edit_authority(self._hub, name, change, self._note(name, by))
        assert made is not None, "a change that deletes does not come here"
        await self._tell(name)
        return made

    async def _tell(self, name: str) -> None:
        self._bus.publish(AUTHORITIES_CHANGED, name)
        await self._trust.settled()


def _require(present: Authority | None, match: Match | None, name: str) -> Authority:
    if present is None:
        raise HubError(CERTIFICATE_NOT_FOUND, f"There is no certificate {name[:64]!r}, muster ca list shows all.")
    if match is None:
        raise HubError(PRECONDITION_FAILED, "If-Match is missing, send the certificate's etag or *.")
    if match.version is not None and match.version != present.version:
        raise HubError(PRECONDITION_FAILED)
    return present


def _wrong(what: str, remedy: str) -> HubError:
    return HubError(ARGUMENT_INVALID, f"The verification certificate proves nothing: {what}, {remedy}.")


def _certificate(content: bytes) -> Certificate:
    try:
        return read_upload(content)
    except CertificateError as error:
        raise HubError(ARGUMENT_INVALID, f"The certificate cannot be taken, {error}.") from None


def _authority_certificate(content: bytes) -> Certificate:
    certificate = _certificate(content)
    if not certificate.authority:
        raise HubError(
            ARGUMENT_INVALID,
            "The certificate is no authority's, give one with basicConstraints CA:TRUE; a device's own is registered "
            "with the device, by its thumbprint.",
        )
    return certificate
