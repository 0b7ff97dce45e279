"""The newest messages of every partition, in memory, for receivers that keep up."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence

from muster.messages.contract import PartitionState, Slice

SLICES_AT_ONCE = 64
"""A receiver is handed at most this many slices at a time, however far behind it is."""

RECORD_OVERHEAD = 48
"""What a record costs in memory beside its bytes."""

_COMPACT_AT = 1024
_GONE = Slice(0, 0, ())


class _Run:
    """The kept slices of one partition, oldest first; ``start`` and ``end`` are the sequence numbers they span."""

    __slots__ = ("bases", "end", "head", "slices", "start")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.bases: list[int] = []
        self.slices: list[Slice] = []
        self.head = 0

    def push(self, new: Slice) -> None:
        """Between it and the slice before may be a gap."""
        self.bases.append(new.base)
        self.slices.append(new)
        self.end = new.base + len(new.records)

    def drop_oldest(self) -> None:
        oldest = self.slices[self.head]
        self.start = oldest.base + len(oldest.records)
        self.slices[self.head] = _GONE  # its memory must not wait for the list to be compacted
        self.head += 1
        if self.head >= _COMPACT_AT and self.head * 2 >= len(self.slices):
            del self.slices[: self.head], self.bases[: self.head]
            self.head = 0


class Tail:
    """Holds ``limit_bytes`` of slices in all; whatever partition it is of, the oldest goes first."""

    def __init__(self, states: Sequence[PartitionState], limit_bytes: int) -> None:
        self._runs = [_Run(state.next) for state in states]
        self._order: deque[tuple[_Run, int]] = deque()
        self._limit = limit_bytes
        self._bytes = 0

    def push(self, partition: int, new: Slice) -> None:
        """Add what was just stored; it must come behind the slice before."""
        run = self._runs[partition]
        size = sum(map(len, new.records)) + len(new.records) * RECORD_OVERHEAD
        run.push(new)
        self._order.append((run, size))
        self._bytes += size
        while self._bytes > self._limit:
            oldest, freed = self._order.popleft()
            oldest.drop_oldest()
            self._bytes -= freed

    def restart(self, partition: int, start: int) -> None:
        """Begin anew at ``start``; what is held of the partition is found no more, and goes in its turn."""
        self._runs[partition] = _Run(start)

    def since(self, partition: int, sequence: int) -> Sequence[Slice] | None:
        """Some slices from ``sequence`` on, none when it has not come yet, ``None`` when it is not held any more."""
        run = self._runs[partition]
        if sequence >= run.end:
            return ()
        if sequence < run.start:
            return None
        at = bisect_right(run.bases, sequence, run.head) - 1
        if at < run.head or sequence >= run.bases[at] + len(run.slices[at].records):  # in a gap
            at += 1
        found = run.slices[at : at + SLICES_AT_ONCE]
        found[0] = found[0].since(sequence)
        return found

    def first_enqueued(self, partition: int, earliest_ms: int) -> int | None:
        """The first sequence number enqueued at ``earliest_ms`` or later; ``None`` when that may be before the tail."""
        run = self._runs[partition]
        at = bisect_left(run.slices, earliest_ms, run.head, key=_enqueued_ms)
        if at == run.head:
            return None
        return run.bases[at] if at < len(run.bases) else run.end


def _enqueued_ms(kept: Slice) -> int:
    return kept.enqueued_ms
