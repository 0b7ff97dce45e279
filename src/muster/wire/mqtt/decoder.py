"""Bytes from an MQTT 3.1.1 client in, packets out. Hot path: one PUBLISH per read, or many, without copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from muster.wire.mqtt.bodies import (
    connect,
    disconnect,
    ping_request,
    pub_ack,
    pub_comp,
    pub_rec,
    pub_rel,
    publish,
    subscribe,
    unsubscribe,
)
from muster.wire.mqtt.packets import MqttError, Packet

Body = Callable[[bytes, int, int], Packet]

_BODIES: Final[dict[int, Body]] = {
    0x10: connect,
    0x40: pub_ack,
    0x50: pub_rec,
    0x62: pub_rel,
    0x70: pub_comp,
    0x82: subscribe,
    0xA2: unsubscribe,
    0xC0: ping_request,
    0xE0: disconnect,
}
"""By first byte, which fixes type and flags (section 2.2); PUBLISH, whose flags vary, apart."""

_FROM_SERVER: Final = {0x20: "CONNACK", 0x90: "SUBACK", 0xB0: "UNSUBACK", 0xD0: "PINGRESP"}


class Decoder:
    """Cuts a client's byte stream into packets.

    ``max_packet_bytes`` bounds a whole packet, fixed header included; it may be changed between calls, so that
    a connection has a small budget for its first packet. What comes behind that in the same call has the larger
    ``later_packet_bytes`` (by default the same): who hands in no more until the first is judged keeps no more of it
    than that call's data. At most one packet and one read are kept.
    """

    __slots__ = ("_buffer", "_failure", "_later", "_missing", "_plain", "max_packet_bytes")

    def __init__(self, max_packet_bytes: int, later_packet_bytes: int = 0) -> None:
        self.max_packet_bytes = max_packet_bytes
        self._later = later_packet_bytes
        self._buffer = bytearray()
        self._missing = 0
        self._plain = True
        self._failure: tuple[str, int | None] | None = None

    @property
    def unfinished(self) -> bool:
        """Whether part of a packet is kept."""
        return bool(self._buffer)

    def receive(self, data: bytes) -> list[Packet]:
        """The packets that ``data`` completes, in order; what is left over waits for the next call.

        Raises ``MqttError`` at the first packet that breaks the protocol; the error's ``packets`` are the good
        ones before it. From then on every call raises an equal error, with no packets.
        """
        packets: list[Packet] = []
        if not self._plain:
            data = self._resume(data)
        at, end = 0, len(data)
        try:
            while at + 1 < end:
                first = data[at]
                length = data[at + 1]
                body = at + 2
                if length > 0x7F:
                    if body < end and data[body] < 0x80:  # two bytes, as most packets have: not worth a call
                        length += (data[body] << 7) - 0x80
                        body += 1
                    else:
                        _judge_first(first)
                        length, body = _remaining_length(data, at, end)
                        if body == 0:
                            break
                stop = body + length
                if stop - at > self.max_packet_bytes and not (packets and stop - at <= self._later):
                    _judge_first(first)
                    raise MqttError(f"A packet of {stop - at} bytes; at most {self.max_packet_bytes} are taken here.")
                if stop > end:
                    self._missing = stop - end
                    break
                if first & 0xF0 == 0x30:
                    packets.append(publish(data, first, body, stop))
                else:
                    read = _BODIES.get(first)
                    if read is None:
                        raise _bad_first_byte(first)
                    packets.append(read(data, body, stop))
                at = stop
            if at < end:
                self._keep(data, at)
        except MqttError as error:
            self._plain, self._failure, self._buffer = False, (error.reason, error.connack), bytearray()
            error.packets = packets
            raise
        return packets

    def _keep(self, data: bytes, at: int) -> None:
        """Hold what began at ``at`` until the rest comes; refuse at once what can never become a packet."""
        _judge_first(data[at])
        self._buffer += data[at:]
        self._plain = False

    def _resume(self, data: bytes) -> bytes:
        """The pending bytes with ``data``, or nothing while the packet begun is still incomplete."""
        if self._failure is not None:
            raise MqttError(*self._failure)
        self._buffer += data
        if len(data) < self._missing:
            self._missing -= len(data)
            return b""
        whole = bytes(self._buffer)
        self._buffer.clear()
        self._missing = 0
        self._plain = True
        return whole


def _remaining_length(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The remaining length of the packet at ``at`` and where its body begins (section 2.2.3).

    The latter is 0 while the length itself is not all here.
    """
    length = 0
    for index in range(4):
        where = at + 1 + index
        if where == end:
            return 0, 0
        byte = data[where]
        length |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return length, where + 1
    raise MqttError("The remaining length is longer than four bytes (MQTT 3.1.1 section 2.2.3).")


def _judge_first(first: int) -> None:
    """Refuse what no packet begins with, before its length is looked at: then the fault does not depend on the cuts."""
    if first & 0xF0 != 0x30 and first not in _BODIES:
        raise _bad_first_byte(first)


def _bad_first_byte(first: int) -> MqttError:
    kind = first & 0xF0
    if kind in _FROM_SERVER:
        return MqttError(f"{_FROM_SERVER[kind]} is sent by servers only.")
    if kind in (0x00, 0xF0):
        return MqttError(f"Packet type {kind >> 4} is reserved; this may not be MQTT 3.1.1 at all.")
    return MqttError(f"The flags of packet type {kind >> 4} are {first & 0x0F:04b}, which is reserved (section 2.2.2).")
