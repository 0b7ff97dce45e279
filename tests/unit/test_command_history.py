"""The judge of commands: what is right passes, and each thing that can go wrong is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.cluster.command_history import DELIVERIES
from tests.cluster.history import problems
from tests.cluster.record import Event


def good() -> list[Event]:
    """Command 1 is given back and then completed, 2 rejected, 3 expires, 4 is completed on MQTT, where nothing is
    confirmed; whether 5 was accepted is not known."""
    return [
        Event("connected", 0.0, "d", session=1),
        Event("offered", 1.0, "d", 1), Event("commanded", 1.1, "d", 1),
        Event("delivered", 1.2, "d", 1, lock="a"),
        Event("settling", 1.3, "d", 1, lock="a", what="abandon"),
        Event("settled", 1.4, "d", 1, lock="a", what="abandon"),
        Event("delivered", 1.5, "d", 1, place=1, lock="b"),
        Event("settling", 1.6, "d", 1, lock="b", what="complete"),
        Event("settled", 1.7, "d", 1, lock="b", what="complete"),
        Event("offered", 2.0, "d", 2), Event("commanded", 2.1, "d", 2),
        Event("delivered", 2.2, "d", 2, lock="c"),
        Event("settling", 2.3, "d", 2, lock="c", what="reject"),
        Event("settled", 2.4, "d", 2, lock="c", what="reject"),
        Event("offered", 3.0, "gone", 3, place=2), Event("commanded", 3.1, "gone", 3, place=2),
        Event("offered", 4.0, "d", 4), Event("commanded", 4.1, "d", 4),
        Event("delivered", 4.2, "d", 4, session=1, lock="1/1"),
        Event("settling", 4.3, "d", 4, session=1, lock="1/1", what="complete"),
        Event("offered", 4.4, "d", 5),
        Event("feedback", 9.0, "d", 1, place=1, what="Success"),
        Event("feedback", 9.0, "d", 2, place=1, what="Rejected"),
        Event("feedback", 9.0, "d", 4, place=1, what="Success"),
        Event("feedback", 9.1, "gone", 3, place=2, what="Expired"),
    ]  # fmt: skip


def test_what_is_right_passes() -> None:
    assert list(problems(good())) == []


def test_a_feedback_message_may_be_read_again() -> None:
    assert list(problems([*good(), Event("feedback", 70.0, "d", 1, place=1, what="Success")])) == []


def test_what_was_not_answered_may_be_there() -> None:
    more = [
        Event("delivered", 5.0, "d", 5, lock="z"),
        Event("settling", 5.1, "d", 5, lock="z", what="complete"),
        Event("feedback", 9.0, "d", 5, place=3, what="Success"),
    ]
    assert list(problems(sorted([*good(), *more], key=lambda event: event.at))) == []


def without(kind: str, number: int) -> list[Event]:
    return [event for event in good() if (event.kind, event.number) != (kind, number)]


@pytest.mark.parametrize(
    ("kind", "number", "expected"),
    [
        ("feedback", 1, "d: command 1 has no feedback"),
        ("delivered", 4, "d: command 4 was accepted and never delivered"),
        ("delivered", 3, None),
        ("offered", 4, "d: command 4 was never sent, and is there"),
        ("settling", 4, "d: command 4 has feedback Success, which nobody brought about"),
    ],
)
def test_what_is_missing_is_found(kind: str, number: int, expected: str | None) -> None:
    assert list(problems(without(kind, number))) == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event("settled", 1.8, "d", 1, lock="b", what="complete"), "d: the lock b was settled 2 times"),
        (Event("delivered", 2.5, "d", 2, lock="e"), "d: command 2 came back after it was settled"),
        (Event("delivered", 9.5, "d", 4, lock="e"), "d: command 4 came back after its feedback"),
        (
            Event("feedback", 9.5, "d", 4, place=2, what="Success"),
            "d: command 4 has more than one feedback record, it was settled more than once",
        ),
    ],
)
def test_what_comes_twice_is_found(event: Event, expected: str) -> None:
    assert list(problems(sorted([*good(), event], key=lambda one: one.at))) == [expected]


@pytest.mark.parametrize(
    ("chosen", "changes", "expected"),
    [
        (
            lambda event: event.place == 1 and event.kind == "delivered", {"place": 0},
            "d: command 1 came with 0 failed deliveries, there were 1",
        ),
        (
            lambda event: event.kind == "feedback" and event.number == 2, {"what": "Success"},
            "d: command 2 was settled as Rejected, its feedback says Success",
        ),
        (
            lambda event: event.kind == "feedback" and event.number == 4, {"what": "Rejected"},
            "d: command 4 has feedback Rejected, which nobody brought about",
        ),
        (
            lambda event: event.kind == "feedback" and event.number == 3, {"at": 4.9},
            "gone: command 3 has feedback Expired, which nobody brought about",
        ),
        (
            lambda event: event.kind == "feedback" and event.number == 4, {"what": "DeliveryCountExceeded"},
            "d: command 4 has feedback DeliveryCountExceeded, which nobody brought about",
        ),
        (
            lambda event: event.kind == "feedback" and event.number == 4, {"what": "Purged"},
            "d: command 4 has feedback Purged, which nobody brought about",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found(chosen: Callable[[Event], bool], changes: dict[str, float], expected: str) -> None:
    events = [replace(event, **changes) if chosen(event) else event for event in good()]
    assert expected in list(problems(sorted(events, key=lambda event: event.at)))


def test_what_failed_often_enough_may_be_given_up() -> None:
    ended = [Event("connected", 4.4 + number / 100, "d", session=2 + number) for number in range(DELIVERIES)]
    events = [
        replace(event, what="DeliveryCountExceeded") if (event.kind, event.number) == ("feedback", 4) else event
        for event in good()
    ]
    assert list(problems(sorted([*events, *ended], key=lambda event: event.at))) == []
