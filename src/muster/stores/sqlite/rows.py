"""The rows of the telemetry log: a run of messages of one partition, packed and checked.

A row's blob is the length of each record (unsigned 32 bits, little endian) and then the records, end to
end. Its checksum (CRC-32) covers partition, base, number of messages, time and blob.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from muster.messages.contract import Slice

ROW_BYTES = 1024 * 1024
"""A row holds at most this many bytes of records, unless a single record is longer."""

_CHECKED = Struct("<qqqq")
_LENGTH = array("I").itemsize  # 4 wherever CPython runs


class Write(NamedTuple):
    """One partition's share of a commit, and where it goes: from sequence number ``base`` on."""

    partition: int
    base: int
    enqueued_ms: int
    records: Sequence[bytes]


class Row(NamedTuple):
    """One row of table ``slice``, columns in order, the id left out."""

    partition: int
    base: int
    messages: int
    enqueued_ms: int
    checksum: int
    data: bytes


def pack(write: Write) -> list[Row]:
    """``write`` as rows. Does no interpreter work per record: the writer's thread shares the lock with the loop."""
    lengths = array("I", map(len, write.records))
    if sum(lengths) <= ROW_BYTES:
        return [_row(write, 0, lengths, write.records)]
    ends = array("Q", accumulate(lengths))
    rows, start, taken = [], 0, 0
    while start < len(ends):
        stop = max(start + 1, bisect_right(ends, taken + ROW_BYTES, start))
        rows.append(_row(write, start, lengths[start:stop], write.records[start:stop]))
        start, taken = stop, ends[stop - 1]
    return rows


def _row(write: Write, start: int, lengths: array[int], records: Sequence[bytes]) -> Row:
    data = b"".join(chain((_little_endian(lengths).tobytes(),), records))
    identity = write.partition, write.base + start, len(records), write.enqueued_ms
    return Row(*identity, crc32(data, crc32(_CHECKED.pack(*identity))), data)


def unpack(row: Row) -> Slice | None:
    """What ``row`` holds, or ``None`` when it is damaged."""
    *identity, checksum, data = row
    if crc32(data, crc32(_CHECKED.pack(*identity))) != checksum:
        return None
    records_start = row.messages * _LENGTH
    lengths = array("I")
    lengths.frombytes(data[:records_start])
    ends = list(accumulate(_little_endian(lengths), initial=records_start))
    records = list(map(data.__getitem__, map(slice, ends, ends[1:])))
    return Slice(row.base, row.enqueued_ms, records)


def _little_endian(lengths: array[int]) -> array[int]:
    if sys.byteorder == "big":
        lengths = lengths[:]
        lengths.byteswap()
    return lengths
