"""What goes over the socket between a worker and the keeper, as bytes.

A frame is a head (length of the body in 32 bits, kind in 8, number in 32, little endian) and a body. Both ends are of
one version and of one user, so nothing is negotiated; a frame that cannot be is the end of the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

HELLO = 1
"""The first frame of a worker, with its name, and of the keeper, who knows it then."""
NOTICE = 2
"""Words hub, subject; then the payload. For all other workers."""
QUESTION = 3
"""Words node, hub, subject; then the question. No node is the keeper itself. ``number`` is the asker's own."""
ANSWER = 4
"""To the question of that number; see ``core.node_bus``."""
ABSENT = 5
"""No answer comes to the question of that number. Body: ``GONE`` when it came to nobody, else ``LOST``."""
RUNS = 6
"""Stored messages for the follower of that number, from keeper to worker."""

GONE, LOST = b"g", b"l"

MOST_BYTES = 128 * 1024 * 1024
"""The longest body: several times what a hub has in memory of messages that are not on disk yet."""

_HEAD = Struct("<IBI")
_LENGTH = Struct("<H")


class FrameError(Exception):
    """The other side has sent what is no frame."""


class Frame(NamedTuple):
    """See the kinds above for what ``number`` and ``body`` are."""

    kind: int
    number: int
    body: bytes


def encode(kind: int, number: int, parts: Sequence[bytes]) -> list[bytes]:
    """A frame whose body are ``parts`` end to end, to be written in that order."""
    return [_HEAD.pack(sum(map(len, parts)), kind, number), *parts]


class Decoder:
    """Bytes in, frames out."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._wanted = _HEAD.size
        """So many bytes from the beginning of what is held there is something to see."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` makes whole. Raises ``FrameError``."""
        if self._held:
            self._held += data
            if len(self._held) < self._wanted:
                return []
            data = bytes(self._held)
            self._held.clear()
        frames = []
        at, end = 0, len(data)
        self._wanted = _HEAD.size
        while end - at >= _HEAD.size:
            size, kind, number = _HEAD.unpack_from(data, at)
            if size > MOST_BYTES or not HELLO <= kind <= RUNS:
                raise FrameError(f"a frame of kind {kind} and {size} bytes")
            after = at + _HEAD.size + size
            if after > end:
                self._wanted = after - at
                break
            frames.append(Frame(kind, number, data[at + _HEAD.size : after]))
            at = after
        self._held += data[at:]
        return frames


def words(*texts: str) -> bytes:
    """Short texts (names, at most 64 KiB each) in front of a body."""
    coded = [text.encode() for text in texts]
    return b"".join(_LENGTH.pack(len(text)) + text for text in coded)


def take_words(body: bytes, count: int) -> tuple[list[str], int]:
    """The first ``count`` words of ``body``, and where they end. Raises ``FrameError``."""
    found, at = [], 0
    for _ in range(count):
        start = at + _LENGTH.size
        if start > len(body):
            raise FrameError("a body ends within its words")
        at = start + _LENGTH.unpack_from(body, at)[0]
        if at > len(body):
            raise FrameError("a body ends within its words")
        found.append(body[start:at].decode(errors="replace"))
    return found, at
