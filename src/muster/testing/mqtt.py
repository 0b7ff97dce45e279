"""A scripted MQTT 3.1.1 client: each packet is sent and expected by name, and broken ones can be sent too.

The functions make packets as bytes; ``MqttClient`` is one connection. For tests of what a hub does with exactly
these bytes; for a device that just works use an SDK.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from typing import NamedTuple

from muster.wire.mqtt import encoder
from muster.wire.mqtt.packets import Will

PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
PATIENCE_SECONDS = 10.0
"""How long a client waits for what it expects, unless it is told another ``patience``."""


def packet(first: int, body: bytes) -> bytes:
    """Any control packet: first byte, remaining length, body."""
    length, size = bytearray(), len(body)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes((first,)) + length + body


def field(data: str | bytes) -> bytes:
    """A text or binary field with its two-byte length."""
    raw = data.encode() if isinstance(data, str) else data
    return len(raw).to_bytes(2, "big") + raw


def connect(
    client_id: str,
    username: str | None = None,
    password: str | bytes | None = None,
    *,
    clean_session: bool = False,
    keep_alive: int = 60,
    will: Will | None = None,
    protocol_name: str = "MQTT",
    protocol_level: int = 4,
) -> bytes:
    """CONNECT, as the Azure SDKs send it by default: session kept, no will."""
    flags = 0x02 if clean_session else 0
    payload = [field(client_id)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | (0x20 if will.retain else 0)
        payload += [field(will.topic), field(will.payload)]
    if username is not None:
        flags |= 0x80
        payload.append(field(username))
    if password is not None:
        flags |= 0x40
        payload.append(field(password))
    head = field(protocol_name) + bytes((protocol_level, flags)) + keep_alive.to_bytes(2, "big")
    return packet(0x10, head + b"".join(payload))


def publish(
    topic: str | bytes,
    payload: bytes = b"",
    *,
    qos: int = 1,
    packet_id: int = 1,
    dup: bool = False,
    retain: bool = False,
) -> bytes:
    """PUBLISH; ``packet_id`` is left out at QoS 0."""
    first = 0x30 | (0x08 if dup else 0) | qos << 1 | (0x01 if retain else 0)
    return packet(first, field(topic) + (packet_id.to_bytes(2, "big") if qos else b"") + payload)


def subscribe(packet_id: int, filters: Iterable[tuple[str, int]]) -> bytes:
    """SUBSCRIBE to filters, each with a QoS."""
    body = b"".join([field(name) + bytes((qos,)) for name, qos in filters])
    return packet(0x82, packet_id.to_bytes(2, "big") + body)


def unsubscribe(packet_id: int, filters: Iterable[str]) -> bytes:
    """UNSUBSCRIBE from filters."""
    return packet(0xA2, packet_id.to_bytes(2, "big") + b"".join([field(name) for name in filters]))


def puback(packet_id: int) -> bytes:
    """PUBACK."""
    return encoder.puback(packet_id)


class Answer(NamedTuple):
    """A packet from the server: its type (``CONNACK``, ...), the flags of its first byte, its body."""

    kind: str
    flags: int
    body: bytes

    @property
    def packet_id(self) -> int:
        """The identifier that PUBACK, SUBACK, UNSUBACK and PUBREL begin with."""
        return int.from_bytes(self.body[:2], "big")


_KINDS = {
    2: "CONNACK", 3: "PUBLISH", 4: "PUBACK", 5: "PUBREC", 6: "PUBREL", 7: "PUBCOMP", 9: "SUBACK", 11: "UNSUBACK",
    13: "PINGRESP",
}  # fmt: skip


class MqttClient:
    """One connection to a hub. What does not come within ``patience`` seconds is a ``TimeoutError``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.patience = PATIENCE_SECONDS

    @classmethod
    async def open(
        cls, host: str, port: int, context: ssl.SSLContext | None = None, server_name: str | None = None
    ) -> MqttClient:
        """Connect the socket, with TLS when ``context`` is given, checked against ``server_name``."""
        return cls(*await asyncio.open_connection(host, port, ssl=context, server_hostname=server_name))

    async def send(self, *packets: bytes) -> None:
        """Send the packets in one write."""
        self.writer.write(b"".join(packets))
        await self.writer.drain()

    async def receive(self) -> Answer:
        """The next packet. Raises ``asyncio.IncompleteReadError`` when the server has closed."""
        async with asyncio.timeout(self.patience):
            first = (await self.reader.readexactly(1))[0]
            length = shift = 0
            while True:
                byte = (await self.reader.readexactly(1))[0]
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            return Answer(_KINDS[first >> 4], first & 0x0F, await self.reader.readexactly(length))

    async def expect(self, kind: str) -> Answer:
        """The next packet, which must be of this ``kind``; raises ``AssertionError`` otherwise."""
        answer = await self.receive()
        if answer.kind != kind:
            raise AssertionError(f"expected {kind}, got {answer}")
        return answer

    async def connect(
        self, client_id: str, username: str | None = None, password: str | bytes | None = None, **options: object
    ) -> tuple[bool, int]:
        """Send CONNECT (see ``connect`` for ``options``); whether a session was present, and the return code."""
        await self.send(connect(client_id, username, password, **options))  # type: ignore[arg-type]
        present, code = (await self.expect("CONNACK")).body
        return bool(present), code

    async def expect_end(self) -> bytes:
        """Wait for the server to close; returns what it sent before."""
        async with asyncio.timeout(self.patience):
            try:
                return await self.reader.read(-1)
            except ConnectionError:
                return b""

    def abort(self) -> None:
        """Break the connection without a word."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the socket, without DISCONNECT."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            return
