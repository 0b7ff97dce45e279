"""Accepting: listening sockets to TLS transports, handshakes rationed, an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import sys
from collections import deque
from collections.abc import Callable

from OpenSSL import SSL

from muster.core.company import Company
from muster.core.limits import TLS_HANDSHAKES
from muster.heads.poller import Poller
from muster.heads.relief import Relief
from muster.heads.secure import receive_buffer
from muster.heads.tls import TlsTransport, WireProtocol, describe_peer

log = logging.getLogger("muster.tls")

HANDSHAKES_A_ROUND = 8
CLIENT_SECONDS = 3.0
"""A client whose handshake is in progress has so long at least before it is dropped for a newer one: in a herd most of
those in progress are not slow, there are just many."""
HELD_BACK_SECONDS = 0.1
LATE_SECONDS = 10.0
"""When the first in line has waited longer than that, the newest go first: clients give up after a minute at most, and
who is served just before that has waited for nothing, as have all behind him."""
ACCEPTS_A_ROUND = 64
BACKLOG = 4096
RESERVED_FILES = 64
"""Of the files that the process may have open, so many are not for connections: stores need some."""


class TlsListener:
    """Accepts on one or more addresses and gives each connection, once secured, a protocol of its own.

    ``context`` is asked anew for each handshake, so that a new certificate serves new connections while
    old ones go on. ``make_protocol`` is called when the handshake is done, ``when_failed`` when it could not be.
    ``relief`` and ``company`` are shared with the other listeners of the process.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Callable[[], SSL.Context],
        make_protocol: Callable[[], WireProtocol],
        when_failed: Callable[[TlsTransport, Exception], None] | None = None,
        relief: Relief | None = None,
        *,
        company: Company | None = None,
    ) -> None:
        self._relief = Relief() if relief is None else relief
        self._relief.join(self)
        self.loop = loop
        self.context = context
        self.make_protocol = make_protocol
        self._when_failed = when_failed
        self.poller = Poller(loop, company or Company())
        self.buffer = receive_buffer()
        self._sockets: list[socket.socket] = []
        self.transports: dict[TlsTransport, None] = {}
        """Those that are open, the oldest first."""
        self._waiting: deque[tuple[float, TlsTransport]] = deque()
        """Those that have not begun, and since when they could."""
        self._going_on: deque[TlsTransport] = deque()
        """Those in progress that have heard from their client."""
        self._begun: dict[TlsTransport, float] = {}
        """Those with a handshake in progress, and since when, the oldest first."""
        self._stepping = False
        self._accepting = False
        self._empty: asyncio.Event | None = None
        self.failed_handshakes = 0
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most_files = sys.maxsize if files == resource.RLIM_INFINITY else files

    def listen(self, sockets: list[socket.socket]) -> None:
        """Take over bound sockets and accept on them. Not to be used again after ``abort_connections``."""
        for sock in sockets:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # those it accepts have it from the start
            sock.listen(BACKLOG)
        self._sockets += sockets
        self._accept_on(on=True)

    def _accept_on(self, *, on: bool) -> None:
        if on is self._accepting:
            return
        self._accepting = on
        for sock in self._sockets:
            if on:
                self.loop.add_reader(sock.fileno(), self._accept, sock)
            else:
                self.loop.remove_reader(sock.fileno())

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_A_ROUND):
            try:
                sock, peer = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno != errno.EMFILE or not self._relief.make_room():
                    self._pause_accepting(str(error))
                return
            full = sock.fileno() >= self._most_files - RESERVED_FILES  # the kernel gives out the lowest that is free
            if full and not self._relief.make_room():
                sock.close()
                self._pause_accepting(f"there are as many connections as {self._most_files} open files allow")
                return
            sock.setblocking(False)
            self.transports[TlsTransport(self, sock, peer)] = None

    def _pause_accepting(self, reason: str) -> None:
        log.warning("cannot accept: %s; accepting again in a second", reason)
        self._accept_on(on=False)
        self.loop.call_later(1.0, self._accept_again)

    def _accept_again(self) -> None:
        if self._sockets:
            self._accept_on(on=True)

    # --- called by transports

    def enqueue_handshake(self, transport: TlsTransport) -> bool:
        """``transport`` has input for its handshake; whether it has its turn in the next round."""
        if transport in self._begun:
            self._going_on.append(transport)
        else:
            self._waiting.append((self.loop.time(), transport))
        if not self._stepping:
            self._stepping = True
            self.loop.call_soon(self._step)
        return len(self._waiting) + len(self._going_on) <= HANDSHAKES_A_ROUND

    def _step(self) -> None:
        """Who has begun goes first, but for one of those who have not: in a herd, work that was begun is not lost."""
        for left in reversed(range(HANDSHAKES_A_ROUND)):
            begins = bool(self._waiting) and not (left and self._going_on) and self._may_begin()
            if not begins and not self._going_on:
                break
            transport = self._next() if begins else self._going_on.popleft()
            try:
                transport.step_handshake()
            except Exception as error:
                transport.fail(error)
        self._stepping = bool(self._going_on) or (bool(self._waiting) and self._may_begin())
        if self._stepping:
            self.loop.call_soon(self._step)
        elif self._waiting:
            self.loop.call_later(HELD_BACK_SECONDS, self._go_on)

    def _next(self) -> TlsTransport:
        """Of those that have not begun."""
        late = self.loop.time() - self._waiting[0][0] > LATE_SECONDS
        return (self._waiting.pop() if late else self._waiting.popleft())[1]

    def _go_on(self) -> None:
        if not self._stepping:
            self._step()

    def _may_begin(self) -> bool:
        """Whether there is room for one more, or who must give way has had his time."""
        if len(self._begun) < TLS_HANDSHAKES.open:
            return True
        return self.loop.time() - next(iter(self._begun.values())) >= CLIENT_SECONDS

    def handshake_begun(self, transport: TlsTransport) -> None:
        """``transport`` has TLS state from now on; with too many of them, who has waited longest is dropped."""
        if len(self._begun) >= TLS_HANDSHAKES.open:
            oldest = next(iter(self._begun))
            self.handshake_failed(oldest, TimeoutError(f"more than {TLS_HANDSHAKES.open} others in progress"))
            oldest.abort()
        self._begun[transport] = self.loop.time()

    def handshake_ended(self, transport: TlsTransport) -> None:
        """The handshake of ``transport`` is no longer in progress."""
        self._begun.pop(transport, None)

    def handshake_failed(self, transport: TlsTransport, error: Exception) -> None:
        """Keep word of a connection that never became one."""
        self.failed_handshakes += 1
        log.info("TLS handshake with %s failed: %s", describe_peer(transport), _reason(error))
        if self._when_failed is not None:
            self._when_failed(transport, error)

    def forget(self, transport: TlsTransport) -> None:
        """``transport`` is closed."""
        self.transports.pop(transport, None)
        self._begun.pop(transport, None)
        if self._empty is not None and not self.transports:
            self._empty.set()

    # --- the end

    @property
    def connections(self) -> int:
        """Sockets held, silent and draining ones included."""
        return len(self.transports)

    def protocols(self) -> list[WireProtocol]:
        """Who is on the connections whose handshake is done."""
        return [protocol for one in self.transports if (protocol := one.get_protocol()) is not None]

    def stop_accepting(self) -> None:
        """Close the listening sockets; connections go on."""
        self._accept_on(on=False)
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    async def close_connections(self, seconds: float) -> None:
        """Close every connection, saying goodbye to those that are open; what is left after ``seconds`` is dropped."""
        for transport in list(self.transports):
            transport.close()
        if self.transports:
            self._empty = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
        self.abort_connections()

    def abort_connections(self) -> None:
        """Drop every connection and be done."""
        for transport in list(self.transports):
            transport.abort()
        self.poller.close()


def _reason(error: Exception) -> str:
    if isinstance(error, SSL.SysCallError):
        return "the client closed the connection before the handshake was done"
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return "; ".join(str(entry[-1]) for entry in error.args[0])
    return str(error) or type(error).__name__
