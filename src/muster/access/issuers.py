"""The issuers that a node trusts: discovered (OpenID Connect Discovery 1.0), their keys kept and fetched again."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from muster.access.bearer import ALGORITHMS, BearerError, Unproven, check_signature
from muster.access.decision import Caller, read_caller
from muster.core.access_limits import (
    ISSUER_DOCUMENT_BYTES,
    ISSUER_KEYS,
    ISSUER_KEYS_FRESH,
    ISSUER_KEYS_KEPT,
    ISSUER_WAIT,
    UNKNOWN_KEY_FETCHES,
)
from muster.core.ambient import Ambient
from muster.core.fetching import Fetch, Request
from muster.core.rate import RateLimit

log = logging.getLogger("muster.access")

_FRESH, _KEPT, _WAIT = float(ISSUER_KEYS_FRESH.open), float(ISSUER_KEYS_KEPT.open), float(ISSUER_WAIT.open)
_AGAIN = 30.0
"""Seconds after a failure until the keys are asked for again, when they are due."""
_BURST = 5
_MOST_SEEN = 160


class IssuerUrlError(ValueError):
    """A URL that can be no issuer's, with the reason."""


def check_url(url: str) -> str:
    """``url`` itself, if an issuer may be there: by HTTPS, or on this machine. Raises ``IssuerUrlError``."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise IssuerUrlError(f"{url[:_MOST_SEEN]!r} is no URL") from None
    if parts.scheme not in {"https", "http"} or not host or parts.query or parts.fragment or parts.username:
        raise IssuerUrlError(f"{url[:_MOST_SEEN]!r} is no https://host[:port][/path]")
    if parts.scheme == "http" and not _loopback(host):
        raise IssuerUrlError(
            f"{url[:_MOST_SEEN]!r} is not HTTPS, so anybody on the way could put keys of his own there"
        )
    return url


class Proof(NamedTuple):
    """A token whose signature is its issuer's. Audience and times are to be looked at each time."""

    token: Unproven
    caller: Caller
    issuer: Issuer
    generation: int

    def stands(self) -> bool:
        """Whether the issuer's keys are what they were, as far as is known."""
        return self.issuer.generation == self.generation and self.issuer.current()


