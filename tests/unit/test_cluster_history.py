"""The judge of a cluster's history: what is right passes, and each thing that can go wrong is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.history import TOLERANCE_SECONDS, moved, problems, repeated, sent_beside
from tests.cluster.record import Event, Record, read


def good() -> list[Event]:
    """A device that sends ten messages over two sessions, three of them twice, and is told things meanwhile."""
    events = [Event("connected", 0.0, "d", session=1)]
    at = 1.0
    for number in range(7):
        events.append(Event("sent", at, "d", number, 1))
        if number < 4:
            events.append(Event("acked", at + 0.5, "d", number, 1))
        at += 1
    events.append(Event("ended", at, "d", session=1))
    events.append(Event("connected", at + 1, "d", session=2))
    at += 2
    for number in range(4, 10):
        events += [Event("sent", at, "d", number, 2), Event("acked", at + 0.5, "d", number, 2)]
        at += 1
    stored = [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9]
    events += [Event("read", at, "d", number, place=100 + 7 * place) for place, number in enumerate(stored)]
    events += [
        Event("called", at, "d", 1), Event("invoked", at, "d", 1, 2), Event("answered", at + 1, "d", 1, place=200),
        Event("called", at, "d", 2), Event("answered", at + 1, "d", 2, place=404),
        Event("desired", at, "d", 2), Event("desired", at + 1, "d", 3), Event("got", at + 1, "d", 1, 2),
        Event("pushed", at + 1.5, "d", 2, 2), Event("pushed", at + 2, "d", 3, 2), Event("holds", at + 3, "d", 3, 2),
    ]  # fmt: skip
    return sorted(events, key=lambda event: event.at)


def which(kind: str, number: int) -> int:
    """Where the only such event stands, or the last one."""
    return max(at for at, event in enumerate(good()) if event.kind == kind and event.number == number)


def test_what_is_right_passes() -> None:
    assert list(problems(good())) == []
    assert repeated(good()) == (13, 3)


@pytest.mark.parametrize(
    ("kind", "number", "expected"),
    [
        ("read", 9, "1 acknowledged messages are lost, the first is 9"),
        ("read", 7, "message 8 comes at 177, behind 6 it is not the next"),
        ("sent", 9, "was read and never sent"),
        ("invoked", 1, "which it never reached"),
    ],
)
def test_what_is_missing_is_found(kind: str, number: int, expected: str | None) -> None:
    events = good()
    del events[which(kind, number)]
    found = list(problems(events))
    assert (found == []) if expected is None else any(expected in one for one in found), found


@pytest.mark.parametrize(
    ("kind", "number", "expected"),
    [
        ("invoked", 1, "reached the device 2 times"),
        ("answered", 1, "was answered 2 times"),
        ("read", 3, "was read 2 times, and sent 1 times"),
        ("read", 3, "two messages have one sequence number"),
        ("pushed", 3, "told versions out of order"),
        ("desired", 3, "do not grow"),
    ],
)
def test_what_came_twice_is_found(kind: str, number: int, expected: str) -> None:
    events, at = good(), which(kind, number)
    events.insert(at, events[at])
    assert any(expected in one for one in problems(events))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (("read", 7, {"place": 1}), "message 7 comes at 1, behind -1 it is not the next"),
        (("read", 6, {"place": 171}), None),
        (("got", 1, {"session": 3}), None),
        (("got", 1, {"session": 3, "at": 1000.0}), "session 3 got version 1, an earlier one knew 3"),
        (("holds", 3, {"number": 2}), "it holds version 2 of its desired properties, not 3"),
        (("acked", 9, {"session": 1}), None),
    ],
)
def test_what_is_wrong_is_found(changed: tuple[str, int, dict[str, float]], expected: str | None) -> None:
    kind, number, members = changed
    events, at = good(), which(kind, number)
    events[at] = replace(events[at], **members)
    found = list(problems(sorted(events, key=lambda event: event.at)))
    assert (found == []) if expected is None else any(expected in one for one in found), found


def test_a_session_that_goes_on_beside_a_newer_one_is_found() -> None:
    end = good()[-1].at
    events = [*good(), Event("sent", end + 1, "d", -1, 1), Event("acked", end + 2, "d", -1, 1)]
    events.append(Event("read", end + 3, "d", -1, place=1000))
    assert (sent_beside(good()), sent_beside(events)) == (0, 1)
    assert list(problems(events)) == [
        "d: session 1 was acknowledged message -1, which it sent after a newer session was in"
    ]


def test_what_was_sent_before_a_newer_session_may_be_acknowledged_at_any_time() -> None:
    events = good()
    at = which("connected", 0)
    events.insert(at, Event("sent", events[at].at - 0.1, "d", -1, 1))
    events += [Event("acked", events[-1].at + 60, "d", -1, 1), Event("read", events[-1].at + 61, "d", -1, place=1000)]
    assert list(problems(events)) == []


@pytest.mark.parametrize("kind", ["pushed", "invoked", "delivered"])
def test_what_an_older_session_is_told_has_a_tolerance(kind: str) -> None:
    began = next(event.at for event in good() if event.kind == "connected" and event.session == 2)
    said = [Event("offered", 0.0, "d", 77)] if kind == "delivered" else []
    number = 1 if kind == "pushed" else 77
    soon, late = (
        [*good(), *said, Event(kind, began + TOLERANCE_SECONDS + more, "d", number, 1)] for more in (-0.1, 0.1)
    )  # fmt: skip
    assert list(problems(soon)) == []
    assert list(problems(late)) == [f"d: session 1 has {kind} 2.1 s after a newer session was in"]


def test_connections_are_counted_from_each_fault_to_the_next() -> None:
    begun = [Event("connected", at, "d", session=number) for number, at in enumerate((1.0, 3.0, 4.0, 6.0), 1)]
    struck = [Event("struck", 2.0, "one fault", 1), Event("struck", 5.0, "another", 2)]
    assert moved(sorted([*begun, *struck], key=lambda event: event.at)) == [("one fault", 2), ("another", 1)]


def test_clients_keep_what_they_saw_in_files(tmp_path: Path) -> None:
    events = good()
    for name, part in (("a", events[::2]), ("b", events[1::2])):
        record = Record(tmp_path / name)
        for event in part:
            record.note(event)
        record.close()
    kept = read(sorted(tmp_path.iterdir()))
    assert sorted(kept, key=repr) == sorted(events, key=repr)
    assert [event.at for event in kept] == sorted(event.at for event in events)
