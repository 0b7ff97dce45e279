"""Shared access signature tokens: reading, checking and making them. Pure; reads no clock.

``SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={policy}]``, fields in any order. The
signature is base64(HMAC-SHA256(key, sr + LF + se)) over ``sr`` and ``se`` exactly as they stand in the
token: clients encode ``sr`` in four ways, so nothing may be decoded before the signature is checked
(device.md 6.1, service.md 1.3).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterator
from dataclasses import field
from enum import StrEnum
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes

from muster.core.limits import SAS_TOKEN_CHARACTERS
from muster.core.values import value

SCHEME = "SharedAccessSignature"
_MOST_CHARACTERS = SAS_TOKEN_CHARACTERS.open
_EXPIRY = re.compile(r"[0-9]{1,15}(\.[0-9]{1,9})?", re.ASCII)
_MOST_DECODINGS = 3
_FIELDS = ("sr", "sig", "se")
_RESOURCE = re.compile(r"[ &]sr=([^&]+)", re.IGNORECASE)


class SasError(ValueError):
    """Text that is not a SAS token. The only error of this module.

    ``cause`` is the name of a row of ``identity.causes``; ``seen`` describes the text without any of it that
    could be a secret.
    """

    def __init__(self, cause: str, seen: str) -> None:
        super().__init__(f"{cause}: {seen}")
        self.cause = cause
        self.seen = seen


@value(frozen=True, slots=True)
class SasToken:
    """A well-formed token, not yet checked.

    ``resource`` and ``expiry_text`` are the raw ``sr`` and ``se``; ``expiry`` is ``se`` in seconds since 1970
    (a fraction is allowed); ``policy`` is ``skn`` decoded, ``None`` when absent or empty (the C SDK sends it
    empty); ``signature`` is the 32 bytes of ``sig``;
    ``readings`` are the resources that ``sr`` may mean.
    """

    resource: str
    expiry_text: str
    expiry: float
    policy: str | None
    signature: bytes = field(repr=False)
    readings: tuple[Resource, ...]


class KeyReading(StrEnum):
    """How a key's text became the bytes that signed (service.md 4.2)."""

    DECODED = "base64-decoded"
    TEXT = "as text"


class KeyMatch(NamedTuple):
    """Which key signed a token: ``slot`` is ``primary`` or ``secondary``."""

    slot: str
    reading: KeyReading


def parse(text: str) -> SasToken:
    """Read a token.

    Raises:
        SasError: it is not one; ``SasError.cause`` tells the way in which it is not.
    """
    if len(text) > _MOST_CHARACTERS:
        raise SasError("token-too-long", f"{len(text)} characters")
    scheme, _, rest = text.partition(" ")
    if scheme != SCHEME or not rest or not rest.isascii() or not rest.isprintable() or " " in rest:
        raise SasError("token-malformed", "text that is not 'SharedAccessSignature sr=...&sig=...&se=...'")
    fields: dict[str, str] = {}
    for item in rest.split("&"):
        name, _, value = item.partition("=")
        name = name.lower()
        if name in fields:
            raise SasError("token-field-twice", f"the field {name!r} twice" if name in _FIELDS else "a field twice")
        fields[name] = value
    for name in _FIELDS:
        if not fields.get(name):
            raise SasError("token-field-missing", f"no {name!r}")
    expiry = fields["se"]
    if not _EXPIRY.fullmatch(expiry):
        raise SasError("expiry-not-seconds", "se is not a number of seconds")
    resource, policy = fields["sr"], fields.get("skn")
    return SasToken(
        resource,
        expiry,
        float(expiry),
        unquote(policy) if policy else None,
        _signature(fields["sig"]),
        readings(resource),
    )


def _signature(text: str) -> bytes:
    decoded = _unquoted(text)
    if len(decoded) == 64 and not decoded.strip("0123456789abcdefABCDEF"):
        raise SasError("signature-in-hex", "64 hexadecimal digits")
    if "%" in decoded:
        raise SasError("signature-encoded-twice", "sig still holds a % after decoding")
    try:
        signature = binascii.a2b_base64(decoded, strict_mode=True)
    except (binascii.Error, ValueError):
        raise SasError("signature-not-base64", "sig is not base64") from None
    if len(signature) != 32:
        raise SasError("signature-length", f"{len(signature)} bytes")
    return signature


def decode_key(text: str) -> bytes | None:
    """The bytes of a key written in base64, ``None`` when it is not base64 or empty."""
    try:
        return binascii.a2b_base64(text, strict_mode=True) or None
    except (binascii.Error, ValueError):
        return None


