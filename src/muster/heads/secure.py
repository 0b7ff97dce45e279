"""A TLS connection whose every message costs little: pyOpenSSL's, with what happens most often called directly.

pyOpenSSL takes 16 KiB of memory for each read, asks OpenSSL for the error also after a success (which lets go of the
interpreter's lock once more), and says "not yet" by raising. The calls here are the same ones, by the same bindings,
without that; everything that is rare or goes wrong is left to pyOpenSSL and its exceptions.
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


class SecureConnection(SSL.Connection):
    """The server's end of a connection on the non-blocking ``sock``. Waits for the client's hello.

    Every call may raise pyOpenSSL's exceptions, "not yet" excepted.
    """

    def __init__(self, context: SSL.Context, sock: socket.socket) -> None:
        super().__init__(context, sock)
        # pyOpenSSL has each read go on until there is input for us, and has no way to turn that off: a client that
        # sends one key update after the other would hold the loop for as long as it liked.
        _lib.SSL_clear_mode(self._ssl, _lib.SSL_MODE_AUTO_RETRY)
        self.set_accept_state()

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

    def _waits_for(self, result: int) -> int:
        waits = _WANTS.get(_lib.SSL_get_error(self._ssl, result))
        if waits is None:
            self._raise_ssl_error(self._ssl, result)
            raise AssertionError("OpenSSL failed and gave no error")
        return waits
