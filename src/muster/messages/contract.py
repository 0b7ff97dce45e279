"""What the messages room asks of a store: a log of partitions that takes whole batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable


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
    """Where a partition stands. ``first`` is the oldest sequence number still kept, ``next`` the first that may come.

    Both survive the emptying of a partition by retention; ``first == next`` means empty.
    """

    first: int
    next: int
    enqueued_ms: int


class Share(NamedTuple):
    """What a commit brings to one partition: records in order, one at least."""

    partition: int
    records: Sequence[bytes]


Stored = Callable[[int, Slice], None]
"""Told of a partition what has been stored in it."""


class TelemetryLog(Protocol):
    """Durable partitions. The log gives each message its sequence number and its time, and tells of it.

    Promises: when ``done(None)`` is called the shares are durable, all of them, each in its order; when it is called
    with an error, none of them is stored (see ``SharedLog``); commits end in the order they were handed in.
    A damaged message is never returned: it is missing from what is read, and the store has told the log.
    Does not promise to know devices, consumers or formats, nor that numbers of slices follow each other without gaps.
    """

    partitions: int

    created_at: float
    """When the log was made, seconds since 1970."""

    def states(self) -> Sequence[PartitionState]:
        """As of opening: where each partition stands."""
        ...

    def listen(self, stored: Stored) -> None:
        """Have ``stored`` called on the loop with what is stored from now on, of each partition in order, before the
        end of its commit is told (see ``SharedLog``)."""
        ...

    def commit(self, shares: Sequence[Share], now_ms: int, done: Callable[[BaseException | None], None]) -> None:
        """Store ``shares``; ``done`` is called on the loop, perhaps before this returns.

        ``now_ms`` is the domain's time; messages get it, or a later one where their partition's last is later.
        Fails with ``HubError``: 500001 when the disk is full or broken, 503001 when the log cannot be reached. After a
        failure the log goes on from where it stood.
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

    async def trim(self, now_ms: int, keep_ms: int, limit_bytes: int) -> Sequence[int]:
        """Drop whole slices, the oldest first, as long as they are older than ``keep_ms`` or the log is larger than
        ``limit_bytes``. ``now_ms`` is the domain's time.

        Returns each partition's ``first`` afterwards. Short: call again while it still finds something.
        """
        ...

    async def probe(self) -> None:
        """Write as durably as a commit, without changing anything that is read. Raises ``HubError`` when that fails.
        Does not promise that there is room for the next commit.
        """
        ...

    async def close(self) -> None:
        """End after the commits handed in so far. Harmless when repeated; nothing else may be called after it."""
        ...


@runtime_checkable
class SharedLog(TelemetryLog, Protocol):
    """A log that other nodes write to as well. What differs:

    When a commit ends with an error, some of its shares may be stored, or may be yet: who sends them again makes
    duplicates, which come behind. The listener hears of partitions that are followed and of no others, and not
    necessarily before the end of a commit is told. Times are those of a clock that all nodes share, age too.
    """

    @property
    def reachable(self) -> bool:
        """Whether there is a connection to what keeps the log. Does not promise that a commit would succeed."""
        ...

    def hurry(self) -> None:
        """Commits have a few seconds from now on, for the process is to end."""
        ...

    def follow(self, partition: int, begun: Callable[[PartitionState], None]) -> Callable[[], None]:
        """Have the listener hear of ``partition``, whoever writes to it, until the answer is called.

        ``begun`` is called on the loop, before the first is told, with where the partition stands: what is told comes
        behind that. Lasts over any trouble and leaves nothing out but what is not kept any more.
        """
        ...

    async def state(self, partition: int) -> PartitionState:
        """Where the partition stands now. Raises ``HubError`` when that cannot be learned."""
        ...
