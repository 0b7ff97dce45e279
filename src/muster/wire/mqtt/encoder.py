"""The packets a server sends (MQTT 3.1.1), as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

PINGRESP: Final = b"\xd0\x00"

_LONGEST: Final = 268_435_455
"""The largest remaining length four bytes can say (section 2.2.3)."""


def connack(session_present: bool, return_code: int) -> bytes:
    """CONNACK (section 3.2). With a ``return_code`` other than 0 nothing is ever present."""
    return bytes((0x20, 2, int(session_present and return_code == 0), return_code))


def puback(packet_id: int) -> bytes:
    """PUBACK (section 3.4)."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


def pubacks(packet_ids: Iterable[int]) -> bytes:
    """One PUBACK for each identifier, in order, ready for a single write."""
    return b"".join([b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in packet_ids])


def suback(packet_id: int, codes: Iterable[int]) -> bytes:
    """SUBACK (section 3.9): for each filter asked for the QoS granted, or 0x80."""
    granted = bytes(codes)
    return b"\x90" + _remaining_length(2 + len(granted)) + packet_id.to_bytes(2, "big") + granted


def unsuback(packet_id: int) -> bytes:
    """UNSUBACK (section 3.11)."""
    return b"\xb0\x02" + packet_id.to_bytes(2, "big")


def publish(topic: str, payload: bytes, qos: int = 0, packet_id: int = 0, dup: bool = False) -> bytes:
    """PUBLISH (section 3.3), never retained. ``packet_id`` is left out at QoS 0.

    Raises ``ValueError`` when the topic is longer than 65,535 bytes or the packet than MQTT can say.
    """
    name = topic.encode()
    if len(name) > 0xFFFF:
        raise ValueError(f"A topic of {len(name)} bytes; MQTT allows 65535.")
    first = 0x30 | (0x08 if dup else 0) | qos << 1
    identifier = packet_id.to_bytes(2, "big") if qos else b""
    length = _remaining_length(2 + len(name) + len(identifier) + len(payload))
    return b"".join((bytes((first,)), length, len(name).to_bytes(2, "big"), name, identifier, payload))


def _remaining_length(length: int) -> bytes:
    if length < 0x80:
        return bytes((length,))
    if length > _LONGEST:
        raise ValueError(f"A packet of {length} bytes; MQTT allows {_LONGEST}.")
    encoded = bytearray()
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)
