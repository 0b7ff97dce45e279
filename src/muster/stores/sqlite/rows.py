"""The rows of the telemetry log: a run of messages of one partition, packed (``stores.packing``) and checked.

A row's checksum (CRC-32) covers partition, base, number of messages, time and blob.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from muster.messages.contract import Slice
from muster.stores.packing import PackedRun, packed_one, packed_runs, unpacked

ROW_BYTES = 1024 * 1024
"""A row holds at most this many bytes of records, unless a single record is longer."""

_NO_LIMIT = 1 << 31
_CHECKED = Struct("<qqqq")


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
    """``write`` as rows."""
    partition, base, enqueued_ms, records = write
    if len(records) == 1:  # often all that a commit has
        data = packed_one(records[0])
        checksum = crc32(data, crc32(_CHECKED.pack(partition, base, 1, enqueued_ms)))
        return [Row(partition, base, 1, enqueued_ms, checksum, data)]
    rows = []
    for run, data in packed_runs(records, ROW_BYTES, _NO_LIMIT):
        identity = partition, base, len(run), enqueued_ms
        rows.append(Row(*identity, crc32(data, crc32(_CHECKED.pack(*identity))), data))
        base += len(run)
    return rows


def unpack(row: Row) -> Slice | None:
    """What ``row`` holds, or ``None`` when it is damaged."""
    return Slice(row.base, row.enqueued_ms, unpacked(row.data, row.messages)) if _sound(row) else None


def unpack_not(row: Row) -> Slice | None:
    """As ``unpack``, with the records as they lie there."""
    return Slice(row.base, row.enqueued_ms, PackedRun(row.data, row.messages)) if _sound(row) else None


def _sound(row: Row) -> bool:
    *identity, checksum, data = row
    return crc32(data, crc32(_CHECKED.pack(*identity))) == checksum
