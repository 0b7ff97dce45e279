"""The MQTT 3.1.1 control packets a client sends to a server, as values.

Sections named in this package are those of the OASIS standard MQTT Version 3.1.1.
"""

from __future__ import annotations

from typing import Final, NamedTuple

UNACCEPTABLE_PROTOCOL_LEVEL: Final = 1
IDENTIFIER_REJECTED: Final = 2

SUBSCRIBE_REFUSED: Final = 0x80
"""The SUBACK code for a filter that is not granted (section 3.9.3)."""


class MqttError(Exception):
    """The peer broke the protocol; the connection cannot go on.

    ``connack`` is the CONNACK return code to answer before closing, where the standard has one for the
    fault, else ``None``: close without an answer (section 4.8). ``packets`` holds what the same read
    brought before the fault, so that the caller may still serve it.
    """

    def __init__(self, reason: str, connack: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.connack = connack
        self.packets: list[Packet] = []


class Will(NamedTuple):
    """The message to publish when the connection ends without DISCONNECT (section 3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Connect(NamedTuple):
    """CONNECT (section 3.1). ``keep_alive`` in seconds, 0 for none. An empty ``client_id`` comes with
    ``clean_session`` only. ``username`` and ``password`` are ``None`` when absent, which is not the same as empty."""

    client_id: str
    clean_session: bool
    keep_alive: int
    username: str | None
    password: bytes | None
    will: Will | None
    protocol_name: str
    protocol_level: int

    def __repr__(self) -> str:
        return f"Connect(client_id={self.client_id!r}, username={self.username!r}, keep_alive={self.keep_alive})"


class Publish:
    """PUBLISH (section 3.3). ``topic`` is valid UTF-8 without wildcards, undecoded; ``packet_id`` is 0 at QoS 0.

    A slotted class, not a named tuple: cheaper to make and to read, and these are made by the million.
    """

    __slots__ = ("dup", "packet_id", "payload", "qos", "retain", "topic")

    def __init__(  # noqa: PLR0917 - keywords would cost a third more
        self, topic: bytes, payload: bytes, qos: int, packet_id: int, dup: bool, retain: bool
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.packet_id = packet_id
        self.dup = dup
        self.retain = retain

    def _values(self) -> tuple[bytes, bytes, int, int, bool, bool]:
        return self.topic, self.payload, self.qos, self.packet_id, self.dup, self.retain

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Publish) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"Publish(topic={self.topic!r}, {len(self.payload)} bytes, qos={self.qos}, packet_id={self.packet_id})"


class PubAck(NamedTuple):
    """PUBACK (section 3.4)."""

    packet_id: int


class PubRec(NamedTuple):
    """PUBREC (section 3.5), of a QoS 2 exchange."""

    packet_id: int


class PubRel(NamedTuple):
    """PUBREL (section 3.6), of a QoS 2 exchange."""

    packet_id: int


class PubComp(NamedTuple):
    """PUBCOMP (section 3.7), of a QoS 2 exchange."""

    packet_id: int


class Subscribe(NamedTuple):
    """SUBSCRIBE (section 3.8). ``filters`` are topic filters with the QoS asked for (0 to 2), at least one."""

    packet_id: int
    filters: list[tuple[str, int]]


class Unsubscribe(NamedTuple):
    """UNSUBSCRIBE (section 3.10). At least one filter."""

    packet_id: int
    filters: list[str]


class PingReq(NamedTuple):
    """PINGREQ (section 3.12)."""


class Disconnect(NamedTuple):
    """DISCONNECT (section 3.14): the client closes in order, and its will is discarded."""


Packet = Connect | Publish | PubAck | PubRec | PubRel | PubComp | Subscribe | Unsubscribe | PingReq | Disconnect
