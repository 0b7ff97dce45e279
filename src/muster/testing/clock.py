"""A clock that tests move, and randomness that repeats."""

from __future__ import annotations

import heapq
import random
import uuid
from collections.abc import Callable
from itertools import count


class VirtualTimer:
    """A callback due at some virtual moment; see ``core.ambient.Timer``."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the callback; harmless when it has already run."""
        self.callback = None


class VirtualAmbient:
    """An ``Ambient`` whose time stands still until ``advance`` moves it.

    Randomness comes from ``seed``, so two runs see the same keys and ids. Never for a real hub.
    """

    def __init__(self, now: float = 1_800_000_000.0, seed: int = 0) -> None:
        """``now`` is the first moment, in seconds since 1970."""
        self._now = now
        self._monotonic = 0.0
        self._random = random.Random(seed)  # noqa: S311 - it must repeat
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._order = count()

    def now(self) -> float:
        """See ``Ambient.now``."""
        return self._now

    def monotonic(self) -> float:
        """See ``Ambient.monotonic``; moves with ``advance``."""
        return self._monotonic

    def at(self, deadline: float, callback: Callable[[], None]) -> VirtualTimer:
        """See ``Ambient.at``; the callback runs inside ``advance``."""
        timer = VirtualTimer(callback)
        heapq.heappush(self._timers, (deadline, next(self._order), timer))
        return timer

    def random_bytes(self, count: int) -> bytes:
        """See ``Ambient.random_bytes``."""
        return self._random.randbytes(count)

    def uuid(self) -> uuid.UUID:
        """See ``Ambient.uuid``."""
        return uuid.UUID(bytes=self._random.randbytes(16), version=4)

    def fresh_id(self) -> str:
        """See ``Ambient.fresh_id``."""
        return self._random.randbytes(16).hex()

    def advance(self, seconds: float) -> None:
        """Move the clock forward and run what falls due on the way, each at its own moment."""
        end = self._now + seconds
        while self._timers and self._timers[0][0] <= end:
            deadline, _, timer = heapq.heappop(self._timers)
            self._move_to(max(deadline, self._now))
            if timer.callback is not None:
                callback, timer.callback = timer.callback, None
                callback()
        self._move_to(end)

    def _move_to(self, moment: float) -> None:
        self._monotonic += moment - self._now
        self._now = moment
