"""When an AMQP connection says something so as not to be given up, and when the hub gives it up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from muster.core.amqp_limits import AMQP_IDLE
from muster.core.errors import CONNECTION_CLOSED, HubError
from muster.heads.amqp_heartbeat import Heartbeat

BEATS = 4
"""Of silence, after which it is ended: a quarter of the time-out each."""


class Loop:
    """Has one timer."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.callback: Callable[[], None] | None = None

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Loop:
        self.seconds, self.callback = seconds, callback
        return self

    def cancel(self) -> None:
        self.callback = None


class Scene:
    """A connection, its transport, and its heartbeat."""

    def __init__(self, wanted: int | None = None) -> None:
        self.loop = Loop()
        self.transport = self
        self.writable, self.held = True, False
        self.waiting = 0
        self.said = 0
        self.ended: list[HubError | str | None] = []
        self.heart = Heartbeat(self, cast(Any, self.loop))
        self.heart.start(wanted)

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def heartbeat(self) -> None:
        self.said += 1
        self.heart.spoke = True

    def end(self, problem: HubError | None) -> None:
        self.ended.append(problem)

    def abort(self) -> None:
        self.ended.append("cut")

    def beat(self, times: int = 1) -> None:
        for _ in range(times):
            callback, self.loop.callback = self.loop.callback, None
            assert callback is not None
            callback()


def test_who_is_silent_for_the_whole_time_out_is_ended_and_told_why() -> None:
    scene = Scene()
    assert scene.loop.seconds * BEATS == AMQP_IDLE.open
    scene.beat(BEATS - 1)
    assert scene.ended == []
    scene.beat()
    [problem] = scene.ended
    assert isinstance(problem, HubError)
    assert problem.row is CONNECTION_CLOSED
    assert scene.loop.callback is None


def test_who_says_something_in_time_is_not() -> None:
    scene = Scene()
    for _ in range(3):
        scene.beat(BEATS - 1)
        scene.heart.heard = True
        scene.beat()
    assert scene.ended == []


def test_while_the_hub_does_not_read_nobody_is_silent() -> None:
    scene = Scene()
    scene.held = True
    scene.beat(3 * BEATS)
    scene.held = False
    scene.beat(BEATS - 1)
    assert scene.ended == []


@pytest.mark.parametrize("taken", [0, 1])
def test_who_takes_nothing_of_what_waits_is_cut_and_who_takes_little_is_not(taken: int) -> None:
    scene = Scene()
    scene.writable, scene.waiting = False, 1_000_000
    for _ in range(3 * BEATS):
        if not scene.ended:
            scene.beat()
            scene.waiting -= taken
    assert scene.ended == ([] if taken else ["cut"])


@pytest.mark.parametrize(("wanted", "seconds"), [(1_000, 0.5), (60_000, 30.0), (100, 0.5), (10_000_000, 60.0)])
def test_a_demanding_client_hears_something_twice_in_its_time_out(wanted: int, seconds: float) -> None:
    scene = Scene(wanted)
    assert scene.loop.seconds == seconds
    scene.beat(2)
    assert scene.said == 2
    scene.heart.spoke = True
    scene.beat()
    assert scene.said == 2, "something else was said"


def test_nothing_is_said_to_who_does_not_ask_for_it_and_nothing_happens_after_the_end() -> None:
    scene = Scene()
    scene.beat(2)
    assert scene.said == 0
    scene.heart.stop()
    scene.heart.stop()
    assert scene.loop.callback is None
