"""Meters, the day's quota, and the table of throttles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.daily_use import DailyUse
from muster.core.errors import HubError
from muster.core.meters import Meters, Reading
from muster.core.throttle_errors import ThrottledError
from muster.core.throttle_limits import THROTTLE_BACKLOG, THROTTLE_BURST
from muster.core.throttles import (
    ALL,
    COMMANDS,
    CONNECTIONS,
    METHODS,
    QUERIES,
    REGISTRY,
    TELEMETRY,
    TWIN_READS,
    TWIN_UPDATES,
    Plan,
    Quota,
    Throttle,
    Tier,
)
from muster.testing.clock import VirtualAmbient

BURST = THROTTLE_BURST.open
DAY = 86_400
MIDNIGHT = 20_833 * float(DAY)


def reading(meters: Meters, throttle: Throttle) -> Reading:
    return next(one for one in meters.look() if one.throttle is throttle)


def fill(meters: Meters, throttle: Throttle, device: str | None = None) -> ThrottledError:
    """Take until it is refused."""
    for _ in range(100_000):
        try:
            meters.take(throttle, device)
        except ThrottledError as error:
            return error
    raise AssertionError("nothing was refused")


@pytest.mark.parametrize(
    ("throttle", "plan", "limit"),
    [
        (CONNECTIONS, Plan(Tier.S1), 100),
        (CONNECTIONS, Plan(Tier.S1, 9), 108),
        (TELEMETRY, Plan(Tier.F1), 100),
        (TELEMETRY, Plan(Tier.S2, 2), 240),
        (TELEMETRY, Plan(Tier.S3), 6000),
        (COMMANDS, Plan(Tier.S2, 3), 300),
        (REGISTRY, Plan(Tier.S3), 5000),
        (METHODS, Plan(Tier.S1, 2), 80),
        (QUERIES, Plan(Tier.S1), 20),
        (TWIN_READS, Plan(Tier.S1, 200), 100),
        (TWIN_READS, Plan(Tier.S2, 20), 200),
        (TWIN_UPDATES, Plan(Tier.S2), 50),
        (TWIN_UPDATES, Plan(Tier.S3, 2), 500),
    ],
)
def test_limits_are_those_of_the_cloud(throttle: Throttle, plan: Plan, limit: int) -> None:
    assert plan.limit(throttle) == limit


def test_the_table_is_whole() -> None:
    assert len({row.name for row in ALL}) == len(ALL)
    for row in ALL:
        assert row.reason.endswith(".")
        assert row.seconds in (1, 60)
        limits = [Plan(tier).limit(row) for tier in Tier]
        assert limits == sorted(limits)


def test_without_a_plan_all_passes_and_is_counted() -> None:
    meters = Meters(VirtualAmbient())
    for _ in range(20_000):
        meters.take(REGISTRY)
        assert meters.shape(CONNECTIONS, "d") == 0
    meters.take(METHODS, size=9000)
    meters.charge(10**12)
    assert not meters.spent()
    assert reading(meters, REGISTRY)[1:] == (20_000, 0, 0, None, None)
    assert reading(meters, METHODS).accepted == 3
    meters.count_by(TELEMETRY, lambda: 7)
    assert reading(meters, TELEMETRY).accepted == 7


def test_what_is_refused_says_which_limit_and_when_to_come_again() -> None:
    ambient = VirtualAmbient()
    meters = Meters(ambient, Plan(Tier.S1))
    error = fill(meters, REGISTRY)
    assert error.row.code == 429001
    assert error.message == (
        "The hub's rate of registry is 100 operations a minute (tier S1, units 1). Retry after 1 s."
    )
    assert reading(meters, REGISTRY)[1:] == (100, 0, 1, None, 100)
    ambient.advance(error.retry_after + 0.001)
    meters.take(REGISTRY)


def test_another_plan_counts_at_once_and_only_where_there_is_one() -> None:
    use = DailyUse(Plan(Tier.S1).quota)
    meters = Meters(VirtualAmbient(MIDNIGHT), Plan(Tier.S1), use)
    assert "(tier S1, units 1)" in fill(meters, QUERIES).message
    meters.charge(1)
    meters.replan(Plan(Tier.S3, 2))
    meters.take(QUERIES)
    assert "2000 pages a minute (tier S3, units 2)" in fill(meters, QUERIES).message
    quota = meters.quota()
    assert quota is not None
    assert (quota.messages, quota.used) == (Plan(Tier.S3, 2).quota.messages, 1)
    free = Meters(VirtualAmbient(MIDNIGHT))
    free.replan(Plan(Tier.F1))
    assert free.plan is None


def test_a_method_counts_by_its_blocks() -> None:
    meters = Meters(VirtualAmbient(), Plan(Tier.S1))
    for _ in range(40 * BURST // 32):
        meters.take(METHODS, size=128 * 1024)
    assert fill(meters, METHODS).row.code == 429001
    assert reading(meters, METHODS).accepted == 40 * BURST


def test_what_is_shaped_waits_before_it_is_refused() -> None:
    ambient = VirtualAmbient()
    meters = Meters(ambient, Plan(Tier.S1))
    waits = [meters.shape(TELEMETRY, "d") for _ in range(100 * (BURST + THROTTLE_BACKLOG.open))]
    with pytest.raises(ThrottledError) as refused:
        meters.shape(TELEMETRY, "d")
    assert refused.value.row.code == 429002
    late = [wait for wait in waits if wait]
    assert len(late) == 100 * THROTTLE_BACKLOG.open
    assert (round(late[0], 3), round(late[-1], 3)) == (0.01, THROTTLE_BACKLOG.open)
    told = reading(meters, TELEMETRY)
    assert (told.accepted, told.delayed, told.refused) == (len(waits), len(late), 1)


def test_a_device_that_floods_is_told_so_and_others_go_on() -> None:
    ambient = VirtualAmbient()
    meters = Meters(ambient, Plan(Tier.S1))
    assert fill(meters, TWIN_READS, "greedy").row.code == 429001, "it was alone"
    for _ in range(20):
        ambient.advance(1)
        for device in ("a", "b"):
            meters.take(TWIN_READS, device)
        refusal = fill(meters, TWIN_READS, "greedy")
    assert refusal.row.code == 429005


def test_rates_are_told_between_looks() -> None:
    ambient = VirtualAmbient()
    meters = Meters(ambient)
    assert reading(meters, REGISTRY).rate is None
    for _ in range(30):
        meters.take(REGISTRY)
    ambient.advance(0.5)
    assert reading(meters, REGISTRY).rate is None, "too soon to say"
    ambient.advance(9.5)
    assert reading(meters, REGISTRY).rate == 3.0
    ambient.advance(1000)
    assert reading(meters, REGISTRY).rate is None, "what was so long ago is not the present"


# --- the day's quota


def test_quotas_are_those_of_the_cloud() -> None:
    assert [Plan(tier).quota for tier in Tier] == [
        (8000, 512), (400_000, 4096), (6_000_000, 4096), (300_000_000, 4096)
    ]  # fmt: skip
    assert Plan(Tier.S2, 3).quota.messages == 18_000_000


def test_a_day_s_quota_is_counted_in_blocks_and_comes_back_at_midnight() -> None:
    use = DailyUse(Quota(10, 4096))
    now = MIDNIGHT + 100
    for size in (0, 1, 4096, 4097, 20_480):
        assert not use.spent(now)
        use.charge(now, size)
    assert (use.used, use.spent(now)) == (10, True)
    assert use.resets_at(now) == MIDNIGHT + DAY
    assert use.spent(MIDNIGHT + DAY - 1)
    assert not use.spent(MIDNIGHT + DAY)
    use.charge(MIDNIGHT + DAY, 50_000)
    assert use.spent(MIDNIGHT + DAY), "the last message may go beyond"
    use.charge(MIDNIGHT + 4000 * DAY, 50_000)
    assert not use.spent(now), "a clock that was wrong for a moment closes nothing"


def test_with_nothing_left_what_is_charged_is_refused_and_all_else_goes_on() -> None:
    ambient = VirtualAmbient(MIDNIGHT + 1)
    meters = Meters(ambient, Plan(Tier.F1), DailyUse(Quota(1, 512)))
    meters.charge(100)
    assert meters.spent()
    for row in ALL:
        if row.charged:
            with pytest.raises(HubError) as refused:
                meters.take(row)
            assert refused.value.row.code == 403002
        else:
            meters.take(row)
    with pytest.raises(HubError):
        meters.shape(TELEMETRY, "d")
    ambient.advance(DAY)
    meters.take(TELEMETRY)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, DAY / 3), st.integers(0, 10**6)), max_size=60))
def test_the_use_of_several_nodes_adds_up_and_survives_their_restarts(charges: list[tuple[str, float, int]]) -> None:
    kept: bytes | None = None
    now, quota = MIDNIGHT, Quota(10**9, 4096)
    one = DailyUse(quota, node="one")
    nodes = {name: DailyUse(quota, node=name) for name in "abc"}
    for name, pause, size in charges:
        now += pause
        for use in (one, nodes[name]):
            use.charge(now, size)
        kept = nodes[name].joined(nodes[name].joined(kept))
        if size % 5 == 0:
            nodes[name] = DailyUse(quota, kept, node=name)
    for use in nodes.values():
        use.learn(kept)
        assert use.spent(now) == one.spent(now)
        assert (use.day, use.used) == (int(now // DAY), one.used)
    again = DailyUse(quota, kept, node="after a restart")
    again.spent(now)
    assert again.used == one.used
