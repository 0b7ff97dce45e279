"""HTTP/1.1 as a server speaks it (RFC 9112): a client's bytes in, events out; the heads of answers.

Parsing is llhttp's, through ``httptools``, in its strict setting: bare line feeds, folded headers, a length beside
chunks and the like end the connection. What this module adds is the bound on the head and the events, and a short way
for what clients send nearly always: a request that came whole, in plain form, with headers that were seen before.
"""

from __future__ import annotations

import http
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from multidict import CIMultiDict

_PHRASES: Final = {status.value: status.phrase for status in http.HTTPStatus}
_VERSIONS: Final = ("1.1", "1.0")
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
"""What a client waits for that sent ``Expect: 100-continue`` (RFC 9110 section 10.1.1)."""
LAST_CHUNK: Final = b"0\r\n\r\n"

_REQUEST_LINE: Final = re.compile(rb"(GET|POST|PATCH|PUT|DELETE) (/[0-9A-Za-z\-._~%!$&'()*+,;=:@/?]*) HTTP/1\.1\r\n")
_PLAIN_HEADERS: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [!-~](?:[ -~]*[!-~])?\r\n)+")
_FRAMING: Final = {"connection": "keep-alive", "proxy-connection": "keep-alive", "transfer-encoding": "", "upgrade": ""}
"""What frames a message or ends the connection, and the value under which it changes nothing."""
_LENGTH: Final = re.compile(r"[0-9]{1,9}")
_REMEMBERED, _LONGEST_REMEMBERED = 256, 2048


class HttpError(Exception):
    """The client's bytes are no HTTP/1.1, or too long a head; the connection cannot go on.

    ``reason`` repeats nothing of what was sent. ``events`` holds what the same read brought before the fault.
    """

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.events: list[Event] = []


class Headers(CIMultiDict[str]):
    """The headers of a request, and of others that were sent with the very same ones: nobody changes them.

    ``said`` is for whoever reads them, to keep what they mean to him.
    """

    said: Any = None


class RequestHead(NamedTuple):
    """A request line and its headers. ``target`` is as it was sent; ``keep_alive``: the client wants to go on.

    ``body`` is all of it where the request came whole: neither pieces nor ``END`` follow then.
    """

    method: str
    target: str
    version: str
    headers: Headers
    keep_alive: bool
    body: bytes | None = None


class End(NamedTuple):
    """The request is complete."""


END: Final = End()
Event = RequestHead | bytes | End
"""``bytes`` are a piece of the request's body."""


class _Plain(NamedTuple):
    """Headers that say nothing of the connection, and how long the body is."""

    headers: Headers
    length: int


@lru_cache(_REMEMBERED)
def _plain(block: bytes) -> _Plain | None:
    """The headers in ``block``, ``None`` when llhttp has to look at them: anything that it might read otherwise."""
    if _PLAIN_HEADERS.fullmatch(block) is None:
        return None
    lines = [line.partition(": ") for line in block.decode("ascii").split("\r\n")[:-1]]
    headers = Headers([(name, value) for name, _, value in lines])
    for name, harmless in _FRAMING.items():
        if headers.getall(name, []) not in ([], [harmless]):
            return None
    lengths = headers.getall("Content-Length", ["0"])
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        return None
    return _Plain(headers, int(lengths[0]))


class RequestDecoder:
    """Cuts a client's byte stream into requests.

    ``max_head_bytes`` bounds what is kept of a head that is not complete, to within one read.
    """

    def __init__(self, max_head_bytes: int) -> None:
        self._most = max_head_bytes
        self._parser = HttpRequestParser(self)
        self._events: list[Event] = []
        self._headers: list[tuple[str, str]] = []
        self._target = b""
        self._in_head = self._in_request = False
        self._foreign_at = -1
        """Where among the events a request of another version of HTTP came."""
        self._unfinished = 0

    def receive(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes, in order. Raises ``HttpError``; nothing can be received after that.

        A request that asks to leave HTTP/1.1 (CONNECT, ``Upgrade``) is complete with its head, and ``keep_alive`` is
        false: what follows on that connection cannot be known to be HTTP.
        """
        events: list[Event] = []
        if not self._in_request:
            taken = _take_plain(data, events)
            if taken == len(data):
                return events
            if taken:
                data = data[taken:]
        self._events, began = events, self._in_head
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            pass
        except HttpParserError as error:
            reason = error.args[0] if error.args and isinstance(error.args[0], str) else "malformed"
            raise self._failed(HttpError(reason)) from None
        if self._foreign_at >= 0:
            del events[self._foreign_at :]
            raise self._failed(HttpError("the version is not HTTP/1.1"))
        self._unfinished = self._unfinished + len(data) if began and self._in_head else 0
        if self._unfinished > self._most:
            raise self._failed(HttpError(f"the head is longer than {self._most} bytes", 431))
        return events

    def _failed(self, error: HttpError) -> HttpError:
        error.events = self._events
        return error

    # --- called by the parser

    def on_message_begin(self) -> None:
        self._in_head, self._in_request, self._target, self._headers = True, True, b"", []

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("utf-8", "surrogateescape")))

    def on_headers_complete(self) -> None:
        self._in_head = False
        parser = self._parser
        version = parser.get_http_version()
        if version not in _VERSIONS:
            self._foreign_at = len(self._events)
            return
        self._events.append(
            RequestHead(
                parser.get_method().decode("ascii"),
                self._target.decode("latin-1"),
                version,
                Headers(self._headers),
                parser.should_keep_alive() and not parser.should_upgrade(),
            )
        )

    def on_body(self, part: bytes) -> None:
        self._events.append(part)

    def on_message_complete(self) -> None:
        self._in_request = False
        self._events.append(END)


def _take_plain(data: bytes, events: list[Event]) -> int:
    """Read the plain requests that ``data`` begins with, as far as they are whole; how many bytes that were."""
    at = 0
    while (line := _REQUEST_LINE.match(data, at)) is not None:
        begin = line.end()
        end = data.find(b"\r\n\r\n", begin, begin + _LONGEST_REMEMBERED)
        plain = _plain(data[begin : end + 2]) if end > 0 else None
        if plain is None or end + 4 + plain.length > len(data):
            break
        method, target = line.groups()
        begin = end + 4
        at = begin + plain.length
        events.append(RequestHead(method.decode(), target.decode(), "1.1", plain.headers, True, data[begin:at]))
    return at


def response_head(version: str, status: int, headers: Mapping[str, str], more: str = "") -> bytes:
    """Status line and headers up to the empty line. ``more`` are further header lines, each with its end.

    Raises ``ValueError`` when a name or value would end its line: that is never sent.
    """
    lines = ""
    for name, value in headers.items():
        lines += f"{name}: {value}\r\n"
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        raise ValueError("a header holds the end of a line")
    phrase = _PHRASES.get(status, "Unknown")
    return f"HTTP/{version} {status} {phrase}\r\n{lines}{more}\r\n".encode("utf-8", "surrogateescape")


def chunk(data: bytes) -> bytes:
    """``data``, not empty, as one chunk (RFC 9112 section 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)
