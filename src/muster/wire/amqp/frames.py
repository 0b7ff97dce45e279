"""Frames and protocol headers (AMQP 1.0 part 2, sections 2.2 and 2.3)."""

from __future__ import annotations

from struct import Struct

from muster.wire.amqp.decoding import AmqpFramingError

AMQP_HEADER = b"AMQP\x00\x01\x00\x00"
SASL_HEADER = b"AMQP\x03\x01\x00\x00"

AMQP, SASL = 0, 1
"""Frame types."""

MIN_MAX_FRAME_SIZE = 512
"""Every peer takes frames of this size, and of this size at most until its open is known."""

EMPTY = b"\x00\x00\x00\x08\x02\x00\x00\x00"
"""A frame without a body: the heartbeat."""

_HEAD = Struct(">IBBH")

Frame = tuple[int, int, bytes, int, int]
"""Type, channel, and the body: the bytes it lies in, where it begins, where it ends."""


def encode_frame(channel: int, body: bytes, kind: int = AMQP) -> bytes:
    """A frame of type ``kind`` around ``body``."""
    return _HEAD.pack(8 + len(body), 2, kind, channel) + body


class FrameBuffer:
    """Puts frames together from bytes as they come. Holds one frame and what came with it, at most."""

    __slots__ = ("_data", "_missing", "_parts", "_position", "max_frame_size")

    def __init__(self, max_frame_size: int) -> None:
        self.max_frame_size = max_frame_size
        self._data = b""
        self._position = 0
        self._parts: list[bytes] = []
        self._missing = 0

    def feed(self, data: bytes) -> None:
        """Take ``data``, which continues what was fed before."""
        if self._missing > 0:
            self._parts.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        elif self._position < len(self._data):
            data = self._data[self._position :] + data
        self._data = data
        self._position = 0

    def _wait(self, size: int) -> None:
        rest = self._data[self._position :]
        self._parts = [rest] if rest else []
        self._missing = size - len(rest)
        self._data = b""
        self._position = 0

    def header(self) -> bytes | None:
        """The eight bytes of a protocol header; ``None`` until they are all there."""
        if self._missing > 0:
            return None
        position = self._position
        if len(self._data) - position < 8:
            self._wait(8)
            return None
        self._position = position + 8
        return self._data[position : position + 8]

    def frame(self) -> Frame | None:
        """The next frame; ``None`` until it is all there. Raises ``AmqpFramingError`` for a malformed or large one."""
        if self._missing > 0:
            return None
        data, position = self._data, self._position
        available = len(data) - position
        if available < 8:
            if available:
                self._wait(8)
            return None
        size, offset, kind, channel = _HEAD.unpack_from(data, position)
        if size > self.max_frame_size:
            raise AmqpFramingError(f"a frame of {size} bytes, where at most {self.max_frame_size} were agreed")
        start = offset << 2
        if start < 8 or start > size:
            raise AmqpFramingError("a frame's body begins outside of it")
        if available < size:
            self._wait(size)
            return None
        if available == size:
            self._data, self._position = b"", 0
        else:
            self._position = position + size
        return kind, channel, data, position + start, position + size
