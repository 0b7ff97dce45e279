"""A TLS connection whose connect and messages cost little: OpenSSL by the bindings that pyOpenSSL uses.

pyOpenSSL makes the context, looks into certificates and turns what goes wrong into its exceptions. But its connections
keep books for callbacks we do not have, its reads take 16 KiB of memory each, it asks OpenSSL for the error also after
a success (which lets go of the interpreter's lock once more), and it says "not yet" by raising. So what happens with
every connection and message is called here directly: the same calls without that.
"""

from __future__ import annotations

import socket
from typing import Any

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from muster.heads.poller import READ, WRITE

RECORD_BYTES = 16_384
"""The longest TLS record's content (RFC 8446 section 5.1)."""

_lib: Any = Binding.lib
_ffi: Any = Binding.ffi
_unpack, _from_buffer = _ffi.unpack, _ffi.from_buffer
_WANTS = {_lib.SSL_ERROR_WANT_READ: READ, _lib.SSL_ERROR_WANT_WRITE: WRITE}


def receive_buffer() -> Any:
    """Room for one record, for the connections of one loop to share: what ``receive`` returns is a copy."""
    return _ffi.new("char[]", RECORD_BYTES)


def _take_certificate(_fine: int, judged: Any) -> int:
    _lib.X509_STORE_CTX_set_error(judged, _lib.X509_V_OK)
    return 1


def _turn_off_tickets(ssl: Any, _alert: Any, _argument: Any) -> int:
    _lib.SSL_set_options(ssl, _lib.SSL_OP_NO_TICKET)
    return 0


_ON_CERTIFICATE = _ffi.callback("int (*)(int, X509_STORE_CTX *)", _take_certificate)
_ON_HELLO = _ffi.callback("int (*)(SSL *, int *, void *)", _turn_off_tickets)


def prepare(context: SSL.Context) -> None:
    """Make ``context`` one for ``SecureConnection``: it takes any client's certificate and sends no tickets.

    Tickets that are turned off in the context are still sent in TLS 1.3, two useless ones. Turned off once the hello
    has been read, as those may do who decide by the server's name, none are.
    Besides, OpenSSL would have each read go on until there is input for us: a client that sends one key update after
    the other would hold the loop for as long as it liked.
    """
    _lib.SSL_CTX_set_verify(context._context, _lib.SSL_VERIFY_PEER, _ON_CERTIFICATE)
    _lib.SSL_CTX_set_tlsext_servername_callback(context._context, _ON_HELLO)
    _lib.SSL_CTX_clear_mode(context._context, _lib.SSL_MODE_AUTO_RETRY)


class SecureConnection:
    """The server's end of a connection on the non-blocking ``sock``, by a context that ``prepare`` has seen.

    It waits for the client's hello. Its calls raise pyOpenSSL's exceptions, those for "not yet" excepted.
    """

    __slots__ = ("_context", "_ssl")

    def __init__(self, context: SSL.Context, sock: socket.socket) -> None:
        self._context = context
        self._ssl = ssl = _ffi.gc(_lib.SSL_new(context._context), _lib.SSL_free)
        if ssl == _ffi.NULL or _lib.SSL_set_fd(ssl, sock.fileno()) != 1:
            raise MemoryError("OpenSSL has no room for another connection")
        _lib.SSL_set_accept_state(ssl)

    def step(self) -> int:
        """Go on with the handshake; what it waits for (``READ``, ``WRITE``), 0 when it is done."""
        result = _lib.SSL_do_handshake(self._ssl)
        return 0 if result == 1 else self._waits_for(result)

    def receive(self, buffer: Any) -> bytes | int:
        """The content of one record, or what there must be for it to come (``READ``, ``WRITE``)."""
        result = _lib.SSL_read(self._ssl, buffer, RECORD_BYTES)
        return _unpack(buffer, result) if result > 0 else self._waits_for(result)

    def transmit(self, data: bytes | bytearray | memoryview) -> int:
        """Send ``data``, which is not empty; how many bytes of it went out."""
        result: int = _lib.SSL_write(self._ssl, data if type(data) is bytes else _from_buffer(data), len(data))
        if result <= 0:
            self._waits_for(result)
            return 0
        return result

    def shut_down(self) -> None:
        """Tell the peer that nothing more comes, if the socket takes that now. Never raises."""
        if _lib.SSL_shutdown(self._ssl) < 0:
            _lib.ERR_clear_error()

    def _waits_for(self, result: int) -> int:
        waits = _WANTS.get(_lib.SSL_get_error(self._ssl, result))
        if waits is None:
            self.details()._raise_ssl_error(self._ssl, result)
            raise AssertionError("OpenSSL failed and gave no error")
        return waits

    def details(self) -> SSL.Connection:
        """The same connection as pyOpenSSL's, for what is asked for seldom. Not to be sent, read or kept with."""
        connection = SSL.Connection.__new__(SSL.Connection)
        connection._context, connection._ssl, connection._socket = self._context, self._ssl, None
        return connection
