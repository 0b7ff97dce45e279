"""A rate for each of many, apart from one another: so many operations in any stretch of so many seconds.

Times are kept in two generations of that many seconds each, of ``most`` at most: memory is bounded, and when more are
active those that were so longest ago are forgotten.
"""

from __future__ import annotations

from collections import deque


class EachRate:
    """``count`` operations in ``seconds``. Pure: the time is passed in, seconds of any clock that never goes back."""

    def __init__(self, count: int, seconds: float, most: int) -> None:
        self._count, self._seconds, self._most = count, seconds, most
        self._recent: dict[str, deque[float]] = {}
        self._earlier: dict[str, deque[float]] = {}
        self._turn = 0.0

    def take(self, now: float, who: str) -> float:
        """After how many seconds an operation of ``who`` may go on; 0: at once. Otherwise nothing was taken."""
        times = self._recent.get(who)
        if times is None:
            if now >= self._turn or len(self._recent) >= self._most:
                self._earlier, self._recent, self._turn = self._recent, {}, now + self._seconds
            times = self._recent[who] = self._earlier.get(who) or deque(maxlen=self._count)
        if len(times) == self._count and now - times[0] < self._seconds:
            return self._seconds - (now - times[0])
        times.append(now)
        return 0.0
