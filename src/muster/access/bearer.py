"""Bearer tokens (JWT, RFC 7519) judged against an issuer's keys: no I/O, and the time is the caller's.

PyJWT checks signatures and nothing else: its claim checks read a clock of their own, the hub's time is virtual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jwt

from muster.core.access_limits import BEARER_CHARACTERS
from muster.core.limits import SAS_CLOCK_SKEW

ALGORITHMS: Mapping[str, tuple[str, str]] = {
    **{f"{family}{bits}": ("RSA", "") for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
}
"""Algorithms that count, with the kind and curve of their key. Never ``none`` nor HS*, whose key everybody knows."""
MOST_CHARACTERS = BEARER_CHARACTERS.open
SKEW_SECONDS = SAS_CLOCK_SKEW.open
"""How far an issuer's clock may be off, as with SAS (service.md 1.3)."""
_LEAST_RSA_BITS = 2048
_MOST_NAME = 256


class Unproven(NamedTuple):
    """What a token says of itself, before anything of it is proven. ``audiences`` bear no slash at their end."""

    text: str
    algorithm: str
    kid: str
    issuer: str
    audiences: frozenset[str]
    expires: float
    begins: float
    claims: Mapping[str, Any]


class BearerError(Exception):
    """A token that does not count. ``step`` is the check that failed, ``cause`` the row that names why."""

    def __init__(self, step: str, cause: str, seen: str = "") -> None:
        super().__init__(cause)
        self.step, self.cause, self.seen = step, cause, seen


def read(text: str) -> Unproven:
    """The token without ``Bearer``, taken apart, in bounded time. Raises ``BearerError`` of the step ``token``."""
    if len(text) > MOST_CHARACTERS:
        raise BearerError("token", "bearer-too-long", f"{len(text)} characters")
    try:
        whole = jwt.api_jwt.decode_complete(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise BearerError("token", "bearer-malformed") from None
    header, claims = whole["header"], whole["payload"]
    if header.get("crit") or header.get("b64") is False:
        raise BearerError("token", "bearer-malformed", "a header that must be understood")
    named = claims.get("aud")
    audiences = named if isinstance(named, list) else [named]
    return Unproven(
        text,
        _name(header.get("alg")),
        _name(header.get("kid")),
        _name(claims.get("iss")),
        frozenset(_name(one).rstrip("/") for one in audiences[:64]) - {""},
        _time(claims, "exp"),
        _time(claims, "nbf", 0.0),
        claims,
    )


def check_signature(token: Unproven, jwk: Mapping[str, Any]) -> None:
    """Raises ``BearerError`` of the step ``signature``. ``jwk`` is the issuer's key (RFC 7517) that ``kid`` names.

    The key decides what may be signed with it, not the token: its kind, its curve, and its ``alg`` where it has one.
    """
    if token.algorithm not in ALGORITHMS:
        raise BearerError("signature", "bearer-algorithm", token.algorithm)
    kind, curve = ALGORITHMS[token.algorithm]
    fits = jwk.get("kty") == kind and jwk.get("crv", "") == curve and jwk.get("use", "sig") == "sig"
    if not fits or jwk.get("alg", token.algorithm) != token.algorithm:
        raise BearerError("signature", "bearer-algorithm", f"{token.algorithm} with a key of another kind")
    try:
        key = jwt.PyJWK(dict(jwk), algorithm=token.algorithm)
        if kind == "RSA" and key.key.key_size < _LEAST_RSA_BITS:
            raise BearerError("signature", "bearer-key-weak", f"{key.key.key_size} bits")
        jwt.api_jws.decode(token.text, key, algorithms=[token.algorithm])
    except (jwt.PyJWTError, ValueError):
        raise BearerError("signature", "bearer-signature") from None


def check_audience(token: Unproven, audiences: frozenset[str]) -> None:
    """Raises ``BearerError``. ``audiences`` bear no slash at their end."""
    if not token.audiences & audiences:
        raise BearerError("audience", "bearer-audience", ", ".join(sorted(token.audiences))[:_MOST_NAME] or "none")


def check_expiry(token: Unproven, now: float) -> None:
    """Raises ``BearerError``; ``now`` is in seconds since 1970."""
    if now >= token.expires + SKEW_SECONDS:
        raise BearerError("expiry", "bearer-expired", f"expired {now - token.expires:.0f} s ago")


def check_beginning(token: Unproven, now: float) -> None:
    """Raises ``BearerError``; ``now`` is in seconds since 1970."""
    if now < token.begins - SKEW_SECONDS:
        raise BearerError("not-before", "bearer-too-early", f"counts in {token.begins - now:.0f} s")


def _name(said: object) -> str:
    return said if isinstance(said, str) and len(said) <= _MOST_NAME else ""


def _time(claims: Mapping[str, Any], claim: str, without: float | None = None) -> float:
    said = claims.get(claim, without)
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not math.isfinite(said) or abs(said) > 1e12:
        raise BearerError("token", "bearer-malformed", f"{claim} is no time")
    return float(said)
