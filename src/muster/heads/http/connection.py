"""HTTP connections: requests one after the other, each answered before the next is begun.

Not aiohttp's server: a method call or a twin change would cost twice as much with it (docs/performance.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any

from muster.core.errors import BAD_REQUEST, HubError
from muster.core.limits import HTTP_IDLE, REQUEST_HEAD_BYTES
from muster.heads.http.messages import BODY_HIGH_BYTES, Request, Response, StreamResponse
from muster.heads.tls import describe_peer
from muster.wire.http import CONTINUE, LAST_CHUNK, HttpError, RequestDecoder, RequestHead, chunk, response_head

log = logging.getLogger("muster.http.wire")

NOSNIFF = "X-Content-Type-Options: nosniff\r\n"
NOSNIFF_AND_NO_STORE = f"{NOSNIFF}Cache-Control: no-store\r\n"
"""On every answer: a browser shall take none for a page, and nobody shall keep it, as there may be keys in it, unless
it says otherwise. Not Strict-Transport-Security: there is no plain HTTP here to come from, and a hub on ``localhost``
would bar a developer's browser from whatever else is served there."""

LINGER_SECONDS = 10.0
"""How long the rest of a body that nobody wants is read and thrown away, so that the client gets to the answer."""

Answering = Coroutine[Any, Any, Response | StreamResponse]
App = Callable[[Request], Answering]
"""Answers a request; refusals are answers too. A ``ConnectionError`` ends the connection without a word more. It runs
in a task of its own, unless the call has made the request ``direct``."""


class HttpServer:
    """Makes connections, as a listener's protocol factory, and ends them."""

    def __init__(self, app: App, now: Callable[[], float], idle_seconds: float = HTTP_IDLE.open) -> None:
        """``now`` is ``Ambient.now``. A connection without a further request for ``idle_seconds`` is closed."""
        self.app = app
        self.now = now
        self.idle_seconds = idle_seconds
        self.loop = asyncio.get_running_loop()
        self.draining = False
        self._finished: asyncio.Future[None] | None = None
        self.connections: set[HttpConnection] = set()
        """Those that are open, or closed with a request that is still being answered."""

    def __call__(self) -> HttpConnection:
        return HttpConnection(self)

    async def drain(self) -> None:
        """Wait until no request is being answered. From now on each answer is the last on its connection."""
        self.draining = True
        while any(connection.busy for connection in self.connections):
            await self._one_ended()

    async def settle(self, app: object, seconds: float) -> None:
        """Wait ``seconds`` at most until what ``app`` is answering is answered, then give up the rest and wait for its
        end, as long again at most: what it still wrote would be found by a later hub of the same name."""
        for _ in range(2):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while any(one.answered_by(app) for one in self.connections):
                        await self._one_ended()
            for connection in tuple(self.connections):
                if connection.answered_by(app):
                    connection.cancel()

    async def _one_ended(self) -> None:
        if self._finished is None or self._finished.done():
            self._finished = self.loop.create_future()
        await asyncio.shield(self._finished)

    async def close(self) -> None:
        """End every connection; what is being answered still is cancelled."""
        for connection in tuple(self.connections):
            connection.cancel()
        await self.drain()
        for connection in tuple(self.connections):
            connection.abort()

    def request_ended(self) -> None:
        """Called by connections once a request is answered or given up."""
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)


