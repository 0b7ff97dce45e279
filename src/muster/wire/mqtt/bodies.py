"""The part of each packet behind its fixed header: ``data`` from ``at`` to ``stop`` (exclusive)."""

from __future__ import annotations

from typing import Final

from muster.wire.mqtt.packets import (
    IDENTIFIER_REJECTED,
    UNACCEPTABLE_PROTOCOL_LEVEL,
    Connect,
    Disconnect,
    MqttError,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
    Will,
)

_NUL: Final = 0x00
_HASH: Final = 0x23
_PLUS: Final = 0x2B


def publish(data: bytes, first: int, at: int, stop: int) -> Publish:
    """PUBLISH; ``first`` is the first byte of the fixed header (section 3.3)."""
    begin = at + 2
    if begin > stop:
        raise MqttError("PUBLISH ends before its topic.")
    end = begin + (data[at] << 8 | data[at + 1])
    topic = data[begin:end]
    if not topic or _PLUS in topic or _HASH in topic or _NUL in topic or not topic.isascii():
        _judge_topic(topic)
    if not first & 0x06:
        if end > stop:
            raise MqttError("PUBLISH ends within its topic.")
        if first & 0x08:
            raise MqttError("PUBLISH has DUP set at QoS 0 (section 3.3.1.1).")
        return Publish(topic, data[end:stop], 0, 0, False, first & 0x01 != 0)
    begin = end + 2
    if begin > stop:
        raise MqttError("PUBLISH ends before its packet identifier.")
    packet_id = data[end] << 8 | data[end + 1]
    if packet_id == 0:
        raise MqttError("PUBLISH has packet identifier 0 (section 2.3.1).")
    qos = first >> 1 & 0x03
    if qos == 3:
        raise MqttError("PUBLISH has both QoS bits set (section 3.3.1.2).")
    return Publish(topic, data[begin:stop], qos, packet_id, first & 0x08 != 0, first & 0x01 != 0)


def _judge_topic(topic: bytes) -> None:
    if not topic:
        raise MqttError("PUBLISH has an empty topic (section 4.7.3).")
    if _PLUS in topic or _HASH in topic:
        raise MqttError("The topic of PUBLISH holds a wildcard (section 3.3.2.1); percent-encode it in a property bag.")
    _decoded(topic, "The topic of PUBLISH")


def connect(data: bytes, at: int, stop: int) -> Connect:
    """CONNECT (section 3.1). A protocol level other than 4 is refused with CONNACK code 1."""
    reader = _Reader(data, at, stop, "CONNECT")
    name = reader.text("protocol name")
    level = reader.byte("protocol level")
    if name == "MQIsdp" or (name == "MQTT" and level != 4):
        raise MqttError(
            f"CONNECT asks for {name} protocol level {level}; only MQTT 3.1.1, level 4, is served.",
            UNACCEPTABLE_PROTOCOL_LEVEL,
        )
    if name != "MQTT":
        raise MqttError("CONNECT has a protocol name other than MQTT (section 3.1.2.1).")
    flags = reader.byte("connect flags")
    _judge_connect_flags(flags)
    keep_alive = reader.number("keep-alive")
    client_id = reader.text("client identifier")
    will = None
    if flags & 0x04:
        topic = reader.text("will topic")
        _judge_topic(topic.encode())
        will = Will(topic, reader.binary("will message"), flags >> 3 & 0x03, flags & 0x20 != 0)
    username = reader.text("user name") if flags & 0x80 else None
    password = reader.binary("password") if flags & 0x40 else None
    reader.finish()
    clean_session = flags & 0x02 != 0
    if not client_id and not clean_session:
        raise MqttError("CONNECT has an empty client identifier without clean session.", IDENTIFIER_REJECTED)
    return Connect(client_id, clean_session, keep_alive, username, password, will, name, level)


def _judge_connect_flags(flags: int) -> None:
    """Sections 3.1.2.3 to 3.1.2.9."""
    if flags & 0x01:
        raise MqttError("CONNECT has the reserved flag set (section 3.1.2.3).")
    if not flags & 0x04 and flags & 0x38:
        raise MqttError("CONNECT has a will QoS or will retain but no will (section 3.1.2.6).")
    if flags & 0x18 == 0x18:
        raise MqttError("CONNECT has will QoS 3 (section 3.1.2.6).")
    if flags & 0x40 and not flags & 0x80:
        raise MqttError("CONNECT has a password but no user name (section 3.1.2.9).")


def pub_ack(data: bytes, at: int, stop: int) -> PubAck:
    """PUBACK (section 3.4)."""
    return PubAck(_only_packet_id(data, at, stop, "PUBACK"))


