"""The head of the first HTTP request on port 443: is it a WebSocket of ours, and if so a sound one?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

from muster.wire.websocket import valid_key

_PATH = re.compile(r"(?:/:[0-9]+)?/\$(?:iothub|servicebus)/websocket/?", re.IGNORECASE)
"""Node with a port in its host name asks for ``/:9443/$iothub/websocket`` (clients.md 1.7)."""

_BARE = re.compile(r"(?:/:[0-9]+)?/(?:mqtt/?)?", re.IGNORECASE)
"""Where C# and Java look for the provisioning service's WebSocket (provisioning.md 2.3); REST has the path too."""

_UPGRADE = re.compile(r"^upgrade:[ \t]*websocket[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)

SUBPROTOCOLS = ("mqtt", "amqpwsb10")
"""In lower case; clients use any."""

_SPELLINGS = "mqtt for MQTT 3.1.1, or AMQPWSB10 for AMQP 1.0"


class Upgrade(NamedTuple):
    """A sound request for one of our WebSockets. ``subprotocol`` is spelt as the client offered it."""

    key: str
    subprotocol: str


class Refusal(NamedTuple):
    """A request for one of our WebSockets that cannot be served. ``headers`` belong to the answer."""

    status: int
    phrase: str
    reason: str
    headers: str = ""


def judge(head: bytes) -> Upgrade | Refusal | None:
    """What a request head (up to its empty line) asks for; ``None`` when it is not for one of our WebSockets.

    Rules: RFC 6455 section 4.2.1. A query and a slash behind the path do not matter.
    """
    request_line, _, rest = head.decode("latin-1").partition("\r\n")
    method, _, target = request_line.partition(" ")
    target, _, version = target.partition(" ")
    path = target.partition("?")[0]
    path = unquote(path)
    if not _PATH.fullmatch(path) and not (_BARE.fullmatch(path) and _UPGRADE.search(rest)):
        return None
    headers = _headers(rest)
    if headers is None:
        return Refusal(400, "Bad Request", "A header line of the request is malformed.")
    if method != "GET" or version != "HTTP/1.1":
        return Refusal(
            400, "Bad Request", f"A WebSocket begins with GET and HTTP/1.1, not {method[:20]!r}, {version[:20]!r}."
        )
    return _judge_upgrade(headers)


def _judge_upgrade(headers: Mapping[str, str]) -> Upgrade | Refusal:
    if "websocket" not in _tokens(headers, "upgrade") or "upgrade" not in _tokens(headers, "connection"):
        return Refusal(
            426,
            "Upgrade Required",
            "This path serves WebSockets only; send 'Upgrade: websocket' and 'Connection: Upgrade'.",
            "Upgrade: websocket\r\n",
        )
    if headers.get("sec-websocket-version") != "13":
        return Refusal(426, "Upgrade Required", "Sec-WebSocket-Version must be 13.", "Sec-WebSocket-Version: 13\r\n")
    key = headers.get("sec-websocket-key", "")
    if not valid_key(key):
        return Refusal(400, "Bad Request", "Sec-WebSocket-Key must be 16 bytes in base64.")
    offered = headers.get("sec-websocket-protocol", "")
    for name in offered.split(","):
        if name.strip().lower() in SUBPROTOCOLS:
            return Upgrade(key, name.strip())
    seen = "none was offered" if not offered else f"offered was {offered[:80]!r}"
    return Refusal(400, "Bad Request", f"Sec-WebSocket-Protocol must offer {_SPELLINGS}; {seen}.")


def _headers(text: str) -> dict[str, str] | None:
    """Header lines by lower-case name, repeated ones joined by commas; ``None`` when a line is none."""
    headers: dict[str, str] = {}
    for line in text.split("\r\n"):
        if not line:
            continue
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            return None
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _tokens(headers: Mapping[str, str], name: str) -> set[str]:
    return {token.strip().lower() for token in headers.get(name, "").split(",")}
