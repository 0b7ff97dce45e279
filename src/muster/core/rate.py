"""A rate limit: so many a second, with bursts."""

from __future__ import annotations

from collections.abc import Callable


class RateLimit:
    """A token bucket. ``take`` never waits; who may not go on now decides himself what to drop."""

    __slots__ = ("_at", "_burst", "_left", "_monotonic", "_rate")

    def __init__(self, rate: float, burst: float, monotonic: Callable[[], float]) -> None:
        """``rate`` tokens a second, at most ``burst`` saved up, by the clock ``monotonic`` (seconds)."""
        self._rate, self._burst, self._monotonic = rate, burst, monotonic
        self._left = burst
        self._at = monotonic()

    def take(self) -> bool:
        """Take one token, if there is one."""
        now = self._monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
