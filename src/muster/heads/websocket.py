"""A WebSocket presented as a plain transport, so that MQTT and AMQP run over it unchanged."""

from __future__ import annotations

import logging
from typing import Any

from muster.heads.tls import WireProtocol, describe_peer
from muster.wire.websocket import NORMAL_CLOSURE, FrameDecoder, encode_binary, encode_close

log = logging.getLogger("muster.websocket")


class WebSocketTransport:
    """One upgraded connection: to the transport below it is the protocol, to the protocol above the transport.

    What is above reads and writes a byte stream; each ``write`` is one binary message. ``get_extra_info`` adds
    ``websocket`` (true) and ``subprotocol`` (as the client spelt it) to what the transport below knows.
    """

    __slots__ = ("_closing", "_decoder", "_protocol", "_subprotocol", "_transport")

    def __init__(self, transport: Any, protocol: WireProtocol, subprotocol: str) -> None:
        self._transport = transport
        self._protocol: WireProtocol | None = protocol
        self._subprotocol = subprotocol
        self._decoder = FrameDecoder()
        self._closing = False

    @property
    def stranger(self) -> bool:
        """See ``heads.relief``."""
        return bool(getattr(self._protocol, "stranger", True))

    # --- called by the transport below

    def connection_made(self, _transport: Any) -> None:
        """The 101 answer is sent: the protocol above begins."""
        assert self._protocol is not None
        self._protocol.connection_made(self)

    def data_received(self, data: bytes) -> None:
        """Frames, cut anywhere."""
        if self._closing or self._protocol is None:
            return
        payload, answers, close_code, fault = self._decoder.receive(data)
        if payload:
            self._protocol.data_received(payload)
        if answers and not self._closing:
            self._transport.write(answers)
        if close_code is not None and not self._closing:
            if fault:
                log.info("WebSocket from %s closed with %s: %s", describe_peer(self), close_code, fault)
            self._closing = True
            self._transport.close()

    def eof_received(self) -> bool:
        """A WebSocket cannot be half closed."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Told on, once."""
        self._closing = True
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Told on."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Told on."""
        if self._protocol is not None:
            self._protocol.resume_writing()

    # --- called by the protocol above

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send ``data`` as one binary message. Dropped after ``close``."""
        if data and not self._closing:
            self._transport.write(encode_binary(data))

    def writelines(self, chunks: Any) -> None:
        """Send the chunks as one message."""
        self.write(b"".join(chunks))

    def close(self) -> None:
        """Send what is queued and a close frame, then end; the client's own close frame is not waited for."""
        if not self._closing:
            self._closing = True
            self._transport.write(encode_close(NORMAL_CLOSURE))
            self._transport.close()

    def abort(self) -> None:
        """End now; what is queued is lost."""
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether either side has ended the WebSocket."""
        return self._closing or bool(self._transport.is_closing())

    def pause_reading(self) -> None:
        """Take no input until ``resume_reading``; what was read already still arrives."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """See ``pause_reading``."""
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Whether input is being taken."""
        return bool(self._transport.is_reading())

    def get_write_buffer_size(self) -> int:
        """Bytes queued in the transport below, frame headers included."""
        return int(self._transport.get_write_buffer_size())

    def can_write_eof(self) -> bool:
        """A WebSocket cannot be half closed."""
        return False

    def set_protocol(self, protocol: WireProtocol) -> None:
        """From now on ``protocol`` is called."""
        self._protocol = protocol

    def get_protocol(self) -> WireProtocol | None:
        """Who is called."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See the class; anything else is the transport's below."""
        if name == "websocket":
            return True
        if name == "subprotocol":
            return self._subprotocol
        return self._transport.get_extra_info(name, default)
