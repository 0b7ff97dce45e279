"""Retention: telemetry goes when it is too old or too much, a short slice of work at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from muster.core.ambient import Ambient, Timer
from muster.core.errors import HubError
from muster.messages.contract import TelemetryLog

LONGEST_PAUSE = 60.0
"""Seconds between two looks at what is too old, at most."""

_LOG = logging.getLogger(__name__)


class Retention:
    """Trims ``log`` in the background: every tenth of ``seconds`` or minute, whichever is sooner.

    ``limit_bytes`` counts all partitions together. ``trimmed`` is told each partition's oldest kept
    sequence number. Age is by the ambient's clock.
    """

    def __init__(
        self,
        log: TelemetryLog,
        ambient: Ambient,
        *,
        seconds: float,
        limit_bytes: int,
        trimmed: Callable[[Sequence[int]], None],
    ) -> None:
        self._log = log
        self._ambient = ambient
        self._seconds = seconds
        self._limit = limit_bytes
        self._trimmed = trimmed
        self._pause = _pause(seconds)
        self._started = False
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look now, and then again and again, until ``stop``."""
        self._started = True
        self.look()

    def keep(self, seconds: float) -> None:
        """From now on what is older than ``seconds`` is too old."""
        if seconds != self._seconds:
            self._seconds, self._pause = seconds, _pause(seconds)
            self.look()

    def look(self) -> None:
        """Between ``start`` and ``stop``: trim now, unless that is under way."""
        if self._started and self._task is None:
            self._cancel_timer()
            self._task = asyncio.get_running_loop().create_task(self._look())

    async def stop(self) -> None:
        """End; waits for the step under way."""
        self._started = False
        self._cancel_timer()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def trim(self) -> None:
        """Drop all that is too old or too much by now. Raises ``HubError`` when the store does."""
        before: Sequence[int] | None = None
        while True:
            after = await self._log.trim(int(self._ambient.now() * 1000), int(self._seconds * 1000), self._limit)
            if after == before:
                return
            self._trimmed(after)
            before = after

    async def _look(self) -> None:
        try:
            await self.trim()
        except HubError as error:  # a full or broken disk; it may be better the next time
            _LOG.error("old telemetry was not removed: %s", error)
        finally:
            self._task = None
            if self._started:
                self._timer = self._ambient.at(self._ambient.now() + self._pause, self.look)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _pause(seconds: float) -> float:
    return min(LONGEST_PAUSE, max(1.0, seconds / 10))
