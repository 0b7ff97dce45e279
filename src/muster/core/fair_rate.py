"""A rate that devices share fairly: so many a second, with bursts, and none may take it all.

Virtual scheduling (the GCRA of ATM Forum TM 4.0): one number says until when the rate is spoken for, ahead of the clock
by what has passed too early. Nothing runs between operations and each costs the same, however many came before.

*Fair share.* Each device has such a number of its own, by the rate divided by the devices that were active in the last
``THROTTLE_SHARE`` seconds. Who is within his share may go on when the burst is used up: a reserve is there for him.
What he and his like take of it is less than what comes in, so it lasts, and a device that floods gets what the others
leave. While there is room for all nobody's share matters.

Devices are counted in two generations of ``THROTTLE_SHARE`` seconds each, of ``THROTTLE_DEVICES`` at most: memory is
bounded, and what a device did longer ago is forgotten. So a share below one operation in that time is not kept apart.
"""

from __future__ import annotations

from muster.core.throttle_limits import THROTTLE_BURST, THROTTLE_DEVICES, THROTTLE_RESERVE, THROTTLE_SHARE

_BURST, _WITH_RESERVE = float(THROTTLE_BURST.open), float(THROTTLE_BURST.open + THROTTLE_RESERVE.open)
_SHARE, _DEVICES = float(THROTTLE_SHARE.open), THROTTLE_DEVICES.open

_ROUNDING = 1e-6
"""Seconds: many small sums shall come to the burst exactly."""


class FairRate:
    """``per_second`` operations. Pure: the time is passed in, seconds of any clock that never goes back."""

    __slots__ = ("_due", "_each", "_earlier", "_recent", "_turn")

    def __init__(self, per_second: float) -> None:
        self._each = 1.0 / per_second
        self._due = 0.0
        self._recent: dict[str, float] = {}
        """By device, until when its share is spoken for; and the same of the time before."""
        self._earlier: dict[str, float] = {}
        self._turn = 0.0

    @property
    def active(self) -> int:
        """How many devices share the rate now."""
        return max(len(self._recent), len(self._earlier))

    def take(self, now: float, device: str | None = None, cost: int = 1, backlog: float = 0.0) -> float:
        """After how many seconds an operation of ``device`` (``None``: of nobody's share) may go on; 0: at once.

        More than ``backlog``: it may not, and nothing was taken.
        """
        seconds = self._each * cost
        ahead = max(self._due - now, 0.0) + seconds
        allowed, owed = _BURST, 0.0
        if device is not None:
            if now >= self._turn or len(self._recent) >= _DEVICES:
                self._turn_over(now)
            due = self._recent.get(device)
            if due is None:
                due = self._earlier.get(device, 0.0)
                self._recent[device] = due
            share = seconds * self.active
            owed = max(due - now, 0.0) + share
            if owed <= max(_SHARE, share):
                allowed = _WITH_RESERVE
            else:
                owed = min(owed, _SHARE + share)
        wait = ahead - allowed - _ROUNDING
        if wait > backlog:
            return wait
        self._due = now + ahead
        if device is not None:
            self._recent[device] = now + owed
        return max(wait, 0.0)

    def _turn_over(self, now: float) -> None:
        idle = now >= self._turn + _SHARE
        self._earlier = {} if idle else self._recent
        self._recent = {}
        self._turn = now + _SHARE
