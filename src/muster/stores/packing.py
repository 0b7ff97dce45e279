"""Runs of records as one blob: the length of each (unsigned 32 bits, little endian), then the records, end to end.

Nothing here does interpreter work per record: who packs shares the interpreter's lock with the loop, or is the loop.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from struct import Struct
from typing import overload

_pack_length = Struct("<I").pack
_LENGTH = array("I").itemsize  # 4 wherever CPython runs


def packed_runs(
    records: Sequence[bytes], most_bytes: int, most_records: int
) -> Iterator[tuple[Sequence[bytes], bytes]]:
    """``records``, one at least, in runs of at most so many bytes and so many of them, each with its blob.

    A record that is longer than ``most_bytes`` is a run of its own, and a ``PackedRun`` stays as it is.
    """
    if isinstance(records, PackedRun):
        yield records, records.blob
        return
    lengths = array("I", map(len, records))
    if len(lengths) <= most_records and sum(lengths) <= most_bytes:
        yield records, _joined(lengths, records)
        return
    ends = array("Q", accumulate(lengths))
    start = taken = 0
    while start < len(ends):
        stop = min(max(start + 1, bisect_right(ends, taken + most_bytes, start)), start + most_records)
        run = records[start:stop]
        yield run, _joined(lengths[start:stop], run)
        start, taken = stop, ends[stop - 1]


def packed_one(record: bytes) -> bytes:
    """The blob of a run of one."""
    return _pack_length(len(record)) + record


def unpacked(blob: bytes, count: int, offset: int = 0) -> list[bytes]:
    """The ``count`` records of a blob that begins at ``offset``."""
    records_start = offset + count * _LENGTH
    lengths = array("I")
    lengths.frombytes(blob[offset:records_start])
    ends = list(accumulate(_little_endian(lengths), initial=records_start))
    return list(map(blob.__getitem__, map(slice, ends, ends[1:])))


class PackedRun(Sequence[bytes]):
    """A run that came as a blob: it is unpacked when somebody looks into it, and is handed on as it came."""

    __slots__ = ("_count", "_records", "blob")

    def __init__(self, blob: bytes, count: int) -> None:
        self.blob = blob
        self._count = count
        self._records: list[bytes] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if self._records is None:
            self._records = unpacked(self.blob, self._count)
        return self._records[index]


def _joined(lengths: array[int], records: Sequence[bytes]) -> bytes:
    return b"".join(chain((_little_endian(lengths).tobytes(),), records))


def _little_endian(lengths: array[int]) -> array[int]:
    if sys.byteorder == "big":
        lengths = lengths[:]
        lengths.byteswap()
    return lengths
