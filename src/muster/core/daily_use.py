"""How much of a day's messages a hub has used: counted in blocks, anew from midnight UTC, on all of its nodes."""

from __future__ import annotations

import json
from collections.abc import Callable

from muster.core.throttles import Quota

_DAY_SECONDS = 86_400


class DailyUse:
    """Counts up to ``quota``. Times are seconds since 1970.

    Of what other nodes of the hub count it knows what they have kept. Each node has a count of its own among what is
    kept, so one that is written twice is not counted twice. A clock that is set begins another day, back or forth: one
    that was wrong for a moment must not close the hub until that moment comes.
    """

    def __init__(
        self, quota: Quota, kept: bytes | None = None, when_used: Callable[[], None] | None = None, *, node: str = ""
    ) -> None:
        """``kept`` is what ``joined`` has made, in an earlier run too, ``node`` this one's name in it. ``when_used`` is
        called when the first message is counted that is not in what ``joined`` has made."""
        self.quota = quota
        self._node = node
        self._when_used = when_used
        self._unkept = False
        self._others = _counts(kept)
        self.day, self._own = self._others.pop(node, (0, 0))
        self._elsewhere = self._of_others()

    @property
    def used(self) -> int:
        """How many blocks of the day of the last look or message, as far as this node knows."""
        return self._own + self._elsewhere

    def spent(self, now: float) -> bool:
        """Whether nothing is left of this day."""
        self._look(now)
        return self.used >= self.quota.messages

    def charge(self, now: float, size: int) -> None:
        """Count a message of ``size`` bytes: a block for each begun, one at least."""
        self._look(now)
        self._own += max(1, -(-size // self.quota.block))
        if not self._unkept and self._when_used is not None:
            self._unkept = True
            self._when_used()

    def joined(self, kept: bytes | None) -> bytes:
        """What is to be kept in place of ``kept``, which is learnt: that and what this node has counted."""
        self.learn(kept)
        self._unkept = False
        # a clock is a little ahead of another, or set: what it says of tomorrow and of yesterday may count again
        others = {name: count for name, count in self._others.items() if abs(count[0] - self.day) <= 1}
        return json.dumps({**others, self._node: (self.day, self._own)}).encode()

    def learn(self, kept: bytes | None) -> None:
        """Take what other nodes have counted from what is ``kept`` now."""
        self._others = _counts(kept)
        self._others.pop(self._node, None)
        self._elsewhere = self._of_others()

    def resets_at(self, now: float) -> float:
        """When the next day begins."""
        return (int(now // _DAY_SECONDS) + 1) * float(_DAY_SECONDS)

    def _look(self, now: float) -> None:
        today = int(now // _DAY_SECONDS)
        if today != self.day:
            self.day, self._own = today, 0
            self._elsewhere = self._of_others()

    def _of_others(self) -> int:
        return sum(used for day, used in self._others.values() if day == self.day)


def _counts(kept: bytes | None) -> dict[str, tuple[int, int]]:
    """By node: the day, counted from 1970, and the blocks that it has used of it."""
    return {} if kept is None else {node: (day, used) for node, (day, used) in json.loads(kept).items()}
