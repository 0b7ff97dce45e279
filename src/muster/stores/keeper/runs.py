"""Messages on the socket between a worker and the keeper: packed by the worker, and packed they stay at the keeper.

A run is at most what a row of the keeper's log holds, so a commit's runs become rows without a look into them.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from muster.messages.contract import Share, Slice
from muster.stores.packing import PackedRun, packed_runs, unpacked
from muster.stores.sqlite.rows import ROW_BYTES

_NO_LIMIT = 1 << 31
_MOMENT = Struct("<q")
_SHARE = Struct("<HII")
"""Partition, number of records, bytes of the blob behind it."""
_SLICE = Struct("<qqII")
"""Base, time, number of records, bytes of the blob behind it."""


def encode_commit(shares: Sequence[Share], now_ms: int) -> list[bytes]:
    """A commit of ``shares``."""
    parts = [_MOMENT.pack(now_ms)]
    for partition, records in shares:
        for run, blob in packed_runs(records, ROW_BYTES, _NO_LIMIT):
            parts += _SHARE.pack(partition, len(run), len(blob)), blob
    return parts


def decode_commit(body: bytes, at: int) -> tuple[int, list[Share]]:
    """The commit from ``at`` on: its moment, and its shares in runs, so that a partition may have several."""
    (now_ms,) = _MOMENT.unpack_from(body, at)
    at += _MOMENT.size
    shares = []
    while at < len(body):
        partition, count, size = _SHARE.unpack_from(body, at)
        at += _SHARE.size
        shares.append(Share(partition, PackedRun(body[at : at + size], count)))
        at += size
    return now_ms, shares


def encode_slices(slices: Sequence[Slice]) -> list[bytes]:
    """``slices``, which come packed from the log of the keeper."""
    parts: list[bytes] = []
    for base, enqueued_ms, records in slices:
        for run, blob in packed_runs(records, _NO_LIMIT, _NO_LIMIT):
            parts += _SLICE.pack(base, enqueued_ms, len(run), len(blob)), blob
    return parts


def decode_slices(body: bytes) -> list[Slice]:
    """Slices as they were encoded, unpacked."""
    at, slices = 0, []
    while at < len(body):
        base, enqueued_ms, count, size = _SLICE.unpack_from(body, at)
        at += _SLICE.size
        slices.append(Slice(base, enqueued_ms, unpacked(body, count, at)))
        at += size
    return slices
