"""TLS straight on the socket: a small transport under every protocol of the hub.

OpenSSL reads and writes the socket itself (``pyOpenSSL`` in socket mode) and the event loop only tells when
to try again. That costs half of what the loop's own TLS does, and it takes any client certificate without
judging it: the hub does that, with the registry at hand. What the transport presents is the part of
``asyncio.Transport`` that our protocols use.

Rules that keep it right:

- One ``recv`` for each wake-up. A read takes a whole TLS record (16 KiB at most) and OpenSSL reads nothing
  ahead, so what is left is in the kernel and the level-triggered poll comes back for it.
- A silent socket has no TLS state yet: it costs a file descriptor and this object.
- Handshake steps are rationed by loop round, so that a storm of connects cannot starve those who are in, and
  handshakes in progress are bounded, each holds 50 KiB.
- A protocol that fails loses its connection: nobody knows what became of the input.
- A close that we start sends what is queued, says goodbye, and drains for a second: closing a socket
  with unread input resets it, and a reset eats the answer that explains the refusal.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from cryptography import x509
from OpenSSL import SSL, crypto

from muster.core.limits import CONNECT_WAIT
from muster.heads.poller import READ, WRITE
from muster.heads.secure import SecureConnection, prepare

if TYPE_CHECKING:
    from muster.heads.listener import TlsListener

WRITE_HIGH_BYTES, WRITE_LOW_BYTES = 262_144, 65_536
"""Queued output above the first pauses the protocol's writing, below the second it goes on."""
FLUSH_SECONDS, LINGER_SECONDS = 30.0, 1.0
"""After ``close``: how long queued output may take, and how long we then wait for the peer's own end."""


class WireProtocol(Protocol):
    """What a transport calls: asyncio's ``Protocol``, by shape."""

    def connection_made(self, transport: Any) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


_SILENT, _HANDSHAKE, _OPEN, _DRAINING, _CLOSED = range(5)
"""The life of a connection, in order. Plain numbers: they are compared at every read and write."""


