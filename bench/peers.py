"""Light clients in one process: devices over MQTT, services over HTTPS and AMQP, each one connection of its own.

They do what a measurement needs and no more; the SDKs cost more than the hub does and would hide it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from typing import cast

from bench.servers import HOST, Device
from muster.testing.mqtt import DISCONNECT, connect, puback, publish, subscribe
from muster.wire.amqp.composite import encode_composite
from muster.wire.amqp.frames import AMQP_HEADER, SASL, SASL_HEADER, FrameBuffer, encode_frame
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import (
    SENDER,
    Attach,
    Begin,
    Disposition,
    Flow,
    Open,
    Source,
    Target,
    Transfer,
    decode_performative,
    encode_performative,
)
from muster.wire.amqp.sasl import SaslInit

CONNACK, PUBLISH, SUBACK = 2, 3, 9
PATIENCE = 60.0
"""Seconds that a light device waits for an answer."""
FILTERS = (
    ("$iothub/methods/POST/#", 0),
    ("$iothub/twin/PATCH/properties/desired/#", 0),
    ("devices/{id}/messages/devicebound/#", 1),
)
_METHOD = b"$iothub/methods/POST/"
_ANSWER = b'{"done":true}'


Filters = tuple[tuple[str, int], ...]


class PeerError(RuntimeError):
    """The hub did not do what a light client expects; what was measured cannot be trusted."""


class DevicePeer(asyncio.Protocol):
    """A device: answers methods at once, acknowledges messages, and tells ``heard`` of every other message.

    ``heard`` gets topic and payload. ``ready`` is done once the subscriptions are granted.
    """

    def __init__(self, device: Device, token: str, filters: Filters = FILTERS) -> None:
        self.heard: Callable[[bytes, bytes], None] = lambda _topic, _payload: None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.lost = False
        self._hello = connect(device.name, device.user, token, keep_alive=600)
        self._filters = [(name.format(id=device.name), qos) for name, qos in filters]
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


class LightDevice(asyncio.Protocol):
    """A device that asks one thing after the other, whoever it is for the hub."""

    def __init__(self, client_id: str, user: str, password: str) -> None:
        self._hello = connect(client_id, user, password, keep_alive=600)
        self._buffer = bytearray()
        self._kind = 0
        self._waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls, port: int, trust: ssl.SSLContext, client_id: str, user: str, password: str
    ) -> LightDevice:  # fmt: skip
        """Connect and log in."""
        loop = asyncio.get_running_loop()
        _, device = await loop.create_connection(lambda: cls(client_id, user, password), HOST, port, ssl=trust)
        answer = await device._exchange(device._hello, CONNACK)
        if answer != b"\0\0":
            raise PeerError(f"{client_id} was not let in: {answer!r}")
        return device

    async def subscribe(self, name: str) -> None:
        """Subscribe to a filter at QoS 1."""
        if (answer := await self._exchange(subscribe(1, [(name, 1)]), SUBACK))[2:] != b"\1":
            raise PeerError(f"{name} was not granted: {answer!r}")

    async def ask(self, topic: str, payload: bytes = b"{}") -> tuple[bytes, bytes]:
        """Publish at QoS 1; the topic and payload of the next message, which is the answer."""
        body = await self._exchange(publish(topic, payload), PUBLISH)
        end = 2 + int.from_bytes(body[:2], "big")
        self._transport.write(puback(int.from_bytes(body[end : end + 2], "big")))
        return body[2:end], body[end + 2 :]

    def close(self) -> None:
        """Say good-bye and go."""
        self._transport.write(DISCONNECT)
        self._transport.close()

    async def _exchange(self, packet: bytes, kind: int) -> bytes:
        self._kind, self._waiting = kind, asyncio.get_running_loop().create_future()
        self._transport.write(packet)
        async with asyncio.timeout(PATIENCE):
            return await self._waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._waiting.done():
            self._waiting.set_exception(PeerError(f"the hub closed a device's connection ({exc})"))
            self._waiting.exception()  # nobody may be waiting

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for first, body in cut(self._buffer):
            if first >> 4 == self._kind and not self._waiting.done():
                self._waiting.set_result(body)


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


class SenderPeer(asyncio.Protocol):
    """A back end that sends to devices on one AMQP link. ``ready`` is done once it has credit."""

    def __init__(self, policy: str, token: str) -> None:
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._init = SaslInit("PLAIN", f"\0{policy}@sas.root.{HOST}\0{token}".encode(), HOST)
        self._frames = FrameBuffer(1 << 20)
        self._header_due = True
        self._next = self._granted = 0
        self._more = asyncio.Event()
        self._unsettled: dict[int, asyncio.Future[None]] = {}

    @classmethod
    async def open(cls, port: int, trust: ssl.SSLContext, policy: str, token: str) -> SenderPeer:
        """Connect, log in and attach."""
        loop = asyncio.get_running_loop()
        _, peer = await loop.create_connection(lambda: cls(policy, token), HOST, port, ssl=trust)
        await asyncio.wait_for(peer.ready, 30)
        return peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(SASL_HEADER + encode_frame(0, encode_composite(self._init), SASL))

    def connection_lost(self, exc: Exception | None) -> None:
        lost = PeerError(f"the hub closed the sender's connection ({exc})")
        for future in (self.ready, *self._unsettled.values()):
            if not future.done():
                future.set_exception(lost)

    def data_received(self, data: bytes) -> None:
        self._frames.feed(data)
        while True:
            if self._header_due:
                if self._frames.header() is None:
                    return
                self._header_due = False
            frame = self._frames.frame()
            if frame is None:
                return
            kind, _, body, start, end = frame
            if kind == SASL:
                self._sasl_frame()
            elif start < end:
                self._performative(decode_performative(body, start, end)[0])

    def _sasl_frame(self) -> None:
        """The mechanisms, then the outcome; a wrong password shows as a closed connection."""
        self._next += 1
        if self._next == 2:
            self._next, self._header_due = 0, True
            attach = Attach("sender", 0, SENDER, source=Source("bench"), target=Target("/messages/devicebound"),
                            initial_delivery_count=0)  # fmt: skip
            self._transport.write(AMQP_HEADER)
            for performative in (Open("bench", HOST), Begin(None, 0, 1 << 20, 1 << 20), attach):
                self._transport.write(encode_frame(0, encode_performative(performative)))

    def _performative(self, performative: object) -> None:
        if isinstance(performative, Flow) and performative.handle is not None:
            self._granted = (performative.delivery_count or 0) + (performative.link_credit or 0)
            self._more.set()
            if not self.ready.done():
                self.ready.set_result(None)
        elif isinstance(performative, Disposition):
            last = performative.first if performative.last is None else performative.last
            for number in range(performative.first, last + 1):
                future = self._unsettled.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(None)

    async def send(self, device_id: str, body: bytes) -> None:
        """Send to a device as soon as there is credit; returns once the hub has settled it."""
        while self._next >= self._granted:
            self._more.clear()
            await self._more.wait()
        number, self._next = self._next, self._next + 1
        message = Message(properties=Properties(to=f"/devices/{device_id}/messages/devicebound"), data=(body,))
        transfer = Transfer(0, number, number.to_bytes(4, "big"), 0, settled=False)
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unsettled[number] = settled
        self._transport.write(encode_frame(0, encode_performative(transfer) + encode_message(message)))
        await settled
