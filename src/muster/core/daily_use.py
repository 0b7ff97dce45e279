"""How much of a day's messages a hub has used: counted in blocks, anew from midnight UTC."""

from __future__ import annotations

from collections.abc import Callable

from muster.core.throttle_limits import QUOTA_UNWRITTEN
from muster.core.throttles import Quota

_DAY_SECONDS = 86_400


class DailyUse:
    """Counts up to ``quota``. Times are seconds since 1970.

    A clock that is set begins another day, back or forth: one that was wrong for a moment must not close the hub until
    that moment comes.
    """

    def __init__(self, quota: Quota, kept: bytes | None = None, keep: Callable[[bytes], None] | None = None) -> None:
        """``kept`` is what ``keep`` was last told, by an earlier run too: at most once a minute, and only after use."""
        self.quota = quota
        self.day = self.used = 0
        self._keep = keep
        self._kept_at = float("-inf")
        if kept is not None:
            self.day, self.used = map(int, kept.split(b":"))

    def spent(self, now: float) -> bool:
        """Whether nothing is left of this day."""
        self._look(now)
        return self.used >= self.quota.messages

    def charge(self, now: float, size: int) -> None:
        """Count a message of ``size`` bytes: a block for each begun, one at least."""
        self._look(now)
        self.used += max(1, -(-size // self.quota.block))
        if self._keep is not None and now - self._kept_at >= QUOTA_UNWRITTEN.open:
            self._kept_at = now
            self._keep(self.state)

    @property
    def state(self) -> bytes:
        """What is to be kept."""
        return b"%d:%d" % (self.day, self.used)

    def resets_at(self, now: float) -> float:
        """When the next day begins."""
        return (int(now // _DAY_SECONDS) + 1) * float(_DAY_SECONDS)

    def _look(self, now: float) -> None:
        today = int(now // _DAY_SECONDS)
        if today != self.day:
            self.day, self.used = today, 0