def pub_rec(data: bytes, at: int, stop: int) -> PubRec:
    """PUBREC (section 3.5)."""
    return PubRec(_only_packet_id(data, at, stop, "PUBREC"))


def pub_rel(data: bytes, at: int, stop: int) -> PubRel:
    """PUBREL (section 3.6)."""
    return PubRel(_only_packet_id(data, at, stop, "PUBREL"))


def pub_comp(data: bytes, at: int, stop: int) -> PubComp:
    """PUBCOMP (section 3.7)."""
    return PubComp(_only_packet_id(data, at, stop, "PUBCOMP"))


def subscribe(data: bytes, at: int, stop: int) -> Subscribe:
    """SUBSCRIBE (section 3.8)."""
    reader = _Reader(data, at, stop, "SUBSCRIBE")
    packet_id = reader.packet_id()
    filters: list[tuple[str, int]] = []
    while reader.at < stop:
        topic_filter = reader.topic_filter()
        qos = reader.byte("requested QoS")
        if qos > 2:
            raise MqttError(f"SUBSCRIBE asks for QoS byte {qos} (section 3.8.3).")
        filters.append((topic_filter, qos))
    if not filters:
        raise MqttError("SUBSCRIBE names no topic filter (section 3.8.3).")
    return Subscribe(packet_id, filters)


def unsubscribe(data: bytes, at: int, stop: int) -> Unsubscribe:
    """UNSUBSCRIBE (section 3.10)."""
    reader = _Reader(data, at, stop, "UNSUBSCRIBE")
    packet_id = reader.packet_id()
    filters: list[str] = []
    while reader.at < stop:
        filters.append(reader.topic_filter())
    if not filters:
        raise MqttError("UNSUBSCRIBE names no topic filter (section 3.10.3).")
    return Unsubscribe(packet_id, filters)


def ping_request(_data: bytes, at: int, stop: int) -> PingReq:
    """PINGREQ (section 3.12)."""
    if at != stop:
        raise MqttError("PINGREQ has a body.")
    return PingReq()


def disconnect(_data: bytes, at: int, stop: int) -> Disconnect:
    """DISCONNECT (section 3.14)."""
    if at != stop:
        raise MqttError("DISCONNECT has a body.")
    return Disconnect()


def _only_packet_id(data: bytes, at: int, stop: int, kind: str) -> int:
    reader = _Reader(data, at, stop, kind)
    packet_id = reader.packet_id()
    reader.finish()
    return packet_id


def _decoded(raw: bytes, field: str) -> str:
    """``raw`` as text (section 1.5.3): valid UTF-8, no surrogates, no U+0000."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise MqttError(f"{field} is not valid UTF-8 (section 1.5.3).") from None
    if "\0" in text:
        raise MqttError(f"{field} holds U+0000 (section 1.5.3).")
    return text


class _Reader:
    """Takes field after field out of a packet's body; every way to run over its end is an ``MqttError``."""

    __slots__ = ("at", "data", "kind", "stop")

    def __init__(self, data: bytes, at: int, stop: int, kind: str) -> None:
        self.data, self.at, self.stop, self.kind = data, at, stop, kind

    def byte(self, field: str) -> int:
        at = self.at
        self._advance(1, field)
        return self.data[at]

    def number(self, field: str) -> int:
        at = self.at
        self._advance(2, field)
        return self.data[at] << 8 | self.data[at + 1]

    def binary(self, field: str) -> bytes:
        length = self.number(field)
        at = self.at
        self._advance(length, field)
        return self.data[at : self.at]

    def text(self, field: str) -> str:
        return _decoded(self.binary(field), f"The {field} of {self.kind}")

    def packet_id(self) -> int:
        packet_id = self.number("packet identifier")
        if packet_id == 0:
            raise MqttError(f"{self.kind} has packet identifier 0 (section 2.3.1).")
        return packet_id

    def topic_filter(self) -> str:
        """A topic filter whose wildcards stand where they may (section 4.7.1)."""
        text = self.text("topic filter")
        if not text:
            raise MqttError(f"{self.kind} has an empty topic filter (section 4.7.3).")
        if "#" in text or "+" in text:
            levels = text.split("/")
            if any(len(level) > 1 and ("#" in level or "+" in level) for level in levels) or "#" in levels[:-1]:
                raise MqttError(f"A topic filter of {self.kind} has a misplaced wildcard (section 4.7.1).")
        return text

    def finish(self) -> None:
        if self.at != self.stop:
            raise MqttError(f"{self.kind} is longer than its fields.")

    def _advance(self, count: int, field: str) -> None:
        if self.at + count > self.stop:
            raise MqttError(f"{self.kind} ends before or within its {field}.")
        self.at += count
