"""When commits may be run on the loop's thread: what others can see of it is bounded, whatever the disk does."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from muster.stores.sqlite.inline import PAUSE_FACTOR, QUICK_COMMITS, QUICK_SECONDS, WhileQuick

QUICK, SLOW = QUICK_SECONDS / 2, QUICK_SECONDS * 20


def trusting() -> WhileQuick:
    inline = WhileQuick(lambda: True)
    for number in range(QUICK_COMMITS):
        assert not inline.may(number)
        inline.took(QUICK, number, here=False)
    return inline


def test_it_opens_after_enough_quick_commits_in_a_row() -> None:
    assert trusting().may(100.0)


def test_one_slow_commit_of_the_thread_begins_the_count_anew() -> None:
    inline = trusting()
    inline.took(SLOW, 100.0, here=False)
    for _ in range(QUICK_COMMITS):
        assert not inline.may(100.0)
        inline.took(QUICK, 100.0, here=False)
    assert inline.may(100.0)


def test_after_a_slow_commit_on_the_loop_it_stays_closed_in_proportion() -> None:
    inline = trusting()
    inline.took(SLOW, 100.0, here=True)
    for _ in range(10 * QUICK_COMMITS):
        inline.took(QUICK, 100.0, here=False)
    assert not inline.may(100.0 + 0.9 * PAUSE_FACTOR * SLOW)
    assert inline.may(100.0 + 1.1 * PAUSE_FACTOR * SLOW)


def test_in_company_it_is_closed() -> None:
    company = [False]
    inline = WhileQuick(lambda: not company[0])
    for _ in range(QUICK_COMMITS):
        inline.took(QUICK, 1.0, here=False)
    assert inline.may(1.0)
    company[0] = True
    assert not inline.may(2.0)


@given(st.lists(st.one_of(st.floats(1e-5, QUICK_SECONDS), st.floats(QUICK_SECONDS, 0.3)), max_size=400))
def test_slow_commits_have_the_loop_for_a_small_part_of_the_time(disk: list[float]) -> None:
    """``disk``: how long it takes for each commit, one after the other, without a pause between."""
    inline = WhileQuick(lambda: True)
    now, stalls = 0.0, []
    for seconds in disk:
        here = inline.may(now)
        now += seconds
        inline.took(seconds, now, here=here)
        if here and seconds > QUICK_SECONDS:
            stalls.append((now, seconds))
    for (ended, seconds), (then, again) in pairwise(stalls):
        assert then - again - ended >= PAUSE_FACTOR * seconds * 0.999
