"""What passes through a hub, counted by kind of operation, and throttled where the hub has a plan.

Heads and the domain ask here once for each operation. Without a plan that is an addition; telemetry, which is too many
for that, is then counted where it is committed (``count_by``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import ceil
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.daily_use import DailyUse
from muster.core.error import HubError
from muster.core.errors import THROTTLED
from muster.core.fair_rate import FairRate
from muster.core.principal_rate import PrincipalRate
from muster.core.throttle_errors import BACKLOG_FULL, DEVICE_THROTTLED, QUOTA_EXCEEDED, ThrottledError
from muster.core.throttle_limits import THROTTLE_BACKLOG, THROTTLE_RESERVE
from muster.core.throttles import ALL, Plan, Throttle

_LOOK_SECONDS, _LOOKS = 1.0, 60
"""A rate is told over the time since an earlier look, of so many that lie so far apart at least."""


class Reading(NamedTuple):
    """One meter at a moment, in the unit of its throttle since the start of the hub.

    ``accepted`` counts what was ``delayed`` too. ``rate`` is how many a second were accepted since an earlier look,
    at most a minute or so ago, ``None`` at the first one; ``limit`` is ``None`` where nothing is throttled.
    """

    throttle: Throttle
    accepted: int
    delayed: int
    refused: int
    rate: float | None
    limit: int | None


class QuotaReading(NamedTuple):
    """The day's quota at a moment: so many messages, of ``block`` bytes each; ``resets_at``: seconds since 1970."""

    messages: int
    block: int
    used: int
    resets_at: float


class _Meter:
    __slots__ = ("accepted", "delayed", "rate", "refused", "source")

    def __init__(self, rate: FairRate | None) -> None:
        self.rate = rate
        self.accepted = self.delayed = self.refused = 0
        self.source: Callable[[], int] | None = None

    def total(self) -> int:
        return self.accepted if self.source is None else self.source()


class Meters:
    """The meters of one hub. ``plan`` is ``None`` where nothing is throttled, and so is ``use`` of the day's quota."""

    def __init__(
        self, ambient: Ambient, plan: Plan | None = None, use: DailyUse | None = None, *, principal_rate: int = 0
    ) -> None:
        """``principal_rate``: how many calls a second each caller of the service API has, 0 for any number."""
        self._principals = PrincipalRate(principal_rate) if principal_rate else None
        self.plan = plan
        self._use = use
        self._now, self._monotonic = ambient.now, ambient.monotonic
        self._meters = {
            row.name: _Meter(None if plan is None else FairRate(plan.limit(row) / row.seconds)) for row in ALL
        }
        self._looks: deque[tuple[float, dict[str, int]]] = deque(maxlen=_LOOKS)

    # --- for who lets operations in

    def take(self, throttle: Throttle, device: str | None = None, size: int = 0) -> None:
        """Let an operation in or refuse it. ``device``: who asks, if it is a device; ``size``: of its payload in bytes.

        Raises ``HubError``: 429001, 429005 (the device has had more than its share) with ``retry_after``, and 403002
        where the operation is charged to a quota of which nothing is left.
        """
        meter = self._meters[throttle.name]
        if meter.rate is None and not throttle.block:
            meter.accepted += 1
        else:
            self._pass(throttle, device, size, 0.0)

    def take_principal(self, who: str) -> None:
        """Let a call of ``who``, a principal that was let in, pass. Raises ``HubError`` 429001 with ``retry_after``."""
        if self._principals is None:
            return
        wait = self._principals.take(self._monotonic(), who)
        if wait:
            rate = self._principals.per_second
            raise ThrottledError(
                THROTTLED, f"{who} may make {rate} calls a second at this hub. Retry after {ceil(wait)} s.", wait
            )

    def shape(self, throttle: Throttle, device: str, cost: int = 1) -> float:
        """As ``take``, but above the rate the operation may wait: after how many seconds it may go on, 0: at once.

        Raises ``HubError`` 429002 when it would be too long, and 403002.
        """
        return self._pass(throttle, device, 0, float(THROTTLE_BACKLOG.open), cost)

    @property
    def charges(self) -> bool:
        """Whether there is a quota that messages are charged to."""
        return self._use is not None

    def charge(self, size: int) -> None:
        """Charge a message of ``size`` bytes to the day's quota, if there is one."""
        if self._use is not None:
            self._use.charge(self._now(), size)

    def replan(self, plan: Plan) -> None:
        """From now on ``plan`` counts in place of the one before; a hub without any stays without."""
        if self.plan == plan or self.plan is None or self._use is None:
            return
        self.plan, self._use.quota = plan, plan.quota
        for row in ALL:
            self._meters[row.name].rate = FairRate(plan.limit(row) / row.seconds)

    def spent(self) -> bool:
        """Whether nothing is left of the day's quota."""
        return self._use is not None and self._use.spent(self._now())

    def _pass(self, throttle: Throttle, device: str | None, size: int, backlog: float, cost: int = 1) -> float:
        meter = self._meters[throttle.name]
        if throttle.block:
            cost = max(1, -(-size // throttle.block))
        if meter.rate is None:
            meter.accepted += cost
            return 0.0
        if throttle.charged and self.spent():
            meter.refused += cost
            raise HubError(QUOTA_EXCEEDED)
        wait = meter.rate.take(self._monotonic(), device, cost, backlog)
        if wait > backlog:
            meter.refused += cost
            raise self._refusal(throttle, meter.rate, device, wait, backlog)
        meter.accepted += cost
        if wait:
            meter.delayed += cost
        return wait

    def _refusal(
        self, throttle: Throttle, rate: FairRate, device: str | None, wait: float, backlog: float
    ) -> ThrottledError:
        assert self.plan is not None, "without a plan nothing is refused"
        row = BACKLOG_FULL if backlog else THROTTLED
        if device is not None and rate.active > 1 and wait - THROTTLE_RESERVE.open <= backlog:
            row = DEVICE_THROTTLED
        limit, (tier, units) = self.plan.limit(throttle), self.plan
        message = (
            f"The hub's rate of {throttle.name} is {limit} {throttle.unit} {throttle.period} "
            f"(tier {tier}, units {units}). Retry after {ceil(wait)} s."
        )
        return ThrottledError(row, message, wait)

    # --- for who looks

    def count_by(self, throttle: Throttle, source: Callable[[], int]) -> None:
        """Where nothing is throttled, have ``source`` say how many there have been."""
        if self.plan is None:
            self._meters[throttle.name].source = source

    def quota(self) -> QuotaReading | None:
        """The day's quota, ``None`` where there is none."""
        if self._use is None:
            return None
        now = self._now()
        self._use.spent(now)  # begins the day
        return QuotaReading(*self._use.quota, self._use.used, self._use.resets_at(now))

    def look(self) -> Sequence[Reading]:
        """Every meter as it stands."""
        now = self._monotonic()
        totals = {name: meter.total() for name, meter in self._meters.items()}
        while self._looks and now - self._looks[0][0] > _LOOKS:
            self._looks.popleft()
        since, before = next((look for look in self._looks if now - look[0] >= _LOOK_SECONDS), (now, None))
        if not self._looks or now - self._looks[-1][0] >= _LOOK_SECONDS:
            self._looks.append((now, totals))
        readings = []
        for row in ALL:
            meter, total = self._meters[row.name], totals[row.name]
            rate = None if before is None else (total - before[row.name]) / (now - since)
            limit = None if self.plan is None else self.plan.limit(row)
            readings.append(Reading(row, total, meter.delayed, meter.refused, rate, limit))
        return readings
