"""A rate shared by devices: how much passes in all, and that nobody is kept out by somebody else."""

from __future__ import annotations

import sys
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.fair_rate import FairRate
from muster.core.throttle_limits import THROTTLE_BURST, THROTTLE_DEVICES, THROTTLE_RESERVE, THROTTLE_SHARE

BURST, RESERVE, SHARE = THROTTLE_BURST.open, THROTTLE_RESERVE.open, THROTTLE_SHARE.open
RATES = st.sampled_from([0.5, 100 / 60, 10.0, 100.0])
ROUNDING = 1e-5


def flood(rate: FairRate, now: float, device: str | None, most: int = 1_000_000, backlog: float = 0.0) -> int:
    """How many operations pass at once."""
    return next(number for number in range(most) if rate.take(now, device, backlog=backlog) > backlog)


@given(RATES)
def test_a_burst_passes_and_then_the_rate(per_second: float) -> None:
    rate = FairRate(per_second)
    assert flood(rate, 5.0, None) == round(BURST * per_second)
    wait = rate.take(5.0)
    assert 0 < wait <= 1 / per_second
    assert rate.take(5.0 + wait / 2) > 0, "what was refused has taken nothing"
    assert rate.take(5.0 + wait + ROUNDING) == 0
    assert rate.take(5.0 + wait + ROUNDING) > 0


@given(
    RATES,
    st.lists(
        st.tuples(
            st.floats(0, 30), st.sampled_from(["a", "b", "c", None]), st.integers(1, 40), st.sampled_from([0.0, 10.0])
        ),
        max_size=300,
    ),
)
def test_no_more_passes_than_rate_and_bursts(
    per_second: float, asked: list[tuple[float, str | None, int, float]]
) -> None:
    rate, now, passed = FairRate(per_second), 0.0, 0
    for pause, device, cost, backlog in asked:
        now += pause
        wait = rate.take(now, device, cost, backlog)
        if wait <= backlog:
            passed += cost
            assert wait >= 0
            assert passed <= per_second * (now + wait + BURST + RESERVE) + ROUNDING
        else:
            before = rate._due
            assert rate.take(now, device, cost, backlog) == wait
            assert rate._due == before


def test_waiting_ones_go_on_in_turn_at_the_rate() -> None:
    rate = FairRate(10.0)
    flood(rate, 0.0, None)
    waits = [rate.take(0.0, backlog=10.0) for _ in range(101)]
    steps = [round(later - earlier, 6) for earlier, later in pairwise(waits[:100])]
    assert set(steps) == {0.1}
    assert waits[99] <= 10.0 < waits[100], "the backlog is bounded"


@settings(max_examples=40)
@given(
    per_second=st.sampled_from([10.0, 100.0]),
    others=st.integers(1, 9),
    greed=st.integers(2, 50),
    backlog=st.sampled_from([0.0, 10.0]),
    data=st.data(),
)
def test_who_keeps_to_his_share_is_never_kept_waiting_by_one_who_floods(
    per_second: float, others: int, greed: int, backlog: float, data: st.DataObject
) -> None:
    """However the flood is mixed in between, and however uneven the others are within a few seconds."""
    rate, step = FairRate(per_second), 1.0
    share = per_second / (others + 1)
    owing = dict.fromkeys([f"light{number}" for number in range(others)], 0.0)
    uneven = data.draw(st.integers(1, 4))
    heavy = 0
    for second in range(200):
        now = second * step
        for _ in range(int(greed * per_second)):
            wait = rate.take(now, "heavy", backlog=backlog)
            if wait > backlog:
                break
            heavy += 1
        for name in owing:
            owing[name] += share * step * 0.99
            if second % uneven == 0:
                while owing[name] >= 1:
                    owing[name] -= 1
                    assert rate.take(now, name, backlog=backlog) == 0, f"{name} in second {second}"
    assert heavy >= share * 200 * 0.95, "nor does the one who floods get less than his own share"


def test_what_others_leave_is_free_for_all() -> None:
    rate, passed = FairRate(10.0), 0
    flood(rate, 0.0, "heavy")
    for second in range(1, 301):
        for light in range(5):
            if second % 10 == light:
                assert rate.take(second, f"light{light}") == 0
        passed += flood(rate, float(second), "heavy")
    assert passed >= 300 * 10.0 - 150 - 10


def test_while_there_is_room_nobody_s_share_matters() -> None:
    rate = FairRate(10.0)
    for device in ("a", "b", "c"):
        rate.take(0.0, device)
    assert flood(rate, 0.0, "a") >= BURST * 10 - 5


def test_a_flood_is_forgotten_soon_after_it() -> None:
    rate = FairRate(10.0)
    rate.take(0.0, "b")
    flood(rate, 0.0, "a")
    now = 3.0 * SHARE
    flood(rate, now, "b")
    assert rate.take(now, "a") == 0, "within its share again, out of the reserve"


@settings(max_examples=5)
@given(st.integers(THROTTLE_DEVICES.open + 1, 5 * THROTTLE_DEVICES.open))
def test_memory_is_bounded_however_many_devices_there_are(devices: int) -> None:
    rate = FairRate(100.0)
    for number in range(devices):
        rate.take(number * 0.0001, str(number))
    assert rate.active <= THROTTLE_DEVICES.open
    assert len(rate._recent) + len(rate._earlier) <= 2 * THROTTLE_DEVICES.open
    assert sys.getsizeof(rate._recent) + sys.getsizeof(rate._earlier) < 1_000_000