class HttpConnection:
    """One connection, and the ``messages.Exchange`` of the request that is being answered."""

    __slots__ = (
        "_answering", "_beginning", "_broken", "_chunked", "_decoder", "_expects", "_incoming", "_loop", "_lost",
        "_paused", "_quiet_since", "_request", "_requests", "_room", "_server", "_timer", "_transport", "_unwanted",
        "_waits_for", "peer",
    )  # fmt: skip

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = server.loop
        self._decoder = RequestDecoder(REQUEST_HEAD_BYTES.open)
        self._transport: Any = None
        self._requests: deque[Request] = deque()
        self._request: Request | None = None
        """The one being answered."""
        self._incoming: Request | None = None
        """The one whose body is coming."""
        self._answering: Answering | None = None
        self._waits_for: asyncio.Future[Any] | None = None
        """The task of what answers, or the future that it waits for without one."""
        self._broken: HttpError | None = None
        self._beginning = self._lost = self._unwanted = self._paused = self._chunked = self._expects = False
        self._room: asyncio.Future[None] | None = None
        self._quiet_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.peer = ""
        """See ``messages.Exchange``."""

    @property
    def stranger(self) -> bool:
        """See ``heads.relief``."""
        return not self.busy

    # --- called by the transport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.peer = describe_peer(transport)
        self._server.connections.add(self)
        self._quiet_since = self._loop.time()
        self._timer = self._loop.call_later(self._server.idle_seconds, self._idle)

    def data_received(self, data: bytes) -> None:
        if self._unwanted or self._broken is not None:
            return
        try:
            events = self._decoder.receive(data)
        except HttpError as error:
            events, self._broken = error.events, error
        for event in events:
            if type(event) is RequestHead:
                request = Request(event, self, self._transport)
                self._requests.append(request)
                if event.body is None:
                    self._incoming = request
            elif self._incoming is not None:
                if type(event) is bytes:
                    self._incoming.body.feed(event)
                else:
                    self._incoming.body.end()
                    self._incoming = None
        if self._broken is not None and self._incoming is not None:
            fault = HubError(BAD_REQUEST, f"The body breaks HTTP: {self._broken.reason}.")
            self._incoming.body.fail(fault)
        if self._request is None:
            self._next()
        if self._requests or self._incoming is not None or self._paused:
            self._balance()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._lost = True
        if self._request is None:
            self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._requests.clear()
        if self._incoming is not None:
            self._incoming.body.fail(ConnectionResetError("the client is gone"))
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._request is not None and self._request.cancel_when_lost:
            self.cancel()

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()
        self._balance()

    def resume_writing(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
        self._balance()

    def _balance(self) -> None:
        """Read from the client, unless it is ahead of us: with its body, its next requests, or its answers unread."""
        ahead = (
            bool(self._requests and self._request is not None)
            or self._room is not None
            or (self._incoming is not None and self._incoming.body.waiting > BODY_HIGH_BYTES)
        )
        if ahead is not self._paused:
            self._paused = ahead
            if ahead:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # --- one request after the other

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._request is not None

    def answered_by(self, app: object) -> bool:
        """Whether ``app`` is answering a request."""
        return self._request is not None and self._request.app is app

    def cancel(self) -> None:
        """Give up the request that is being answered, if there is one."""
        if self._waits_for is not None:
            self._waits_for.cancel()

    def _next(self) -> None:
        """Begin with the next request, and with those behind it as long as they are answered at once."""
        if self._beginning:
            return
        self._beginning = True
        while self._request is None and self._requests and not self._transport.is_closing():
            self._request = request = self._requests.popleft()
            self._expects = bool(request.said.expect)
            if self._expects and request.said.expect != "100-continue":
                self._ended(whole=self._reply(Response(status=417)))
                continue
            self._answering = answering = self._server.app(request)
            if request.direct:
                self._step()
            else:
                self._waits_for = task = self._loop.create_task(self._serve(answering))
                task.add_done_callback(partial(self._over, request))
        self._beginning = False
        if self._request is None and not self._requests:
            self._quiet_since = self._loop.time()
            if self._broken is not None:
                self._refuse(self._broken)

    def _step(self, _woken: object = None) -> None:
        """Go on with what answers, until it has to wait again, as a task does (``asyncio.isfuture`` tells how)."""
        answering, whole = self._answering, False
        assert answering is not None, "it has not ended"
        try:
            future = answering.send(None)
        except StopIteration as end:
            whole = self._reply(end.value)
        except (ConnectionError, asyncio.CancelledError):
            pass  # see ``_serve``
        except Exception:
            self._report()
        else:
            future._asyncio_future_blocking = False
            future.add_done_callback(self._step)
            self._waits_for = future
            return
        self._ended(whole=whole)

    async def _serve(self, answering: Answering) -> None:
        whole = False
        try:
            whole = self._reply(await answering)
        except ConnectionError:
            pass  # the client is gone, or an answer that had begun cannot be finished
        except Exception:
            self._report()
        finally:
            self._ended(whole=whole)

    def _over(self, request: Request, _task: object) -> None:
        """A task that was cancelled before it began has ended nothing."""
        if self._request is request and self._answering is not None:
            self._answering.close()
            self._ended(whole=False)

    def _reply(self, answer: Response | StreamResponse) -> bool:
        """Send the answer, or the end of one that went out in pieces; whether that could be done."""
        try:
            if isinstance(answer, Response):
                self._send(answer)
            else:
                self.finish()
        except Exception:
            self._report()
            return False
        return True

    def _report(self) -> None:
        log.exception("the answer to %s failed", self.peer)

    def _ended(self, *, whole: bool) -> None:
        request = self._request
        assert request is not None, "it was being answered"
        self._request = self._answering = self._waits_for = None
        self._server.request_ended()
        if self._lost:
            self._server.connections.discard(self)
        elif whole and not self._requests and not self._paused and self._broken is None and self._goes_on(request):
            self._quiet_since = self._loop.time()  # as a rule there is nothing else to do
        else:
            self._after(request, whole=whole)

    def _after(self, request: Request, *, whole: bool) -> None:
        """What follows a request whose answer was sent (``whole``), or broken off."""
        if whole and not request.body.complete and self._broken is None:
            self._throw_away()
        elif whole and self._goes_on(request) and not self._transport.is_closing():
            self._next()
            self._balance()
        else:
            self._transport.close()

    def _goes_on(self, request: Request) -> bool:
        return request.head.keep_alive and request.body.complete and not self._server.draining

    def _throw_away(self) -> None:
        """Nobody wants the rest of this body: let the client get to its answer, then close."""
        self._unwanted = True
        if self._expects:  # the client waits for a word before it sends any
            self._transport.close()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.close)

    def _refuse(self, error: HttpError) -> None:
        log.info("what %s sent is no HTTP: %s", self.peer, error.reason)
        text = f"The request cannot be read: {error.reason}.\n".encode("ascii", "backslashreplace")
        headers = {
            "Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(text)), "Connection": "close",
            "X-Content-Type-Options": "nosniff",
        }  # fmt: skip
        self._transport.write(response_head("1.1", error.status, headers) + text)
        self._transport.close()

    def _idle(self) -> None:
        left = self._server.idle_seconds - (0.0 if self.busy else self._loop.time() - self._quiet_since)
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._idle)
        else:
            self._transport.close()

    # --- answering

    def _head(self, answer: Response | StreamResponse, length: int | None) -> bytes:
        request = self._request
        assert request is not None
        request.answered = True
        version = request.head.version
        if length is not None:
            framing = f"Content-Length: {length}\r\n"
        else:
            framing = "Transfer-Encoding: chunked\r\n" if self._chunked else ""
        if not self._goes_on(request):
            framing += "Connection: close\r\n"
        elif version == "1.0":
            framing += "Connection: keep-alive\r\n"
        kept = NOSNIFF if "Cache-Control" in answer.headers else NOSNIFF_AND_NO_STORE
        more = f"{request.signature}{_date(int(self._server.now()))}{framing}{kept}"
        return response_head(version, answer.status, answer.headers, more)

    def _send(self, answer: Response) -> None:
        without = answer.status in (204, 304)
        head = self._head(answer, None if without else len(answer.body))
        assert self._request is not None
        silent = without or self._request.method == "HEAD"
        self._transport.write(head if silent else head + answer.body)

    def begin(self, answer: StreamResponse) -> None:
        """See ``messages.Exchange``."""
        assert self._request is not None
        self._chunked = "Content-Length" not in answer.headers and self._request.head.version == "1.1"
        self._transport.write(self._head(answer, None))

    async def send(self, data: bytes) -> None:
        """See ``messages.Exchange``."""
        assert self._request is not None
        if self._request.method != "HEAD":
            self._transport.write(chunk(data) if self._chunked else data)
        if self._room is not None:
            await self._room
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")

    def finish(self) -> None:
        """See ``messages.Exchange``."""
        assert self._request is not None
        if self._chunked and self._request.method != "HEAD":
            self._transport.write(LAST_CHUNK)
        self._chunked = False

    def wanted(self) -> None:
        """See ``messages.Exchange``."""
        if self._expects:
            self._expects = False
            self._transport.write(CONTINUE)

    def taken(self) -> None:
        """See ``messages.Exchange``."""
        self._balance()

    # --- the end

    def abort(self) -> None:
        """Close now."""
        self._transport.abort()


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return f"Date: {formatdate(second, usegmt=True)}\r\n"
