"""Failed authentications: whose answer waits, how long, and what that costs. Good credentials never come here."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.door_limits import (
    BACK_OFF_ADDRESSES,
    BACK_OFF_FREE,
    BACK_OFF_FREE_ADDRESS,
    BACK_OFF_HELD,
    BACK_OFF_MOST,
)
from muster.core.errors import INVALID_OPERATION, UNAUTHORIZED
from muster.identity.back_off import BackOff
from muster.identity.breaches import breach
from muster.identity.refusals import Refusals
from muster.testing.clock import VirtualAmbient

FREE, MOST = BACK_OFF_FREE.open, BACK_OFF_MOST.open
PEER, OTHER = "10.0.0.1:1000", "10.0.0.2:1000"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def back_off(clock: Clock) -> BackOff:
    return BackOff(clock)


def fail(back_off: BackOff, times: int, peer: str = PEER, principal: str = "dev") -> None:
    for _ in range(times):
        back_off.failed(peer, principal)


def test_some_failures_are_free_then_the_wait_doubles_up_to_the_most(back_off: BackOff) -> None:
    waits = []
    for _ in range(FREE + 10):
        back_off.failed(PEER, "dev")
        waits.append(back_off.wait(PEER, "dev"))
    assert waits[:FREE] == [0] * FREE
    assert waits[FREE : FREE + 4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert waits[-1] == MOST


def test_they_are_forgotten_with_time(back_off: BackOff, clock: Clock) -> None:
    fail(back_off, 1000)
    assert back_off.wait(PEER, "dev") == MOST
    clock.now += 71
    assert back_off.wait(PEER, "dev") == 0
    clock.now += 10 * FREE
    back_off.failed(PEER, "dev")
    assert back_off.wait(PEER, "dev") == 0


def test_a_principal_is_not_slowed_by_failures_elsewhere(back_off: BackOff) -> None:
    fail(back_off, 40)
    assert back_off.wait(OTHER, "dev") == 0
    assert back_off.wait(PEER, "another") == 0, "nor are its neighbours, at first"
    fail(back_off, BACK_OFF_FREE_ADDRESS.open, principal="")
    assert back_off.wait(PEER, "another") > 0
    assert back_off.wait(OTHER, "another") == 0


@pytest.mark.parametrize("peer", ["127.0.0.1:1", "[::1]:1", "unknown", "[::ffff:127.0.0.1]:1"])
def test_the_machine_itself_does_not_wait(back_off: BackOff, peer: str) -> None:
    fail(back_off, 1000, peer)
    assert back_off.wait(peer, "dev") == 0


def test_a_network_of_ipv6_counts_as_one(back_off: BackOff) -> None:
    for number in range(FREE + 3):
        back_off.failed(f"[2001:db8::{number:x}]:1", "dev")
    assert back_off.wait("[2001:db8::ffff]:9", "dev") > 0
    assert back_off.wait("[2001:db8:0:1::1]:9", "dev") == 0
    fail(back_off, FREE + 3, "[::ffff:10.0.0.1]:1", "mapped")
    assert back_off.wait(PEER, "mapped") > 0


def test_memory_is_bounded_and_the_newest_stay(back_off: BackOff) -> None:
    for number in range(3 * BACK_OFF_ADDRESSES.open):
        back_off.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:1", "")
    assert len(back_off._recent) + len(back_off._earlier) <= 2 * BACK_OFF_ADDRESSES.open
    fail(back_off, FREE + 1)
    for number in range(BACK_OFF_ADDRESSES.open // 2):
        back_off.failed(f"11.{number >> 16}.{number >> 8 & 255}.{number & 255}:1", "")
    assert back_off.wait(PEER, "dev") > 0


def test_so_many_answers_are_held_and_a_tenth_for_one_address(back_off: BackOff) -> None:
    tenth = BACK_OFF_HELD.open // 10
    with ExitStack() as stack:
        assert all(stack.enter_context(back_off.holding(PEER)) for _ in range(tenth))
        with back_off.holding(PEER) as one_more:
            assert not one_more
        for number in range(1, 10):
            peer = f"10.9.0.{number}:1"
            assert all(stack.enter_context(back_off.holding(peer)) for _ in range(tenth))
        with back_off.holding(OTHER) as one_more:
            assert not one_more
    with back_off.holding(PEER) as again:
        assert again
    assert back_off._held == {}


@given(st.lists(st.tuples(st.sampled_from([PEER, OTHER]), st.sampled_from(["", "a", "b"]), st.floats(0, 20))))
def test_no_wait_is_longer_than_the_most_and_each_ends(failures: list[tuple[str, str, float]]) -> None:
    clock = Clock()
    back_off = BackOff(clock)
    for peer, principal, pause in failures:
        clock.now += pause
        back_off.failed(peer, principal)
        assert 0 <= back_off.wait(peer, principal) <= MOST
    clock.now += 71
    assert all(back_off.wait(peer, principal) == 0 for peer, principal, _ in failures)


def test_only_failed_authentications_count() -> None:
    ambient = VirtualAmbient()
    refusals = Refusals(ambient)
    for row, expected in ((INVALID_OPERATION, 0), (UNAUTHORIZED, MOST)):
        for _ in range(FREE + 10):
            verdict = breach(
                ambient, "keep-alive", row, transport="mqtt", peer=PEER, expected="", seen="", principal="dev"
            )
            refusals.add(verdict)
        assert refusals.back_off.wait(PEER, "dev") == expected
