"""The front of port 443, which MQTT and AMQP over WebSocket share with REST.

It reads the first request's head. A WebSocket upgrade on the hub's path or on Event Hubs' becomes an MQTT or
AMQP connection; any other request is handed to the HTTP protocol with all that was read so far. A request for an
upgrade that comes later on a connection that has begun with REST is answered by the HTTP protocol: no client
does that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from muster.core.limits import CONNECT_WAIT, REQUEST_HEAD_BYTES
from muster.heads.request_head import Refusal, Upgrade, judge
from muster.heads.tls import WireProtocol, describe_peer
from muster.heads.websocket import WebSocketTransport
from muster.wire.websocket import handshake_response

log = logging.getLogger("muster.front")

_TOO_LONG = Refusal(
    431, "Request Header Fields Too Large", f"The request's head is longer than {REQUEST_HEAD_BYTES.open} bytes."
)
_STOPPING = Refusal(503, "Service Unavailable", "The hub is stopping, connect again in a moment.", "Retry-After: 1\r\n")
_TOO_SLOW = Refusal(408, "Request Timeout", f"No complete request head came within {CONNECT_WAIT.open} seconds.")


class FrontProtocol:
    """One connection until it is known what it speaks.

    Args:
        loop: for the time limit on the head.
        mqtt_factory, amqp_factory: make the protocol that runs inside a WebSocket, once one is agreed.
        http_factory: makes the protocol that takes over the transport for everything else.
        stopping: whether WebSockets are refused because the hub stops; REST goes on.
    """

    __slots__ = ("_amqp_factory", "_http_factory", "_mqtt_factory", "_received", "_stopping", "_timer", "_transport")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        mqtt_factory: Callable[[], WireProtocol],
        amqp_factory: Callable[[], WireProtocol],
        http_factory: Callable[[], Any],
        stopping: Callable[[], bool] = bool,
    ) -> None:
        self._mqtt_factory = mqtt_factory
        self._amqp_factory = amqp_factory
        self._http_factory = http_factory
        self._stopping = stopping
        self._transport: Any = None
        self._received = bytearray()
        self._timer = loop.call_later(CONNECT_WAIT.open, self._refuse, _TOO_SLOW)

    stranger = True
    """See ``heads.relief``."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        received = self._received
        searched = max(0, len(received) - 3)
        received += data
        end = received.find(b"\r\n\r\n", searched)
        if end > REQUEST_HEAD_BYTES.open or (end < 0 and len(received) > REQUEST_HEAD_BYTES.open):
            self._refuse(_TOO_LONG)
            return
        if end < 0:
            return
        asked = judge(bytes(received[:end]))
        if isinstance(asked, Upgrade) and self._stopping():
            asked = _STOPPING
        if isinstance(asked, Refusal):
            self._refuse(asked)
            return
        self._timer.cancel()
        if asked is None:
            self._hand_over(self._http_factory(), bytes(received))
        else:
            self._upgrade(asked, bytes(received[end + 4 :]))

    def _upgrade(self, asked: Upgrade, early: bytes) -> None:
        make = self._mqtt_factory if asked.subprotocol.lower() == "mqtt" else self._amqp_factory
        self._transport.write(handshake_response(asked.key, asked.subprotocol))
        self._hand_over(WebSocketTransport(self._transport, make(), asked.subprotocol), early)

    def _hand_over(self, protocol: WireProtocol, early: bytes) -> None:
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if early:
            protocol.data_received(early)

    def _refuse(self, refusal: Refusal) -> None:
        self._timer.cancel()
        if self._transport is None or self._transport.is_closing():
            return
        log.info("request from %s refused with %s: %s", describe_peer(self._transport), refusal.status, refusal.reason)
        body = (refusal.reason + "\n").encode("ascii", "backslashreplace")
        self._transport.write(
            f"HTTP/1.1 {refusal.status} {refusal.phrase}\r\n{refusal.headers}"
            f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
            "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        self._transport.close()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._timer.cancel()

    def pause_writing(self) -> None:
        """Nothing is written here that could be paused."""

    def resume_writing(self) -> None:
        """See ``pause_writing``."""
