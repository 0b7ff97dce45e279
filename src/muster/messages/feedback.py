"""Feedback: how commands ended, told to services in messages of several records each.

A record is kept in the transaction that ends its command. Here they are gathered, up to 64 of them or for 15 seconds
(docs iot-hub-devguide-messages-c2d), into one message of the feedback queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from muster.core.ambient import Ambient, Timer
from muster.core.queue_limits import FEEDBACK_RECORDS, FEEDBACK_WAIT, QUEUE_TTL
from muster.messages.commands import FeedbackRecord, feedback_record
from muster.messages.queue_contract import Collected, New, Record
from muster.messages.queues import FEEDBACK, RETRY_SECONDS, Queues

log = logging.getLogger("muster.queues")


class Feedback:
    """Gathers the records that ``queues`` keep."""

    def __init__(
        self, queues: Queues, ambient: Ambient, encode: Callable[[Sequence[FeedbackRecord]], bytes],
        ttl_seconds: float = QUEUE_TTL.open,
    ) -> None:  # fmt: skip
        """``encode`` makes a message's body; it is called in the store's thread."""
        self._queues = queues
        self._ambient = ambient
        self._encode = encode
        self._ttl_seconds = ttl_seconds
        self._count = 0
        self._timer: Timer | None = None
        self._gathering = self._closed = False
        queues.recorded = self._recorded

    async def start(self) -> None:
        """Take up the records of an earlier run. Raises ``HubError`` 500001, 503001."""
        self._go_on(*await self._queues.records())

    def close(self) -> None:
        """Gather no more; what is there is gathered after the next start."""
        self._closed = True
        self._cancel()

    def _recorded(self, count: int) -> None:
        self._count += count
        if self._count >= FEEDBACK_RECORDS.open:
            self._gather()
        elif self._timer is None and not self._gathering:
            self._wait(self._ambient.now() + FEEDBACK_WAIT.open)

    def _go_on(self, count: int, oldest: float | None) -> None:
        """So many records are there, those that were told of meanwhile not all among them."""
        now = self._ambient.now()
        if oldest is None and (self._count or self._queues.shared):  # others' records have to be looked for
            oldest = now
        self._count = max(self._count, count)
        if self._count >= FEEDBACK_RECORDS.open:
            self._gather()
        elif oldest is not None:
            self._wait(oldest + FEEDBACK_WAIT.open)

    def _wait(self, until: float) -> None:
        self._cancel()
        if not self._closed:
            self._timer = self._ambient.at(until, self._gather)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _gather(self) -> None:
        self._cancel()
        if self._gathering or self._closed:
            return
        self._gathering, self._count = True, 0
        now, ttl = self._ambient.now(), self._ttl_seconds

        def make(records: Sequence[Record]) -> New:
            return New(now, now + ttl, "", self._encode([feedback_record(record) for record in records]))

        self._queues.collect(FEEDBACK, FEEDBACK_RECORDS.open, make).add_done_callback(self._gathered)

    def _gathered(self, future: asyncio.Future[Collected]) -> None:
        self._gathering = False
        if self._closed or future.cancelled():
            return
        error = future.exception()
        if error is None:
            self._go_on(future.result().left, future.result().oldest)
        else:
            log.error("feedback could not be gathered: %s", error)
            self._wait(self._ambient.now() + RETRY_SECONDS)