class Issuer:
    """One issuer and its keys.

    Keys are fetched when they are due and somebody asks; for an unknown key at once, within a rate. While the issuer
    is down those that were last heard of count on for a while.
    """

    def __init__(self, url: str, fetch: Fetch, ambient: Ambient) -> None:
        """``url`` is what operators call it, perhaps without the slash at its end. Raises ``IssuerUrlError``."""
        self.name = check_url(url)
        """Its exact name, which tokens bear; as it was given until it was discovered."""
        self.generation = 0
        """Grows when a key was added, changed or removed."""
        self.trouble = ""
        """Why the keys could not be fetched the last time; empty when they could."""
        self._fetch, self._ambient = fetch, ambient
        self._keys: tuple[Mapping[str, Any], ...] = ()
        self._withdrawn: dict[str, None] = {}
        self._fetched = self._tried = -inf
        self._unknown = RateLimit(UNKNOWN_KEY_FETCHES.open / 60, _BURST, ambient.monotonic)
        self._fetching: asyncio.Task[None] | None = None

    def current(self) -> bool:
        """Whether what is known of the keys may be used without asking; begins to ask when they are due."""
        now = self._ambient.monotonic()
        if now - self._tried >= (_AGAIN if self.trouble else _FRESH):
            self.begin()
        return now - self._tried < 2 * _FRESH and now - self._fetched < _KEPT

    def begin(self) -> asyncio.Task[None]:
        """Fetch the keys in the background; the fetch under way, if there is one."""
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._refetch())
            self._fetching.add_done_callback(self._done)
        return self._fetching

    async def stop(self) -> None:
        """Give up the fetch under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def prove(self, token: Unproven) -> Proof:
        """Verify the signature. Raises ``BearerError`` of the steps ``issuer`` and ``signature``."""
        if not self.current() and self._ambient.monotonic() - self._tried >= 2 * _FRESH:
            await asyncio.shield(self.begin())
        if token.algorithm not in ALGORITHMS:
            raise BearerError("signature", "bearer-algorithm", token.algorithm or "none")
        key = self._find(token)
        if key is None and token.kid:
            key = await self._look_again(token)
        generation = self.generation
        if key is None:
            raise self._no_key(token)
        if self._ambient.monotonic() - self._fetched >= _KEPT:
            raise BearerError("signature", "issuer-keys-too-old", self.trouble)
        if token.issuer != self.name:
            raise BearerError("issuer", "bearer-issuer", token.issuer)
        check_signature(token, key)
        return Proof(token, read_caller(self.name, token.claims, token.expires), self, generation)

    def _find(self, token: Unproven) -> Mapping[str, Any] | None:
        """The key that the token names; without a name the only one of its kind."""
        if token.kid:
            return next((key for key in self._keys if key.get("kid") == token.kid), None)
        kind, curve = ALGORITHMS[token.algorithm]
        fitting = [key for key in self._keys if key.get("kty") == kind and key.get("crv", "") == curve]
        return fitting[0] if len(fitting) == 1 else None

    async def _look_again(self, token: Unproven) -> Mapping[str, Any] | None:
        """The key that the token names after a fetch that began when the token was there, as far as the rate allows."""
        for _ in range(2):
            mine = self._fetching is None
            if mine and not self._unknown.take():
                return None
            await asyncio.shield(self.begin())
            key = self._find(token)
            if key is not None or mine:
                return key
        return None

    def _no_key(self, token: Unproven) -> BearerError:
        if self.trouble:
            return BearerError("signature", "issuer-unreachable", self.trouble)
        if token.kid in self._withdrawn:
            return BearerError("signature", "bearer-key-removed", f"key {token.kid}")
        return BearerError("signature", "bearer-key-unknown", f"key {token.kid}" if token.kid else "no key is named")

    # --- fetching

    def _done(self, task: asyncio.Task[None]) -> None:
        self._fetching = None
        if not task.cancelled() and task.exception() is not None:
            log.error("the keys of %s could not be taken", self.name, exc_info=task.exception())

    async def _refetch(self) -> None:
        try:
            async with asyncio.timeout(2 * _WAIT + 1):
                name, keys = await self._discover()
        except (OSError, ValueError, RecursionError) as error:  # a TimeoutError is an OSError
            told = (str(error) or type(error).__name__)[:_MOST_SEEN]
            if told != self.trouble:
                log.warning("no keys of the issuer %s: %s", self.name, told)
            self.trouble = told
        else:
            self.trouble = ""
            self.name = name
            self._take(keys)
            self._fetched = self._ambient.monotonic()
        finally:
            self._tried = self._ambient.monotonic()

    async def _discover(self) -> tuple[str, tuple[Mapping[str, Any], ...]]:
        about = await self._document(f"{self.name.rstrip('/')}/.well-known/openid-configuration")
        name = about.get("issuer")
        if not isinstance(name, str) or name.rstrip("/") != self.name.rstrip("/"):
            raise ValueError(f"its configuration is another issuer's, {str(name)[:_MOST_SEEN]!r}")
        place = about.get("jwks_uri")
        if not isinstance(place, str):
            raise ValueError("its configuration names no jwks_uri")
        keys = (await self._document(check_url(place.partition("?")[0]) and place)).get("keys")
        if not isinstance(keys, list):
            raise ValueError("its jwks_uri holds no list of keys")
        return name, tuple(key for key in keys[: ISSUER_KEYS.open] if _is_key(key))

    async def _document(self, url: str) -> Mapping[str, Any]:
        content = (await self._fetch(Request(url), ISSUER_DOCUMENT_BYTES.open, _WAIT)).content
        document = json.loads(content or b"")
        if not isinstance(document, dict):
            raise ValueError("it answered no JSON object")
        return document

    def _take(self, keys: tuple[Mapping[str, Any], ...]) -> None:
        if keys == self._keys:
            return
        there = {key.get("kid") for key in keys}
        gone = {str(key["kid"]): None for key in self._keys if key.get("kid") and key["kid"] not in there}
        kept = {kid: None for kid in self._withdrawn if kid not in there}
        self._withdrawn = dict(list({**kept, **gone}.items())[-ISSUER_KEYS.open :])
        self._keys = keys
        self.generation += 1


class Issuers:
    """All issuers of a node. ``audiences`` are names that the operator has for the hub besides Azure's."""

    def __init__(self, issuers: Iterable[Issuer] = (), audiences: Iterable[str] = ()) -> None:
        self._issuers = {issuer.name.rstrip("/"): issuer for issuer in issuers}
        self.audiences = frozenset(one.rstrip("/") for one in audiences if one)

    def __bool__(self) -> bool:
        return bool(self._issuers)

    @property
    def names(self) -> tuple[str, ...]:
        """What they are called."""
        return tuple(issuer.name for issuer in self._issuers.values())

    def find(self, token: Unproven) -> Issuer:
        """Whose token it says it is. Raises ``BearerError`` of the step ``issuer``."""
        found = self._issuers.get(token.issuer.rstrip("/"))
        if found is None:
            raise BearerError("issuer", "bearer-issuer", token.issuer or "none")
        return found

    def start(self) -> None:
        """Ask all for their keys."""
        for issuer in self._issuers.values():
            issuer.begin()

    async def stop(self) -> None:
        """Give up what is under way."""
        for issuer in self._issuers.values():
            await issuer.stop()


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_key(said: object) -> bool:
    return isinstance(said, dict) and isinstance(said.get("kid", ""), str)
