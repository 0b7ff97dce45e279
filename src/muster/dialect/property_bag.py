"""Property bags: the message properties that Azure writes behind an MQTT topic (device.md 3.7).

``key=value`` pairs joined by ``&``, percent-encoded. Keys that begin with ``$.`` are system properties. Their
names here are the hub's own, the same for every protocol; ``dialect.record`` knows where each is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from muster.core.errors import ARGUMENT_INVALID, HubError

SYSTEM_NAMES: Final = {
    "mid": "message-id",
    "cid": "correlation-id",
    "uid": "user-id",
    "to": "to",
    "ct": "content-type",
    "ce": "content-encoding",
    "exp": "absolute-expiry-time",
    "ctime": "creation-time-utc",
    "ifid": "interface-id",
    "sub": "component",
    "on": "output",
    "schema": "schema",
    "diagid": "diagnostic-id",
    "diagctx": "diagnostic-context",
    "cdid": "",
    "cmid": "",
}
"""Wire key without its ``$.`` to neutral name. An empty name: taken and dropped, for the sender's ids come from the
connection and are not to be claimed by the device."""

_SYSTEM_KEYS: Final = {prefix + wire: name for wire, name in SYSTEM_NAMES.items() for prefix in ("$.", "%24.")}
"""The usual spellings, looked up without decoding."""

_ESCAPES: Final = {high + low: chr(int(high + low, 16)) for high in "01234567" for low in "0123456789abcdefABCDEF"}
"""Percent escapes of ASCII characters, both cases."""


def parse_bag(bag: str) -> tuple[dict[str, str], dict[str, str | None]]:
    """The system properties by neutral name, and the application properties, of an encoded ``bag``.

    An application key without ``=`` has the value ``None``, a system key without it is dropped. Of a repeated key
    the last counts. ``+`` is itself, and so is ``=`` in a value. Unknown ``$.`` keys are application properties. What
    is not a percent escape of valid UTF-8 is taken as it stands, as .NET does: the C SDK sends unencoded text. Empty
    items are skipped. Raises ``HubError`` 400004 for an item without a key.
    """
    system: dict[str, str] = {}
    application: dict[str, str | None] = {}
    for item in bag.split("&"):
        key, separator, value = item.partition("=")
        name = _SYSTEM_KEYS.get(key)
        if name is None:
            if not item:
                continue
            key = percent_decoded(key)
            if not key:
                raise HubError(ARGUMENT_INVALID, "A property in the topic has a value but no name; write name=value.")
            name = _SYSTEM_KEYS.get(key)
        if name is None:
            application[key] = percent_decoded(value) if separator else None
        elif name and separator:
            system[name] = percent_decoded(value)
    return system, application


def percent_decoded(text: str) -> str:
    """``text`` with its percent escapes undone; escapes that are malformed or not UTF-8 stay as they are."""
    if "%" not in text:
        return text
    first, *rest = text.split("%")
    decoded = [first]
    for part in rest:
        character = _ESCAPES.get(part[:2])
        if character is None:
            return _thoroughly_decoded(text)
        decoded.append(character)
        decoded.append(part[2:])
    return "".join(decoded)


def _thoroughly_decoded(text: str) -> str:
    """The slow way of ``percent_decoded``, for what lies beyond ASCII."""
    # Bytes that are not UTF-8 become lone surrogates U+DC80 to U+DCFF, which valid text cannot hold.
    decoded = unquote_to_bytes(text).decode(errors="surrogateescape")
    return "".join([f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in decoded])


def size_of(system: Mapping[str, str], application: Mapping[str, str | None], body: bytes) -> int:
    """How large a message counts against the 256 KiB limit, in bytes.

    Body, values of system properties, names and values of application properties, in UTF-8 (device.md section 8).
    """
    size = len(body)
    for value in system.values():
        size += _bytes_in(value)
    for name, optional in application.items():
        size += _bytes_in(name)
        if optional is not None:
            size += _bytes_in(optional)
    return size


def _bytes_in(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
