"""A request and its answer, as operations see them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

from muster.core.errors import BODY_TOO_LARGE, REQUEST_TIMEOUT, HubError
from muster.core.limits import HTTP_BODY_BYTES, HTTP_BODY_RATE, HTTP_BODY_WAIT
from muster.dialect.device_http import CALLING_MODULE
from muster.identity.bearer_gate import is_bearer
from muster.wire.http import Headers, RequestHead

BODY_HIGH_BYTES, BODY_LOW_BYTES = 262_144, 65_536
"""With more of a body waiting for its operation than the first the client is not read from, until below the second."""

_CHARSETS = frozenset({"", "utf-8", "utf8", "us-ascii"})
_CLIENT_ID, _LONGEST_CLIENT_ID = "x-ms-client-request-id", 1024
_REMEMBERED = 256
_LONGEST_REMEMBERED = 64


class Exchange(Protocol):
    """The connection's end of one request and its answer. ``peer``: where it comes from, as verdicts name it."""

    peer: str

    def wanted(self) -> None:
        """More of the body is waited for."""

    def taken(self) -> None:
        """What waited of the body is less than ``BODY_LOW_BYTES`` again."""

    def begin(self, answer: StreamResponse) -> None:
        """Send the head of ``answer``."""

    async def send(self, data: bytes) -> None:
        """Send a piece of the answer's body, and wait while the client does not take it.

        Raises ``ConnectionResetError`` when the client is gone.
        """

    def finish(self) -> None:
        """The answer is complete."""


class Body:
    """What a request carries, while it comes. One reader at a time."""

    __slots__ = ("_chunks", "_error", "_exchange", "_news", "complete", "waiting")

    def __init__(self, exchange: Exchange, whole: bytes | None = None) -> None:
        """``whole`` is all of it, where that is at hand."""
        self._exchange = exchange
        self._chunks: deque[bytes] = deque((whole,) if whole else ())
        self.complete = whole is not None
        """Whether all came."""
        self._error: Exception | None = None
        self._news: asyncio.Future[None] | None = None
        self.waiting = len(whole) if whole else 0
        """Bytes that came and were not read."""

    # --- called by the connection

    def feed(self, data: bytes) -> None:
        """The next piece came."""
        self._chunks.append(data)
        self.waiting += len(data)
        if self._news is not None:
            self._wake()

    def end(self) -> None:
        """All came."""
        self.complete = True
        if self._news is not None:
            self._wake()

    def fail(self, error: Exception) -> None:
        """The rest will not come; the reader gets ``error``."""
        if not self.complete:
            self._error = self._error or error
            self._wake()

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for more."""
        return self._news is not None

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    # --- for operations

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces as they come, however many.

        The client has ``HTTP_BODY_WAIT`` seconds, and earns them back at ``HTTP_BODY_RATE``: a long body may take long,
        a pause may not. What the reader does between the pieces takes none of that time. Raises ``HubError`` 408000
        when it is over, 400000 when the client breaks HTTP, and ``ConnectionResetError`` when it goes.
        """
        time, most = asyncio.get_running_loop().time, float(HTTP_BODY_WAIT.open)
        left = most
        while True:
            since = time()
            if not self._chunks and not self.complete and self._error is None:
                await self._wait(left)
            if not self._chunks:
                break
            piece = self._chunks.popleft()
            before, self.waiting = self.waiting, self.waiting - len(piece)
            if self.waiting < BODY_LOW_BYTES <= before:
                self._exchange.taken()
            left = min(most, left - (time() - since) + len(piece) / HTTP_BODY_RATE.open)
            yield piece
        if self._error is not None:
            raise self._error

    def at_hand(self, most: int = HTTP_BODY_BYTES.open) -> bytes | None:
        """The whole body if it came with its request, as a rule; ``None``: ``read`` it."""
        if not self.complete or len(self._chunks) > 1 or self.waiting > most:
            return None
        self.waiting = 0
        return self._chunks.pop() if self._chunks else b""

    async def read(self, most: int = HTTP_BODY_BYTES.open) -> bytes:
        """The whole body. Raises as ``chunks``, and ``HubError`` 413000 above ``most`` bytes."""
        whole = self.at_hand(most)
        if whole is not None:
            return whole
        body = bytearray()
        async for piece in self.chunks():
            body += piece
            if len(body) > most:
                raise HubError(BODY_TOO_LARGE, f"The body has more than {most} bytes, split the call.")
        return bytes(body)

    async def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._news = loop.create_future()
        message = f"The body stops or comes too slowly, send at least {HTTP_BODY_RATE.open} bytes a second."
        timer = loop.call_later(max(seconds, 0.0), self.fail, HubError(REQUEST_TIMEOUT, message))
        self._exchange.wanted()
        try:
            await self._news
        finally:
            timer.cancel()
            self._news = None


