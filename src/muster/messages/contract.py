"""What the messages room asks of a store: a log of partitions that takes whole batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Slice(NamedTuple):
    """A run of stored messages of one partition, committed together.

    ``base`` is the sequence number of ``records[0]``; the others follow without gaps. ``enqueued_ms`` is
    the moment the log accepted them (milliseconds since 1970), never before that of an earlier slice.
    """

    base: int
    enqueued_ms: int
    records: Sequence[bytes]


class PartitionState(NamedTuple):
    """Where a partition stands. ``first`` is the oldest sequence number still kept, ``next`` the one to come.

    Both survive the emptying of a partition by retention; ``first == next`` means empty.
    """

    first: int
    next: int
    enqueued_ms: int


class Write(NamedTuple):
    """One partition's share of a commit: records in order, to be stored from sequence number ``base`` on."""

    partition: int
    base: int
    enqueued_ms: int
    records: Sequence[bytes]


class TelemetryLog(Protocol):
    """Durable partitions, one writer.

    Promises: when ``done(None)`` is called the writes are on disk, all of them, and survive a power cut;
    commits end in the order they were handed in. Does not promise to know devices, consumers or formats.
    """

    partitions: int

    def states(self) -> Sequence[PartitionState]:
        """As of opening: where each partition stands."""
        ...

    def commit(self, writes: Sequence[Write], done: Callable[[BaseException | None], None]) -> None:
        """Store ``writes`` in one transaction; ``done`` is called on the loop. Returns at once."""
        ...

    async def read(self, partition: int, sequence: int, limit_bytes: int) -> Sequence[Slice]:
        """Slices from ``sequence`` on, at least one if there is any, about ``limit_bytes`` at most."""
        ...

    async def sequence_at(self, partition: int, enqueued_ms: int, *, inclusive: bool) -> int:
        """The first sequence number enqueued after (or at) a moment; ``next`` when there is none yet."""
        ...

    async def trim(self, before_ms: int, limit_bytes: int) -> Sequence[int]:
        """Drop whole slices that are older than ``before_ms`` or over ``limit_bytes`` a partition.

        Returns each partition's ``first`` afterwards. Short: call again while it still finds something.
        """
        ...

    async def close(self) -> None:
        """End after the commits handed in so far."""
        ...
