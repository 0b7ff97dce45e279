"""The partitions as those see them who read: where each stands, its newest messages, who waits for more.

Runs on the loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from muster.messages.contract import PartitionState, SharedLog, Slice, TelemetryLog
from muster.messages.tail import Tail


class Partitions:
    """What ``log`` tells, kept for readers.

    A log of one writer tells all. One that is shared tells of those partitions only that are *followed*, which is as
    long as they have subscribers here. Of the others nothing is kept in memory.
    """

    def __init__(self, log: TelemetryLog, tail_bytes: int) -> None:
        """To be made on a running loop. ``tail_bytes`` of the newest messages are kept, of all partitions together."""
        self.partitions = log.partitions
        self.created_at = log.created_at
        self._log = log
        self._shared = log if isinstance(log, SharedLog) else None
        self._loop = asyncio.get_running_loop()
        self._states = list(log.states())
        self._tail = Tail(self._states, tail_bytes)
        self._live = [self._shared is None] * self.partitions
        self._unfollow: dict[int, Callable[[], None]] = {}
        self._subscribers: list[dict[object, Callable[[], None]]] = [{} for _ in range(self.partitions)]
        self._news: set[int] = set()
        log.listen(self._stored)

    def state(self, partition: int) -> PartitionState:
        """Where the partition stands, as far as is known here: exact for who has subscribed and was woken."""
        return self._states[partition]

    async def look(self, partition: int) -> PartitionState:
        """Where the partition stands. Raises ``HubError`` when the log cannot be asked."""
        if self._shared is None or self._live[partition]:
            return self._states[partition]
        return await self._shared.state(partition)

    def subscribe(self, partition: int, wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called whenever the partition has something new; the answer ends that."""
        token = object()
        subscribers = self._subscribers[partition]
        subscribers[token] = wake
        if self._shared is not None and partition not in self._unfollow:
            self._unfollow[partition] = self._shared.follow(partition, partial(self._begun, partition))

        def unsubscribe() -> None:
            subscribers.pop(token, None)
            if not subscribers and partition in self._unfollow:
                self._live[partition] = False
                self._unfollow.pop(partition)()

        return unsubscribe

    def tail(self, partition: int, sequence: int) -> Sequence[Slice] | None:
        """Stored slices from ``sequence`` on out of memory, not necessarily all: ask again behind the last.

        Empty: nothing new, wait to be woken. ``None``: that is not in memory any more, use ``read``.
        """
        if not self._live[partition]:
            return ()
        if sequence < self._states[partition].first:
            return None
        return self._tail.since(partition, sequence)

    async def read(self, partition: int, sequence: int, limit_bytes: int) -> Sequence[Slice]:
        """Stored slices from ``sequence`` on, from memory or the log, see ``TelemetryLog.read``.

        Empty: nothing new, wait to be woken. Raises ``HubError`` when the log fails.
        """
        kept = self.tail(partition, sequence) if self._live[partition] else None
        return await self._log.read(partition, sequence, limit_bytes) if kept is None else kept

    async def sequence_at(self, partition: int, enqueued_ms: int, *, inclusive: bool) -> int:
        """The first kept sequence number enqueued after (``inclusive``: at or after) a moment, else the next one."""
        if self._live[partition]:
            state = self._states[partition]
            earliest = enqueued_ms if inclusive else enqueued_ms + 1
            if earliest > state.enqueued_ms:
                return state.next
            found = self._tail.first_enqueued(partition, earliest)
            if found is not None:
                return max(found, state.first)
        return await self._log.sequence_at(partition, enqueued_ms, inclusive=inclusive)

    def _begun(self, partition: int, state: PartitionState) -> None:
        self._states[partition] = state
        self._tail.restart(partition, state.next)
        self._live[partition] = True
        self._wake_later(partition)

    def _stored(self, partition: int, new: Slice) -> None:
        first = self._states[partition].first
        self._states[partition] = PartitionState(first, new.base + len(new.records), new.enqueued_ms)
        self._tail.push(partition, new)
        if self._subscribers[partition]:
            self._wake_later(partition)

    def _trimmed(self, firsts: Sequence[int]) -> None:
        self._states = [state._replace(first=first) for state, first in zip(self._states, firsts, strict=True)]

    def _wake_later(self, partition: int) -> None:
        """Who waits for the acknowledgement comes first, and then the next commit: receivers may have much to do."""
        if not self._news:
            self._loop.call_soon(self._wake)
        self._news.add(partition)

    def _wake(self) -> None:
        news, self._news = self._news, set()
        for partition in news:
            for wake in tuple(self._subscribers[partition].values()):
                self._call(wake)

    def _call(self, callback: Callable[[], None]) -> None:
        try:
            callback()
        except Exception as problem:
            self._failed(problem)

    def _failed(self, problem: Exception) -> None:
        self._loop.call_exception_handler({"message": "a telemetry callback failed", "exception": problem})
