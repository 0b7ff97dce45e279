"""Light clients in one process: devices over MQTT and services over HTTPS, each one connection of its own.

They do what a measurement needs and no more; the SDKs cost more than the hub does and would hide it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from typing import cast

from bench.servers import HOST, Device
from muster.testing.mqtt import connect, puback, publish, subscribe

CONNACK, PUBLISH, SUBACK = 2, 3, 9
FILTERS = (("$iothub/methods/POST/#", 0), ("$iothub/twin/PATCH/properties/desired/#", 0))
_METHOD = b"$iothub/methods/POST/"
_ANSWER = b'{"done":true}'


class PeerError(RuntimeError):
    """The hub did not do what a light client expects; what was measured cannot be trusted."""


class DevicePeer(asyncio.Protocol):
    """A device: answers methods at once, acknowledges messages, and tells ``heard`` of every other message.

    ``heard`` gets topic and payload. ``ready`` is done once the subscriptions are granted.
    """

    def __init__(self, device: Device, token: str, filters: tuple[tuple[str, int], ...] = FILTERS) -> None:
        self.heard: Callable[[bytes, bytes], None] = lambda _topic, _payload: None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        self._hello = connect(device.name, device.user, token, keep_alive=600)
        self._filters = filters
        self._buffer = bytearray()

    @classmethod
    async def open(cls, port: int, trust: ssl.SSLContext, device: Device, token: str) -> DevicePeer:
        """Connect, log in and subscribe."""
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_connection(lambda: cls(device, token), HOST, port, ssl=trust)
        await asyncio.wait_for(peer.ready, 30)
        return peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._hello)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.ready.done():
            self.ready.set_exception(PeerError(f"a device was not let in ({exc})"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for first, body in cut(self._buffer):
            kind = first >> 4
            if kind == PUBLISH:
                self._published(first, body)
            elif kind == CONNACK:
                self._transport.write(subscribe(1, self._filters))
            elif kind == SUBACK and not self.ready.done():
                self.ready.set_result(None)

    def _published(self, first: int, body: bytes) -> None:
        end = 2 + int.from_bytes(body[:2], "big")
        topic, payload = body[2:end], body[end:]
        if first & 0x06:
            packet_id, payload = int.from_bytes(payload[:2], "big"), payload[2:]
            self._transport.write(puback(packet_id))
        if topic.startswith(_METHOD):
            request_id = topic[topic.rindex(b"=") + 1 :].decode()
            self._transport.write(publish(f"$iothub/methods/res/200/?$rid={request_id}", _ANSWER, qos=0))
        else:
            self.heard(topic, payload)


def cut(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """The packets that ``buffer`` holds whole, each as first byte and body; they are removed from it."""
    while len(buffer) >= 2:
        length, at = buffer[1] & 0x7F, 2
        shift = 7
        while buffer[at - 1] & 0x80:
            if at == len(buffer):
                return
            length |= (buffer[at] & 0x7F) << shift
            shift += 7
            at += 1
        if len(buffer) < at + length:
            return
        yield buffer[0], bytes(buffer[at : at + length])
        del buffer[: at + length]


class ServicePeer(asyncio.Protocol):
    """A back end on one kept HTTPS connection, one request at a time."""

    def __init__(self, port: int, authorization: str) -> None:
        self._head = (
            f"api-version=2021-04-12 HTTP/1.1\r\nHost: {HOST}:{port}\r\nAuthorization: {authorization}\r\n"
            "Content-Type: application/json; charset=utf-8\r\nContent-Length: "
        )
        self._buffer = bytearray()
        self._waiting: asyncio.Future[int] | None = None

    @classmethod
    async def open(cls, port: int, trust: ssl.SSLContext, authorization: str) -> ServicePeer:
        """Connect."""
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_connection(lambda: cls(port, authorization), HOST, port, ssl=trust)
        return peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(PeerError(f"the hub closed a service's connection ({exc})"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not separator or self._waiting is None:
            return
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:")
        if len(rest) >= length:
            self._buffer.clear()
            waiting, self._waiting = self._waiting, None
            waiting.set_result(int(head[9:12]))

    async def call(self, method: str, path: str, body: bytes) -> None:
        """One request, which must succeed."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(f"{method} {path}?{self._head}{len(body)}\r\n\r\n".encode() + body)
        status = await self._waiting
        if status != 200:
            raise PeerError(f"{method} {path} was answered {status}")
