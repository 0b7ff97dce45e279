"""The state machine of a queued message: its table walked whole, and what holds whatever happens in which order."""

from __future__ import annotations

import itertools
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import LOCK_LOST, HubError
from muster.messages.queue import (
    NEXT,
    Entry,
    Event,
    Lock,
    Outcome,
    Settlement,
    State,
    Step,
    advance,
    purge,
    release,
    settle,
    take,
)

MOST = 3
NOW, EXPIRES = 100.0, 1000.0
TOKEN, OTHER = UUID(int=1), UUID(int=2)
VISIBLE = Entry(1, 0.0, EXPIRES)
LOCKED = replace(VISIBLE, lock=Lock(TOKEN, 160.0))
WORN = MOST - 1
"""Deliveries after which one more failure is too many."""


def do(entry: Entry, event: Event) -> Step:
    """``event`` happens to ``entry``, at a time when nothing else does."""
    match event:
        case Event.TAKE:
            return take(entry, Lock(TOKEN, 160.0), NOW)
        case Event.COMPLETE | Event.REJECT | Event.ABANDON:
            return settle(entry, TOKEN, Settlement(event.value), NOW, MOST)
        case Event.RELEASE:
            return release(entry, NOW, MOST, counted=False)
        case Event.LAPSE:
            return advance(entry, 160.0)
        case Event.EXPIRE:
            return advance(entry, EXPIRES)
        case Event.EXHAUST:
            return release(replace(entry, deliveries=WORN), NOW, MOST, counted=True)
        case Event.PURGE:
            return purge(entry)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_each_event_in_each_state_does_what_the_table_says(state: State, event: Event) -> None:
    entry = VISIBLE if state is State.VISIBLE else LOCKED
    wanted = NEXT.get((state, event))
    try:
        came = do(entry, event)
    except (HubError, ValueError):
        assert wanted is None
        return
    if wanted is None:  # time passes over what it does not change; a locked message expires by way of its lapse
        assert came == (Outcome.EXPIRED if (state, event) == (State.LOCKED, Event.EXPIRE) else entry)
    elif isinstance(wanted, Outcome):
        assert came is wanted
    else:
        assert isinstance(came, Entry)
        assert came.state is wanted


def test_an_abandoned_message_counts_and_ends_when_it_has_come_back_too_often() -> None:
    entry: Step = VISIBLE
    for failed in range(1, MOST):
        assert isinstance(entry, Entry)
        entry = settle(replace(entry, lock=Lock(TOKEN, 160.0)), TOKEN, Settlement.ABANDON, NOW, MOST)
        assert isinstance(entry, Entry)
        assert (entry.deliveries, entry.lock) == (failed, None)
    assert isinstance(entry, Entry)
    assert settle(replace(entry, lock=LOCKED.lock), TOKEN, Settlement.ABANDON, NOW, MOST) is Outcome.EXHAUSTED


def test_a_lapsed_lock_does_not_count_and_a_release_only_if_it_says_so() -> None:
    assert advance(LOCKED, 160.0) == VISIBLE
    assert release(LOCKED, NOW, MOST, counted=False) == VISIBLE
    assert release(LOCKED, NOW, MOST, counted=True) == replace(VISIBLE, deliveries=1)


def test_a_locked_message_outlives_its_expiry_until_the_lock_ends() -> None:
    late = replace(LOCKED, expires=120.0)
    assert advance(late, 130.0) == late
    assert settle(late, TOKEN, Settlement.COMPLETE, 130.0, MOST) is Outcome.COMPLETED
    assert settle(late, TOKEN, Settlement.ABANDON, 130.0, MOST) is Outcome.EXPIRED
    assert release(late, 130.0, MOST, counted=False) is Outcome.EXPIRED
    assert advance(late, 160.0) is Outcome.EXPIRED


@pytest.mark.parametrize("how", Settlement)
def test_only_a_token_that_holds_the_lock_now_settles(how: Settlement) -> None:
    for entry, token, now in ((LOCKED, OTHER, NOW), (VISIBLE, TOKEN, NOW), (LOCKED, TOKEN, 160.0)):
        with pytest.raises(HubError) as caught:
            settle(entry, token, how, now, MOST)
        assert caught.value.row is LOCK_LOST


STEPS = st.lists(
    st.tuples(st.sampled_from(["take", "complete", "reject", "abandon", "release", "lose", "wait", "purge"]),
              st.sampled_from([0.0, 1.0, 30.0, 60.0, 700.0])),
    max_size=40,
)  # fmt: skip


@given(STEPS, st.integers(1, 4))
def test_whatever_happens_a_message_ends_once_and_for_a_reason(steps: list[tuple[str, float]], most: int) -> None:
    entry: Step = VISIBLE
    now, failures, tokens = 0.0, 0, itertools.count(1)
    for what, wait in steps:
        assert isinstance(entry, Entry)
        now += wait
        before, entry = entry, advance(entry, now)
        if isinstance(entry, Entry):
            assert entry.due > now, "nothing that is due is left"
            assert entry.deliveries == before.deliveries == failures < most
            held = entry.lock
            if what == "take" and held is None:
                entry = take(entry, Lock(UUID(int=next(tokens)), now + 60), now)
            elif what == "purge":
                entry = purge(entry)
            elif held is not None and what in set(Settlement):
                failures += what == "abandon"
                entry = settle(entry, held.token, Settlement(what), now, most)
                assert (entry is Outcome.COMPLETED) == (what == "complete")
                assert (entry is Outcome.REJECTED) == (what == "reject")
            elif held is not None and what in {"release", "lose"}:
                failures += what == "lose"
                entry = release(entry, now, most, counted=what == "lose")
        if isinstance(entry, Outcome):
            assert (entry is Outcome.PURGED) == (what == "purge" and before.due > now)
            assert (entry is Outcome.EXHAUSTED) == (failures >= most)
            assert entry is not Outcome.EXPIRED or now >= EXPIRES
            return
