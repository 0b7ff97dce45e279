"""A rate for each caller of the service API, apart from one another: whoever floods throttles himself alone.

Virtual scheduling, as ``fair_rate``: one number for each caller says until when his rate is spoken for. Who has not
called for as long as a burst lasts has his whole burst again, so two generations of that length know all that matters.
Memory is bounded: with more callers than fit those that called longest ago begin anew.
"""

from __future__ import annotations

from muster.core.door_limits import PRINCIPAL_BURST, PRINCIPALS

_BURST, _MOST = float(PRINCIPAL_BURST.open), PRINCIPALS.open
_ROUNDING = 1e-6
"""Seconds: many small sums shall come to the burst exactly."""


class PrincipalRate:
    """``per_second`` calls of each. Pure: the time is passed in, seconds of any clock that never goes back."""

    __slots__ = ("_each", "_earlier", "_recent", "_turn", "per_second")

    def __init__(self, per_second: int) -> None:
        self.per_second = per_second
        self._each = 1.0 / per_second
        self._recent: dict[str, float] = {}
        self._earlier: dict[str, float] = {}
        self._turn = 0.0

    def take(self, now: float, who: str) -> float:
        """After how many seconds ``who`` may call; 0: now. Otherwise nothing was taken."""
        due = self._recent.get(who)
        if due is None:
            if now >= self._turn or len(self._recent) >= _MOST:
                self._earlier, self._recent, self._turn = self._recent, {}, now + _BURST
            due = self._recent[who] = self._earlier.get(who, 0.0)
        ahead = max(due - now, 0.0) + self._each
        wait = ahead - max(_BURST, self._each) - _ROUNDING
        if wait > 0:
            return wait
        self._recent[who] = now + ahead
        return 0.0
