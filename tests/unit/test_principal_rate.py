"""Rates of callers of the service API: how many calls pass, whose they are, and what that costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.door_limits import PRINCIPAL_BURST, PRINCIPALS
from muster.core.errors import THROTTLED
from muster.core.meters import Meters
from muster.core.principal_rate import PrincipalRate
from muster.core.throttle_errors import ThrottledError
from muster.testing.clock import VirtualAmbient

BURST = PRINCIPAL_BURST.open
STEPS = st.lists(st.tuples(st.floats(0, 3), st.sampled_from("ab"), st.integers(1, 40)), max_size=60)


@given(st.integers(1, 20), STEPS)
def test_no_stretch_has_more_than_the_rate_and_the_burst(rate: int, steps: list[tuple[float, str, int]]) -> None:
    limiter, now, passed = PrincipalRate(rate), 0.0, dict[str, list[float]]()
    for pause, who, calls in steps:
        now += pause
        for _ in range(calls):
            if limiter.take(now, who) == 0:
                passed.setdefault(who, []).append(now)
    for times in passed.values():
        for at, first in enumerate(times):
            for further, last in enumerate(times[at:], 1):
                assert further <= rate * (BURST + last - first) + 1.001


@given(st.integers(1, 20), STEPS)
def test_each_is_judged_as_if_he_were_alone(rate: int, steps: list[tuple[float, str, int]]) -> None:
    together, alone, now = PrincipalRate(rate), {who: PrincipalRate(rate) for who in "ab"}, 0.0
    for pause, who, calls in steps:
        now += pause
        for _ in range(calls):
            assert together.take(now, who) == pytest.approx(alone[who].take(now, who))


@given(st.integers(1, 50), st.integers(1, 200))
def test_who_keeps_to_the_rate_is_never_refused_and_who_waits_as_told_gets_on(rate: int, calls: int) -> None:
    limiter, now = PrincipalRate(rate), 0.0
    for _ in range(calls):
        assert limiter.take(now, "steady") == 0
        now += 1 / rate
    while limiter.take(now, "steady") == 0:
        pass
    now += limiter.take(now, "steady") + 1e-9
    assert limiter.take(now, "steady") == 0


def test_memory_is_bounded() -> None:
    limiter = PrincipalRate(1)
    for number in range(3 * PRINCIPALS.open):
        limiter.take(0.0, str(number))
    assert len(limiter._recent) + len(limiter._earlier) <= 2 * PRINCIPALS.open


def test_meters_refuse_with_429_and_when_to_come_again() -> None:
    meters = Meters(VirtualAmbient(), principal_rate=2)
    for _ in range(2 * BURST):
        meters.take_principal("iothubowner (policy)")
    with pytest.raises(ThrottledError) as refused:
        meters.take_principal("iothubowner (policy)")
    assert refused.value.row is THROTTLED
    assert 0 < refused.value.retry_after <= 0.5
    assert "2 calls a second" in refused.value.message
    meters.take_principal("service (policy)")
    Meters(VirtualAmbient()).take_principal("iothubowner (policy)")