def sign(resource: str, expiry: str, key: bytes) -> bytes:
    """The signature over ``sr`` and ``se`` as they stand in the token."""
    return hmac.digest(key, f"{resource}\n{expiry}".encode(), "sha256")


def signed_by(token: SasToken, key: bytes) -> bool:
    """Whether ``key`` made the token's signature; compares in constant time."""
    return hmac.compare_digest(sign(token.resource, token.expiry_text, key), token.signature)


def matching_key(
    token: SasToken, primary: str | None, secondary: str | None, *, text_key: bool = False
) -> KeyMatch | None:
    """Which of two keys signed the token, ``None`` for neither.

    Args:
        token: what to check.
        primary: a key as the registry holds it (base64 text), or ``None``.
        secondary: the other.
        text_key: accept also the key's text as the signing bytes, as Event Hubs clients do (service.md 4.2).
    """
    for slot, key in (("primary", primary), ("secondary", secondary)):
        if key is None:
            continue
        decoded = decode_key(key)
        if decoded is not None and signed_by(token, decoded):
            return KeyMatch(slot, KeyReading.DECODED)
        if text_key and signed_by(token, key.encode()):
            return KeyMatch(slot, KeyReading.TEXT)
    return None


def make(resource: str, expiry: int, key: bytes, policy: str | None = None) -> str:
    """A token in the form the Python SDK sends: ``sr`` percent-encoded once.

    Args:
        resource: host and path, unencoded (``localhost/devices/dev1``).
        expiry: seconds since 1970.
        key: the signing bytes.
        policy: the policy's name when ``key`` is a policy's.
    """
    encoded = quote(resource, safe="")
    signature = quote(base64.b64encode(sign(encoded, str(expiry), key)), safe="")
    token = f"{SCHEME} sr={encoded}&sig={signature}&se={expiry}"
    return token if policy is None else f"{token}&skn={quote(policy, safe='')}"


class Resource(NamedTuple):
    """One reading of ``sr``: the host without scheme and port, and the path's segments, all in lower case."""

    host: str
    path: tuple[str, ...]

    def covers(self, path: tuple[str, ...]) -> bool:
        """Whether this resource is ``path`` or above it, by whole segments (device.md 6.1)."""
        return path[: len(self.path)] == self.path


def readings(raw: str) -> tuple[Resource, ...]:
    """The ways in which ``sr`` may be meant, the usual one first.

    Decoded once (Python, Node, Java); ids decoded a second time (C#); not decoded at all (C, whose ids may
    hold ``%``). Doubles are left out.
    """
    once = _unquoted(raw)
    first = _resource(once)
    if "%" not in once and once == raw:
        return (first,)
    found = [first]
    if "%" in once:
        found.append(Resource(first.host, tuple([_unquoted(segment).lower() for segment in first.path])))
    if "/" in raw:
        found.append(_resource(raw))
    return tuple(dict.fromkeys(found))


def resource_hosts(text: str) -> tuple[str, ...]:
    """The hosts that the ``sr`` of a token may name, empty when it cannot be read. The token is not checked: this
    is to find out who has to."""
    found = _RESOURCE.search(text, 0, _MOST_CHARACTERS)
    return () if found is None else tuple(dict.fromkeys([reading.host for reading in readings(found[1])]))


def further_readings(raw: str) -> Iterator[Resource]:
    """What ``sr`` would mean if it were decoded more often than is right; to recognise that mistake."""
    for _ in range(_MOST_DECODINGS):
        raw = unquote(raw)
        yield from readings(raw)


def _resource(text: str) -> Resource:
    text = text.lower()
    host, *path = text.partition("://")[2].split("/") if "://" in text else text.split("/")
    if path and path[-1].startswith("api-version="):
        path.pop()  # an old spelling that the cloud takes (device.md 6.1)
    return Resource(host_name(host), tuple([segment for segment in path if segment]))


def _unquoted(text: str) -> str:
    """``unquote``, at a third of its price for the text that tokens are made of."""
    return unquote_to_bytes(text).decode("utf-8", "replace") if text.isascii() else unquote(text)


def host_name(text: str) -> str:
    """A host as names are compared: lower case, no port, no brackets, no final dot (clients.md 1.6)."""
    host = text.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    if host.count(":") == 1:
        host = host.partition(":")[0]
    return host.removesuffix(".")
