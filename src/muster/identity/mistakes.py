"""Recognising the usual mistakes in a refused credential. Pure; runs on refusals only.

Nothing found here lets anybody in: it names what went wrong.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

from muster.identity import sas
from muster.identity.sas import SCHEME, SasError, SasToken

_KEY = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{20,}+={1,2}")  # tried once for each run of letters: stays linear
_BARE_KEY = re.compile(r"[A-Za-z0-9+/]{22,}={0,2}")
_CONNECTION_STRING = re.compile(r"(HostName|Endpoint|DeviceId|SharedAccessKey(Name)?)\s*=", re.IGNORECASE)
_LONGEST_SHOWN = 160
_LONGEST_LOOKED_AT = 512
"""What is shown may be the beginning of a key; the longest one, percent-encoded, ends within this."""


def shown(text: str) -> str:
    """``text`` fit to be printed: short, without control characters, and hidden when it may hold a key.

    However long the text is, this takes next to no time.
    """
    text = text[:_LONGEST_LOOKED_AT]
    for reading in (text, unquote(text)):
        if _KEY.search(reading) or _CONNECTION_STRING.search(reading) or "sig=" in reading.lower():
            return "(hidden, it may hold a key)"
    clean = "".join(character if character.isprintable() else "?" for character in text[: _LONGEST_SHOWN + 1])
    if not clean:
        return "(empty)"
    return clean if len(clean) <= _LONGEST_SHOWN else f"{clean[:_LONGEST_SHOWN]}..."


def not_a_token(text: str) -> tuple[str, str] | None:
    """What ``text`` is if it is no SAS token at all: name of the cause and a description, else ``None``."""
    start = text[:256]
    if not text:
        return "no-token", "nothing"
    if _CONNECTION_STRING.search(start):
        return "connection-string-as-token", "a connection string"
    if start[:7].lower() == "bearer " or start.startswith("eyJ"):
        return "bearer-token", "a bearer token"
    if _BARE_KEY.fullmatch(start) and sas.decode_key(start + "=" * (-len(start) % 4)) is not None:
        return "key-as-token", f"{len(text)} characters of base64"
    return None


def malformed(text: str, error: SasError) -> tuple[str, str]:
    """Name a malformed token more closely than the parser did: name of the cause and a description."""
    if error.cause != "token-malformed":
        return error.cause, error.seen
    stripped = text.strip().strip("\"'").strip()
    if stripped != text and stripped.startswith(SCHEME):
        return "token-whitespace", "quotes, blanks or a line break around the token"
    if re.match(rf"{SCHEME}(%20|\+)", text, re.IGNORECASE):
        return "token-encoded", "a token that was percent-encoded as a whole"
    if re.match(r"(sr|sig|se|skn)=", text) and "&" in text:
        return "token-scheme-missing", f"a token without {SCHEME!r} before it"
    if text.startswith(SCHEME) and re.search(r"\s", text[len(SCHEME) + 1 :]):
        return "token-whitespace", "blanks or line breaks inside the token"
    return error.cause, error.seen


class KeyHolder(NamedTuple):
    """Somebody whose keys may have signed by mistake. ``cause`` is the name of the mistake that this would be."""

    cause: str
    who: str
    primary: str | None
    secondary: str | None


def misused_key(token: SasToken, holders: Iterable[KeyHolder]) -> tuple[str, str] | None:
    """Which of ``holders`` signed the token: the cause and a description, ``None`` for nobody."""
    for holder in holders:
        match = sas.matching_key(token, holder.primary, holder.secondary, text_key=True)
        if match is not None:
            return holder.cause, f"the {match.slot} key of {holder.who}"
    return None


def missigned(token: SasToken, primary: str | None, secondary: str | None) -> tuple[str, str] | None:
    """How the right key was put to use wrongly: the cause and a description, ``None`` when it was not used."""
    for slot, key in (("primary", primary), ("secondary", secondary)):
        decoded = sas.decode_key(key) if key is not None else None
        if key is None or decoded is None:
            continue
        if sas.signed_by(token, key.encode()):
            return "key-used-as-text", f"the {slot} key, used as text"
        for cause, text in _variants(token):
            if hmac.compare_digest(hmac.digest(decoded, text, "sha256"), token.signature):
                return cause, f"the {slot} key, over another text"
        unpadded = base64.b64encode(decoded).rstrip(b"=")
        if sas.signed_by(token, unpadded):
            return "key-used-as-text", f"the {slot} key, used as text without its padding"
    return None


def _variants(token: SasToken) -> Iterable[tuple[str, bytes]]:
    """Texts that people sign instead of ``sr`` LF ``se``."""
    resource, expiry = token.resource, token.expiry_text
    decoded = unquote(resource)
    upper = quote(decoded, safe="")
    lower = re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), upper)
    for cause, text in (
        ("signed-over-decoded-resource", decoded),
        ("signed-over-encoded-resource", upper),
        ("signed-over-encoded-resource", lower),
        ("signed-over-encoded-resource", quote(resource, safe="")),
        ("signed-over-lower-case-resource", resource.lower()),
    ):
        if text != resource:
            yield cause, f"{text}\n{expiry}".encode()
    for joined in (
        f"{resource}{expiry}",
        f"{resource}\\n{expiry}",
        f"{resource}\r\n{expiry}",
        f"{resource}\n{expiry}\n",
    ):
        yield "signed-without-line-feed", joined.encode()
