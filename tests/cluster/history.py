"""What clients saw of a cluster while things broke, and the judge of it: a program that knows only this record.

Each client notes what it did and what it was told, when it was told; afterwards ``problems`` says what cannot have
happened if the hub keeps its promises:

- nothing that was acknowledged is lost, and each device's messages are read in the order in which it sent them, up to
  runs that it sent again because they were not acknowledged;
- one live session for each identity: once a newer one is in, an older one is told nothing any more of what it sends;
- a method call reaches its device at most once, and is answered at most once;
- a command that was accepted is delivered, and once its lock was settled and that was confirmed it does not come back;
  each has one final feedback;
- versions of twins only grow, and what a device holds in the end is what the service wrote last.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a client saw, at ``at`` of its monotonic clock, which all clients of a run share.

    ``kind`` is one of ``KINDS``. ``subject`` is the device. ``number`` is what the client counts by: a message's
    number, a call's, a command's, a version. ``session`` counts a device's connections; ``place`` is a partition's
    sequence number where something was read, a status where something was answered.
    """

    kind: str
    at: float
    subject: str
    number: int = 0
    session: int = 0
    place: int = 0


KINDS = frozenset({
    "sent", "acked", "read",
    "connected", "ended",
    "called", "invoked", "answered",
    "commanded", "delivered", "settled", "feedback",
    "desired", "pushed", "holds",
})  # fmt: skip


class Record:
    """Appends events to a file, one JSON object a line, so that a client that is killed loses none that it noted."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def note(self, event: Event) -> None:
        """Append ``event``."""
        assert event.kind in KINDS, event.kind
        self._file.write(json.dumps(asdict(event)) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(paths: Iterable[Path]) -> list[Event]:
    """The events of several clients, in the order of their times."""
    lines = (line for path in paths for line in path.read_text().splitlines())
    return sorted((Event(**json.loads(line)) for line in lines), key=lambda event: event.at)


def problems(events: Iterable[Event]) -> Iterator[str]:
    """What the hub broke its promises by, a sentence each; ``events`` are in the order of their times."""
    kinds: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        kinds[event.kind].append(event)
    yield from _telemetry(kinds)
    yield from _sessions(kinds)
    yield from _methods(kinds)
    yield from _commands(kinds)
    yield from _twins(kinds)


def repeated(events: Iterable[Event]) -> tuple[int, int]:
    """How many messages were read, and how many of these more often than once."""
    seen: set[tuple[str, int]] = set()
    total = again = 0
    for event in events:
        if event.kind == "read":
            total += 1
            again += (event.subject, event.number) in seen
            seen.add((event.subject, event.number))
    return total, again


def _by_subject(events: Iterable[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event.subject].append(event)
    return found


def _telemetry(kinds: dict[str, list[Event]]) -> Iterator[str]:
    read_of = _by_subject(kinds["read"])
    sent = {(event.subject, event.number) for event in kinds["sent"]}
    for device, acked in _by_subject(kinds["acked"]).items():
        there = {event.number for event in read_of.get(device, ())}
        lost = sorted({event.number for event in acked} - there)
        if lost:
            yield f"{device}: {len(lost)} acknowledged messages are lost, the first is {lost[0]}"
    for device, found in read_of.items():
        in_order = sorted(found, key=lambda event: event.place)
        newest = last = -1
        for event in in_order:
            if (device, event.number) not in sent:
                yield f"{device}: message {event.number} was read and never sent"
            if newest >= 0 and event.number != last + 1 and event.number > newest:
                yield f"{device}: message {event.number} follows {last} at {event.place}, what is between was overtaken"
            last, newest = event.number, max(newest, event.number)
        places = [event.place for event in in_order]
        if len(set(places)) != len(places):
            yield f"{device}: two messages have one sequence number"


def _sessions(kinds: dict[str, list[Event]]) -> Iterator[str]:
    sent_at = {(event.subject, event.session, event.number): event.at for event in kinds["sent"]}
    acked = _by_subject(kinds["acked"])
    for device, begun in _by_subject(kinds["connected"]).items():
        for event in acked.get(device, ()):
            sent = sent_at.get((device, event.session, event.number))
            newer = [one for one in begun if one.session > event.session and sent is not None and one.at < sent]
            if newer:
                yield (
                    f"{device}: session {event.session} was acknowledged message {event.number}, "
                    f"which it sent after session {newer[0].session} was in"
                )


def _methods(kinds: dict[str, list[Event]]) -> Iterator[str]:
    for kind, verb in (("invoked", "reached the device"), ("answered", "was answered")):
        for device, found in _by_subject(kinds[kind]).items():
            numbers = [event.number for event in found]
            for number in sorted({one for one in numbers if numbers.count(one) > 1}):
                yield f"{device}: method call {number} {verb} {numbers.count(number)} times"
    invoked = {(event.subject, event.number) for event in kinds["invoked"]}
    for event in kinds["answered"]:
        if event.place == 200 and (event.subject, event.number) not in invoked:
            yield f"{event.subject}: method call {event.number} was answered for the device, which it never reached"


def _commands(kinds: dict[str, list[Event]]) -> Iterator[str]:
    delivered = {(event.subject, event.number) for event in kinds["delivered"]}
    feedback: dict[tuple[str, int], int] = defaultdict(int)
    for event in kinds["feedback"]:
        feedback[event.subject, event.number] += 1
    for event in kinds["commanded"]:
        which = event.subject, event.number
        if which not in delivered:
            yield f"{event.subject}: command {event.number} was accepted and never delivered"
        if feedback[which] == 0:
            yield f"{event.subject}: command {event.number} has no feedback"
    for (device, number), count in feedback.items():
        if count > 1:
            yield f"{device}: command {number} has {count} feedback records, it was settled more than once"
    settled = {(event.subject, event.number): event.at for event in kinds["settled"]}
    for event in kinds["delivered"]:
        at = settled.get((event.subject, event.number))
        if at is not None and event.at > at:
            yield f"{event.subject}: command {event.number} came back after it was settled"


def _twins(kinds: dict[str, list[Event]]) -> Iterator[str]:
    for device, written in _by_subject(kinds["desired"]).items():
        versions = [event.number for event in written]
        if any(later <= earlier for earlier, later in pairwise(versions)):
            yield f"{device}: the versions that its desired properties got do not grow"
    for device, pushed in _by_subject(kinds["pushed"]).items():
        by_session: dict[int, list[int]] = defaultdict(list)
        for event in pushed:
            by_session[event.session].append(event.number)
        for session, versions in by_session.items():
            if any(later <= earlier for earlier, later in pairwise(versions)):
                yield f"{device}: session {session} was told versions out of order"
    for device, held in _by_subject(kinds["holds"]).items():
        wanted = [event.number for event in kinds["desired"] if event.subject == device]
        if wanted and held[-1].number < wanted[-1]:
            yield f"{device}: it holds version {held[-1].number} of its desired properties, not {wanted[-1]}"
