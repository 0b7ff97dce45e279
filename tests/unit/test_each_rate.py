"""A rate for each of many."""

from __future__ import annotations

from muster.core.each_rate import EachRate


def test_no_stretch_has_more_than_the_count_however_they_come() -> None:
    rate, passed = EachRate(5, 10.0, 100), list[float]()
    for tick in range(400):
        now = tick * 0.37
        wait = rate.take(now, "a")
        assert (wait == 0.0) is (len([one for one in passed if now - one < 10]) < 5)
        if wait:
            assert wait == 10 - (now - passed[-5])
        else:
            passed.append(now)
    assert len(passed) > 60


def test_one_every_two_seconds_is_never_refused_and_others_count_apart() -> None:
    rate = EachRate(5, 10.0, 100)
    for tick in range(50):
        assert rate.take(tick * 2.0, "a") == 0
        assert tick > 4 or rate.take(0.0, "b") == 0
    assert rate.take(99.0, "b") == 0


def test_memory_is_bounded_and_who_asks_on_is_not_forgotten_by_that() -> None:
    rate = EachRate(1, 10.0, 50)
    assert rate.take(0.0, "a") == 0
    for number in range(1000):
        assert rate.take(0.001 * number, f"other-{number}") == 0
        assert rate.take(0.001 * number, "a") > 0
    assert len(rate._recent) + len(rate._earlier) <= 101
