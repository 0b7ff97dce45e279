"""ETags of identities and twins, and the ``If-Match`` that comes back (service.md 2.2)."""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

from muster.identity.changes import ANY, Match

NO_VERSION = Match(-1)
"""What an ETag that we never gave matches: nothing."""
_DIGITS = 19


@lru_cache(1024)
def etag_of(version: int) -> str:
    """The ETag of an identity's ``version``, without quotes: base64 of its decimal digits."""
    return base64.b64encode(str(version).encode()).decode()


def match_of(etag: str) -> Match:
    """The precondition that an unquoted ``etag`` (from a header or a body) stands for; ``*`` means any."""
    if etag == "*":
        return ANY
    try:
        digits = base64.b64decode(etag, validate=True)
    except (binascii.Error, ValueError):
        return NO_VERSION
    return Match(int(digits)) if digits.isdigit() and len(digits) <= _DIGITS else NO_VERSION


def read_if_match(header: str | None) -> Match | None:
    """The precondition that an ``If-Match`` header sets for an identity, ``None`` for none."""
    etag = _unquoted(header)
    return match_of(etag) if etag else None


@lru_cache(64)
def twin_etag_of(revision: int) -> str:
    """The ETag of a twin's ``revision``, without quotes: base64 of eight bytes, the most significant first."""
    return binascii.b2a_base64(revision.to_bytes(8, "big"), newline=False).decode()


def read_twin_if_match(header: str | None) -> int | None:
    """The revision that an ``If-Match`` header asks of a twin, ``None`` for any, -1 for an ETag we never gave."""
    etag = _unquoted(header)
    if not etag or etag == "*":
        return None
    try:
        revision = base64.b64decode(etag, validate=True)
    except (binascii.Error, ValueError):
        return -1
    return int.from_bytes(revision, "big") if len(revision) == 8 else -1


def _unquoted(header: str | None) -> str:
    """The ETag in an ``If-Match`` header.

    Clients write ``"MQ=="``, ``MQ==``, ``W/"MQ=="``, ``"*"`` and ``*``; an empty ``""``, as the newer C# client
    sends it to create, is no precondition.
    """
    if header is None:
        return ""
    etag = header.strip().removeprefix("W/")
    if len(etag) > 1 and etag.startswith('"') and etag.endswith('"'):
        etag = etag[1:-1]
    return etag
