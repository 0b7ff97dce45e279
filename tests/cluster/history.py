"""The judge of what clients saw of a cluster while things broke: it knows nothing but their record.

``problems`` says what cannot have happened if the hub keeps its promises:

- nothing that was acknowledged is lost, and each device's messages are read in the order in which it sent them, up to
  runs that it sent again because they were not acknowledged; none is read more often than it was sent;
- one live session for each identity: once a newer one is in, an older one is told nothing any more. What it sends
  then is not acknowledged, without any tolerance, for that comes after in every order of things. What the hub said
  before may still be on its way: ``TOLERANCE_SECONDS``;
- a method call reaches its device at most once, and is answered at most once;
- what becomes of commands: ``command_history``;
- versions of twins only grow, and what a device holds in the end is what the service wrote last.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tests.cluster.command_history import commands
from tests.cluster.record import Event, by_subject

TOLERANCE_SECONDS = 2.0
"""From the hub's write to the client's note: through the balancer, by a process that shares two cores with all nodes
and their databases. A stale session that goes on is told more for much longer than that: leases last five seconds."""


def problems(events: Iterable[Event]) -> Iterator[str]:
    """What the hub broke its promises by, a sentence each; ``events`` are in the order of their times."""
    kinds: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        kinds[event.kind].append(event)
    yield from _telemetry(kinds)
    yield from _sessions(kinds)
    yield from _methods(kinds)
    yield from commands(kinds)
    yield from _twins(kinds)


def moved(events: Iterable[Event]) -> list[tuple[str, int]]:
    """The faults in their order, and how many connections devices made from each to the next."""
    found: list[tuple[str, int]] = []
    for event in events:
        if event.kind == "struck":
            found.append((event.subject, 0))
        elif event.kind == "connected" and found:
            found[-1] = (found[-1][0], found[-1][1] + 1)
    return found


def sent_beside(events: Iterable[Event]) -> int:
    """How many messages were sent on a session when a newer one was in: what the rule of one live session is about."""
    newest: dict[str, int] = defaultdict(int)
    found = 0
    for event in events:
        if event.kind == "connected":
            newest[event.subject] = max(newest[event.subject], event.session)
        elif event.kind == "sent" and event.session:
            found += event.session < newest[event.subject]
    return found


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


def _telemetry(kinds: dict[str, list[Event]]) -> Iterator[str]:
    read_of = by_subject(kinds["read"])
    sent = Counter((event.subject, event.number) for event in kinds["sent"])
    known = {event.subject for event in kinds["sent"] if event.session}
    """Devices of which each sending is noted: an SDK sends again by itself."""
    for device, acked in by_subject(kinds["acked"]).items():
        there = {event.number for event in read_of.get(device, ())}
        lost = sorted({event.number for event in acked} - there)
        if lost:
            yield f"{device}: {len(lost)} acknowledged messages are lost, the first is {lost[0]}"
    for device, found in read_of.items():
        in_order = sorted(found, key=lambda event: event.place)
        newest = -1
        times = Counter(event.number for event in found)
        for number, count in times.items():
            if not sent[device, number]:
                yield f"{device}: message {number} was read and never sent"
            elif device in known and count > sent[device, number]:
                yield f"{device}: message {number} was read {count} times, and sent {sent[device, number]} times"
        seen = set[int]()
        for event in in_order:
            if event.number >= 0 and event.number not in seen:
                if event.number != newest + 1:
                    yield f"{device}: message {event.number} comes at {event.place}, behind {newest} it is not the next"
                newest = max(newest, event.number)
                seen.add(event.number)
        places = [event.place for event in in_order]
        if len(set(places)) != len(places):
            yield f"{device}: two messages have one sequence number"


def _sessions(kinds: dict[str, list[Event]]) -> Iterator[str]:
    sent_at: dict[tuple[str, int, int], float] = {}
    for event in kinds["sent"]:
        sent_at.setdefault((event.subject, event.session, event.number), event.at)
    told = by_subject(event for kind in ("acked", "invoked", "delivered", "pushed") for event in kinds[kind])
    for device, begun in by_subject(kinds["connected"]).items():
        began = {event.session: event.at for event in begun}
        later: dict[int, float] = {}
        """When the first session behind each was in."""
        first = float("inf")
        for session in sorted(began, reverse=True):
            later[session], first = first, min(first, began[session])
        for event in told.get(device, ()):
            newer = later.get(event.session, float("inf"))
            if event.kind == "acked":
                if sent_at.get((device, event.session, event.number), 0.0) > newer:
                    yield (
                        f"{device}: session {event.session} was acknowledged message {event.number}, "
                        f"which it sent after a newer session was in"
                    )
            elif event.at > newer + TOLERANCE_SECONDS:
                late = event.at - newer
                yield f"{device}: session {event.session} has {event.kind} {late:.1f} s after a newer session was in"


def _methods(kinds: dict[str, list[Event]]) -> Iterator[str]:
    for kind, verb in (("invoked", "reached the device"), ("answered", "was answered")):
        for device, found in by_subject(kinds[kind]).items():
            numbers = [event.number for event in found]
            for number in sorted({one for one in numbers if numbers.count(one) > 1}):
                yield f"{device}: method call {number} {verb} {numbers.count(number)} times"
    invoked = {(event.subject, event.number) for event in kinds["invoked"]}
    for event in kinds["answered"]:
        if event.place == 200 and (event.subject, event.number) not in invoked:
            yield f"{event.subject}: method call {event.number} was answered for the device, which it never reached"


def _twins(kinds: dict[str, list[Event]]) -> Iterator[str]:
    for device, written in by_subject(kinds["desired"]).items():
        versions = [event.number for event in written]
        if any(later <= earlier for earlier, later in pairwise(versions)):
            yield f"{device}: the versions that its desired properties got do not grow"
    for device, pushed in by_subject(kinds["pushed"]).items():
        by_session: dict[int, list[int]] = defaultdict(list)
        for event in pushed:
            by_session[event.session].append(event.number)
        for session, versions in by_session.items():
            if any(later <= earlier for earlier, later in pairwise(versions)):
                yield f"{device}: session {session} was told versions out of order"
    for device, told in by_subject(sorted([*kinds["pushed"], *kinds["got"]], key=lambda event: event.at)).items():
        newest_of: dict[int, int] = defaultdict(int)
        for event in told:
            before = max((version for session, version in newest_of.items() if session < event.session), default=0)
            if event.kind == "got" and event.number < before:
                yield f"{device}: session {event.session} got version {event.number}, an earlier one knew {before}"
            newest_of[event.session] = max(newest_of[event.session], event.number)
    for device, held in by_subject(kinds["holds"]).items():
        wanted = [event.number for event in kinds["desired"] if event.subject == device]
        if wanted and held[-1].number < wanted[-1]:
            yield f"{device}: it holds version {held[-1].number} of its desired properties, not {wanted[-1]}"
