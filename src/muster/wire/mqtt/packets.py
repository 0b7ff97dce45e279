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


class Publish(NamedTuple):
    """PUBLISH (section 3.3). ``topic`` is valid UTF-8 without wildcards, undecoded; ``packet_id`` is 0 at QoS 0."""

    topic: bytes
    payload: bytes
    qos: int
    packet_id: int
    dup: bool
    retain: bool


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