class TlsTransport:
    """One connection. Created by ``TlsListener``; protocols see it from ``connection_made`` on."""

    __slots__ = (
        "_buffer", "_closing", "_connection", "_fd", "_listener", "_loop", "_out", "_paused", "_peer", "_protocol",
        "_queued", "_sock", "_stalled", "_state", "_timer", "_watched", "_writing_paused",
    )  # fmt: skip

    def __init__(self, listener: TlsListener, sock: socket.socket, peer: Any) -> None:
        self._listener = listener
        self._loop = listener.loop
        self._buffer = listener.buffer
        self._sock = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._state = _SILENT
        self._connection: SecureConnection | None = None
        self._protocol: WireProtocol | None = None
        self._out = bytearray()
        self._closing = self._paused = self._queued = self._stalled = self._writing_paused = False
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(CONNECT_WAIT.open, self._too_slow)
        self._watched = 0
        self._watch(READ)

    # --- readiness

    def _watch(self, events: int) -> None:
        if events != self._watched:
            before, self._watched = self._watched, events
            self._listener.poller.change(self._fd, before, events, self)

    def ready(self, events: int) -> None:
        """See ``poller.Watcher``."""
        try:
            if events & self._watched & WRITE:
                self._writable()
            if events & self._watched & READ:
                if self._state == _OPEN:
                    self._readable()
                elif self._state == _DRAINING:
                    self._drain()
                else:
                    self._handshake_ready()
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Drop the connection because of a fault of ours, which is reported."""
        self._loop.call_exception_handler(
            {"message": f"the connection from {describe_peer(self)} failed", "exception": error}
        )
        self._drop(error)

    # --- the handshake

    def _handshake_ready(self) -> None:
        told_again, self._queued = self._queued, True
        if told_again or not self._listener.enqueue_handshake(self):
            self._watch(0)  # else each round would tell of all who wait in a storm

    def step_handshake(self) -> None:
        """Take the handshake one step further; called by the listener, so many a loop round."""
        self._queued = False
        if self._state > _HANDSHAKE:
            return
        if self._connection is None:
            self._connection = SecureConnection(self._listener.context(), self._sock)
            self._state = _HANDSHAKE
            self._listener.handshake_begun(self)
        try:
            waits_for = self._connection.step()
        except (SSL.Error, OSError) as error:
            self._listener.handshake_failed(self, error)
            self._drop(None)
            return
        if waits_for:
            self._watch(waits_for)
        else:
            self._established()

    def _established(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._watch(READ)
        self._state = _OPEN
        self._listener.handshake_ended(self)
        self._protocol = self._listener.make_protocol()
        self._protocol.connection_made(self)

    def _too_slow(self) -> None:
        self._timer = None
        if self._state < _OPEN:
            self._listener.handshake_failed(self, TimeoutError(f"no TLS handshake within {CONNECT_WAIT.open} s"))
        self._drop(None)

    # --- reading

    def _readable(self) -> None:
        assert self._connection is not None
        try:
            data = self._connection.receive(self._buffer)
        except SSL.ZeroReturnError:
            if self._hears_end():
                self.close()
        except (SSL.Error, OSError) as error:
            if isinstance(error, SSL.SysCallError) and error.args[0] in (-1, 0):
                if self._hears_end():
                    self._drop(None)
            else:
                self._drop(ConnectionResetError("the peer broke the connection"))
        else:
            if type(data) is bytes:
                assert self._protocol is not None
                self._protocol.data_received(data)
            elif data == WRITE:  # OpenSSL owes an answer of its own, to a key update
                self._stalled = True
                self._watch(WRITE)

    def _hears_end(self) -> bool:
        """Tell the protocol that nothing more comes; whether it is content that this ends the connection."""
        self._watch(self._watched & ~READ)
        return self._protocol is None or not self._protocol.eof_received()

    def pause_reading(self) -> None:
        """Leave what the peer sends in the kernel until ``resume_reading``."""
        if not self._paused and self._state == _OPEN and not self._closing:
            self._paused = True
            self._watch(self._watched & ~READ)

    def resume_reading(self) -> None:
        """See ``pause_reading``."""
        if self._paused:
            self._paused = False
            if self._state == _OPEN and not self._closing:
                self._watch(self._watched | READ)

    def is_reading(self) -> bool:
        """Whether input is being taken."""
        return not self._paused and self._state == _OPEN

    # --- writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data``, at once as far as the socket takes it. Dropped after ``close``."""
        if self._state != _OPEN or self._closing or not data:
            return
        if not self._out:
            assert self._connection is not None
            try:
                sent = self._connection.transmit(data)
                if sent == len(data):
                    return
                rest = memoryview(data)[sent:]
                while sent and rest:  # each call takes one record
                    sent = self._connection.transmit(rest)
                    rest = rest[sent:]
            except (SSL.Error, OSError):
                self._loop.call_soon(self._drop, ConnectionResetError("the peer broke the connection"))
                return
            if not rest:
                return
            self._out += rest
        else:
            self._out += data
        self._watch(self._watched | WRITE)
        if len(self._out) > WRITE_HIGH_BYTES and not self._writing_paused:
            self._writing_paused = True
            assert self._protocol is not None
            self._protocol.pause_writing()

    def writelines(self, chunks: Any) -> None:
        """Send the chunks as one."""
        self.write(b"".join(chunks))

    def _writable(self) -> None:
        if self._state == _HANDSHAKE:
            self._handshake_ready()
            return
        assert self._connection is not None
        try:
            while self._out:
                sent = self._connection.transmit(self._out)
                if not sent:
                    break
                del self._out[:sent]
        except (SSL.Error, OSError):
            self._drop(ConnectionResetError("the peer broke the connection"))
            return
        if self._stalled:
            self._stalled = False
            if not (self._paused or self._closing):
                self._watch(self._watched | READ)
        if self._writing_paused and len(self._out) <= WRITE_LOW_BYTES:
            self._writing_paused = False
            if self._protocol is not None:
                self._protocol.resume_writing()
        if not self._out:
            self._watch(self._watched & ~WRITE)
            if self._closing and self._state == _OPEN:  # not when who resumed writing has closed by itself
                self._say_goodbye()

    def get_write_buffer_size(self) -> int:
        """Bytes queued here, those in the kernel not counted."""
        return len(self._out)

    def can_write_eof(self) -> bool:
        """TLS half-close is not offered to protocols."""
        return False

    # --- the end

    def is_closing(self) -> bool:
        """Whether ``close`` or ``abort`` was called, or the connection is gone."""
        return self._closing or self._state > _OPEN

    def close(self) -> None:
        """Send what is queued, then end. The protocol hears ``connection_lost`` soon."""
        if self._closing or self._state > _OPEN:
            return
        if self._state < _OPEN:
            self._drop(None)
            return
        self._closing = True
        self._watch(self._watched & ~READ)
        if self._out:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self._too_slow)
        else:
            self._say_goodbye()

    def abort(self) -> None:
        """End now; what is queued is lost."""
        self._drop(None)

    def _say_goodbye(self) -> None:
        self._state = _DRAINING
        self._lose_protocol(None)
        if self._connection is not None:
            self._connection.shut_down()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(None)
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(LINGER_SECONDS, self._too_slow)
        self._watch(READ)

    def _drain(self) -> None:
        try:
            if self._sock.recv(65_536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._drop(None)

    def _drop(self, error: Exception | None) -> None:
        if self._state == _CLOSED:
            return
        self._state = _CLOSED
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._watch(0)
        self._out.clear()
        self._sock.close()
        self._connection = None
        self._listener.forget(self)
        self._lose_protocol(error)

    def _lose_protocol(self, error: Exception | None) -> None:
        if self._protocol is not None:
            protocol, self._protocol = self._protocol, None
            self._loop.call_soon(protocol.connection_lost, error)

    # --- about the peer

    def set_protocol(self, protocol: WireProtocol) -> None:
        """From now on ``protocol`` is called."""
        self._protocol = protocol

    def get_protocol(self) -> WireProtocol | None:
        """Who is called."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """One of ``peername``, ``sockname``, ``socket``, ``tls_version``, ``server_name``, ``peer_certificates``
        (DER, the client's own first, then what it sent besides); ``default`` for what is not there.
        """
        if name == "peername":
            return self._peer
        if name == "socket":
            return self._sock
        if name == "sockname":
            return self._sock.getsockname() if self._state != _CLOSED else default
        if self._connection is None:
            return default
        connection = self._connection.details()
        if name == "tls_version":
            return connection.get_protocol_version_name()
        if name == "server_name":
            return connection.get_servername()
        if name == "peer_certificates":
            leaf = connection.get_peer_certificate()  # the chain does not hold it on this side
            if leaf is None:
                return default
            sent = (leaf, *(connection.get_peer_cert_chain() or ()))
            return tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, one) for one in sent)
        return default


def describe_peer(transport: Any) -> str:
    """``address:port`` of the other side, for verdicts and logs."""
    peer = transport.get_extra_info("peername")
    if not peer:
        return "unknown"
    host, port = peer[0], peer[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def server_context(certificate_chain_file: str, key_file: str) -> SSL.Context:
    """A context for the hub's listeners: TLS 1.2 and 1.3, a client certificate asked for and not judged here.

    Sessions are not resumed, for a resumed one loses the chain that the client sent: there is no cache, and no ticket.
    Raises ``SSL.Error`` when the files do not hold a chain and its key.
    """
    context = _context()
    context.use_certificate_chain_file(certificate_chain_file)
    context.use_privatekey_file(key_file)
    context.check_privatekey()
    return context


def context_of(chain: Sequence[x509.Certificate], key: Any) -> SSL.Context:
    """As ``server_context``, of what was read already: the hub's own certificate first."""
    context = _context()
    context.use_certificate(chain[0])
    for issuer in chain[1:]:
        context.add_extra_chain_cert(issuer)
    context.use_privatekey(key)
    context.check_privatekey()
    return context


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_cipher_list(b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES128:!aNULL:!eNULL:!SHA1")
    prepare(context)
    return context
