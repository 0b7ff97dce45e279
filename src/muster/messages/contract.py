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

    def since(self, sequence: int) -> Slice:
        """The slice without its records before ``sequence``, which must not be all of them."""
        skip = sequence - self.base
        return self if skip <= 0 else Slice(sequence, self.enqueued_ms, self.records[skip:])


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
    when it is called with an error, none of them is stored; commits end in the order they were handed in.
    A damaged message is never returned: it is missing from what is read, and the store has told the log.
    Does not promise to know devices, consumers or formats.
    """

    partitions: int

    created_at: float
    """When the log was made, seconds since 1970."""

    def states(self) -> Sequence[PartitionState]:
        """As of opening: where each partition stands."""
        ...

    def commit(self, writes: Sequence[Write], done: Callable[[BaseException | None], None]) -> None:
        """Store ``writes`` in one transaction; ``done`` is called on the loop. Returns at once.

        Fails with ``HubError`` (500001) when the disk is full or broken, and when a write does not start at
        its partition's ``next`` or goes back in time. After a failure the log goes on from where it stood.
        """
        ...

    async def read(self, partition: int, sequence: int, limit_bytes: int) -> Sequence[Slice]:
        """Slices from ``sequence`` on, in order, at least one if there is any.

        Ends with the slice that reaches ``limit_bytes``. The first starts at ``sequence``, or later when
        that message is not kept any more; with ``sequence`` at or beyond ``next`` there is none.
        """
        ...

    async def sequence_at(self, partition: int, enqueued_ms: int, *, inclusive: bool) -> int:
        """The first sequence number enqueued after (or at) a moment; ``next`` when there is none yet."""
        ...

    async def trim(self, before_ms: int, limit_bytes: int) -> Sequence[int]:
        """Drop whole slices, the oldest first, as long as they are older than ``before_ms`` or the log is
        larger than ``limit_bytes``.

        Returns each partition's ``first`` afterwards. Short: call again while it still finds something.
        """
        ...

    async def probe(self) -> None:
        """Write to the disk without changing anything, as durably as a commit. Raises ``HubError`` (500001) when that
        fails. Does not promise that there is room for the next commit.
        """
        ...

    async def close(self) -> None:
        """End after the commits handed in so far. Harmless when repeated; nothing else may be called after it."""
        ...