class Said(NamedTuple):
    """What the headers of a request say to every operation; empty where there is no such header."""

    authorization: str
    expect: str
    method: str
    """The method meant, when the request's own is POST."""
    client_line: str
    """The line with which ``x-ms-client-request-id`` is sent back, where there is one that can be."""
    module: str | None
    """The module that calls, where it is not the path that names it."""
    media_type: str
    length: int
    """The body's, 0 where it is not told beforehand."""
    json: str
    """Why the body is not taken for JSON."""
    if_match: str | None
    bearer: bool
    """Whether ``authorization`` is a bearer token."""


def _said(headers: Headers) -> Said:
    authorization = headers.get("Authorization", "")
    said: Said = headers.said or Said(
        authorization,
        headers.get("Expect", "").lower(),
        headers.get("X-HTTP-Method-Override", "").strip().upper(),
        _client_line(headers.get(_CLIENT_ID, "")),
        headers.get(CALLING_MODULE),
        headers.get("Content-Type", "").partition(";")[0].strip().lower(),
        int(headers.get("Content-Length", "0").strip()[-18:]),  # llhttp knows that it is a number
        _not_json(headers),
        headers.get("If-Match"),
        is_bearer(authorization),
    )
    headers.said = said
    return said


def _client_line(own: str) -> str:
    if not own or len(own) > _LONGEST_CLIENT_ID or not own.isascii() or not own.isprintable():
        return ""
    return f"{_CLIENT_ID}: {own}\r\n"


def _not_json(headers: Headers) -> str:
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        return "The Content-Encoding is not taken, send the body uncompressed."
    name, *parameters = headers.get("Content-Type", "").lower().split(";")
    if name.strip() and not name.strip().endswith("json"):
        return "The Content-Type is not JSON, send application/json; charset=utf-8."
    pairs = [parameter.partition("=") for parameter in parameters]
    charset = next((value.strip().strip('"') for name, _, value in pairs if name.strip() == "charset"), "")
    return "" if charset in _CHARSETS else "The charset is not UTF-8, send application/json; charset=utf-8."


class Request:
    """One request. ``raw_path`` and ``raw_query`` are as they were sent; ``transport`` tells of the client."""

    __slots__ = (
        "_query", "answered", "app", "body", "cancel_when_lost", "direct", "exchange", "head", "headers", "method",
        "raw_path", "raw_query", "said", "signature", "transport",
    )  # fmt: skip

    def __init__(self, head: RequestHead, exchange: Exchange, transport: Any) -> None:
        self.head = head
        self.method = head.method
        self.headers = headers = head.headers
        self.said: Said = headers.said or _said(headers)
        self.raw_path, self.raw_query = _split(head.target)
        self.body = Body(exchange, head.body)
        self.exchange = exchange
        self.transport = transport
        self.signature = ""
        """Header lines, each with its end, that the answer gets whatever it is."""
        self.cancel_when_lost = False
        """Whether there is no point in going on when the client is gone."""
        self.direct = False
        """Whether the operation awaits futures only, and nothing that asks for the task it runs in."""
        self.answered = False
        """Whether an answer has begun."""
        self.app: object = None
        """Which of several applications answers it."""
        self._query: Mapping[str, str] | None = None

    @property
    def query(self) -> Mapping[str, str]:
        """The query's members, decoded; the first of those of one name."""
        if self._query is None:
            text = self.raw_query
            self._query = _remembered_query(text) if len(text) <= _LONGEST_REMEMBERED else parse_query(text)
        return self._query

    @property
    def has_body(self) -> bool:
        """Whether a body that is not empty was announced."""
        return self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers


def _split(target: str) -> tuple[str, str]:
    """Path and query of a request target in any of its forms (RFC 9112 section 3.2)."""
    if not target.startswith("/"):
        scheme, separator, rest = target.partition("://")
        if separator and scheme.isalnum():
            _, slash, rest = rest.partition("/")
            target = slash + rest
    if "#" in target:
        target = target.partition("#")[0]
    path, _, query = target.partition("?")
    return path, query


def parse_query(text: str) -> Mapping[str, str]:
    """The members of a query, decoded; the first of those of one name."""
    return dict(reversed(parse_qsl(text, keep_blank_values=True)))


_remembered_query: Callable[[str], Mapping[str, str]] = lru_cache(_REMEMBERED)(parse_query)


class Response:
    """A whole answer. ``headers`` may still be changed; the length is added when it is sent."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes = b"", status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.body = body
        self.status = status
        self.headers = dict(headers or {})


class StreamResponse:
    """An answer in pieces: ``prepare``, then ``write`` as often as needed; who made it returns it.

    With a ``Content-Length`` among ``headers`` the pieces must add up to it; without, they are sent as chunks.
    """

    __slots__ = ("_exchange", "headers", "status")

    def __init__(self, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.headers = dict(headers or {})
        self._exchange: Exchange | None = None

    async def prepare(self, request: Request) -> None:
        """Send status and headers; nothing else can be answered to ``request`` after that."""
        self._exchange = request.exchange
        request.exchange.begin(self)

    async def write(self, data: bytes) -> None:
        """Send a piece. Raises ``ConnectionResetError`` when the client is gone."""
        assert self._exchange is not None, "prepare goes first"
        if data:
            await self._exchange.send(data)
