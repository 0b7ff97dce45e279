"""What a stream's message holds, and how its place in the stream makes sequence numbers.

A message of a stream is a run of the messages of devices. Its body: version 1, number of records, CRC-32 of number and
blob (three unsigned 32 bits, little endian), then the blob of ``stores.packing``. One without records is a probe.

A device's message has the sequence number (place in the stream - 1) x 4,096 + index in its run: it grows, has gaps,
needs nobody who hands it out, and is the same on every node. 4,096 leaves room for 2^41 runs below 2^53, up to which
JavaScript's numbers, which clients keep sequence numbers in, are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from struct import error as StructError
from zlib import crc32

from muster.messages.contract import Slice
from muster.stores.packing import packed_runs, unpacked

RUN_BITS = 12
RUN_RECORDS = 1 << RUN_BITS
"""A message of a stream has at most so many records."""

_HEAD = Struct("<III")
_COUNT = Struct("<I")
_VERSION = 1


def base_of(place: int) -> int:
    """The first sequence number at a place in the stream (places begin at 1)."""
    return (place - 1) << RUN_BITS


def place_of(sequence: int) -> int:
    """Where in the stream a sequence number is."""
    return (max(0, sequence) >> RUN_BITS) + 1


def bodies(records: Sequence[bytes], most_bytes: int) -> Iterator[bytes]:
    """``records`` as bodies of messages, each with at most ``most_bytes`` of records unless a single one is longer."""
    for run, blob in packed_runs(records, most_bytes, RUN_RECORDS):
        yield _body(len(run), blob)


def _body(count: int, blob: bytes) -> bytes:
    return _HEAD.pack(_VERSION, count, crc32(blob, crc32(_COUNT.pack(count)))) + blob


PROBE = _body(0, b"")


def count_of(body: bytes) -> int:
    """How many records a body says to have; 0 when it is none."""
    try:
        version, count, _ = _HEAD.unpack_from(body)
    except StructError:
        return 0
    return int(count) if version == _VERSION else 0


def slice_of(place: int, enqueued_ms: int, body: bytes) -> Slice | None:
    """What the message at ``place`` holds, ``None`` when it is damaged. A probe's slice has no records."""
    if len(body) < _HEAD.size:
        return None
    version, count, checksum = _HEAD.unpack_from(body)
    if version != _VERSION or crc32(memoryview(body)[_HEAD.size :], crc32(_COUNT.pack(count))) != checksum:
        return None
    return Slice(base_of(place), enqueued_ms, unpacked(body, count, _HEAD.size))
