"""What the judge says of commands: each is delivered until it is settled, which happens once, and feedback says how.

- what was accepted is delivered, and has one feedback record, in one message of the feedback queue (which may be read
  again: a receiver may have gone before it could settle it);
- what was never offered is not delivered. Of what was offered and not answered nothing is known: it may be there;
- a lock is settled once: the same again is refused;
- after a settlement for good that was confirmed, and after feedback, a command does not come back;
- feedback is what was settled: *Success* and *Rejected* where a device has said so before, and just that where it was
  confirmed; *Expired* not before its time; *DeliveryCountExceeded* after ten failures: a device gave it back, or its
  connection ended;
- the count of failed deliveries does not fall, and grows by a confirmed abandon.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from tests.cluster.record import Event, by_subject

DELIVERIES = 10
"""``serve --c2d-max-deliveries``."""
_FOR_GOOD = {"complete": "Success", "reject": "Rejected"}
_EXPIRY_TOLERANCE = 0.002
"""A time to expire at has milliseconds."""

Kinds = dict[str, list[Event]]


def commands(kinds: Kinds) -> Iterator[str]:
    """What cannot have happened, a sentence each; ``kinds`` has the events of each kind in the order of their times."""
    connected = by_subject(kinds["connected"])
    yield from _locks(kinds)
    cases: dict[tuple[str, int], Kinds] = defaultdict(lambda: defaultdict(list))
    for kind in ("offered", "commanded", "delivered", "settling", "settled", "feedback"):
        for event in kinds[kind]:
            cases[event.subject, event.number][kind].append(event)
    for (device, number), case in cases.items():
        for problem in (*_delivered(case), *_counted(case), *_told(case, connected.get(device, ()))):
            yield f"{device}: command {number} {problem}"


def _locks(kinds: Kinds) -> Iterator[str]:
    for (device, lock), times in Counter((event.subject, event.lock) for event in kinds["settled"]).items():
        if times > 1:
            yield f"{device}: the lock {lock} was settled {times} times"


def _delivered(case: Kinds) -> Iterator[str]:
    delivered, feedback = case["delivered"], case["feedback"]
    if not case["offered"]:
        yield "was never sent, and is there"
    outcomes = {event.what for event in feedback}
    if case["commanded"] and not delivered and "Expired" not in outcomes:
        yield "was accepted and never delivered"
    ends = [("it was settled", event.at) for event in case["settled"] if event.what in _FOR_GOOD]
    ends += [("its feedback", event.at) for event in feedback]
    for why, at in ends:
        if any(event.at > at for event in delivered):
            yield f"came back after {why}"


def _counted(case: Kinds) -> Iterator[str]:
    abandoned = {event.lock for event in case["settled"] if event.what == "abandon"}
    least = 0
    for event in case["delivered"]:
        if event.place < least:
            yield f"came with {event.place} failed deliveries, there were {least}"
        least = max(least, event.place + (event.lock in abandoned))


def _told(case: Kinds, connected: list[Event] | tuple[Event, ...]) -> Iterator[str]:
    feedback = case["feedback"]
    if case["commanded"] and not feedback:
        yield "has no feedback"
    if len({(event.place, event.what) for event in feedback}) > 1:
        yield "has more than one feedback record, it was settled more than once"
    said = {_FOR_GOOD[event.what] for event in case["settled"] if event.what in _FOR_GOOD}
    for event in feedback[:1]:
        if said and said != {event.what}:
            yield f"was settled as {' and '.join(sorted(said))}, its feedback says {event.what}"
        if not _possible(event, case, connected):
            yield f"has feedback {event.what}, which nobody brought about"


def _possible(feedback: Event, case: Kinds, connected: list[Event] | tuple[Event, ...]) -> bool:
    before = [event.what for event in case["settling"] if event.at < feedback.at]
    offered = case["offered"][:1]
    match feedback.what:
        case "Success":
            return "complete" in before
        case "Rejected":
            return "reject" in before
        case "Expired":
            return any(one.place and feedback.at > one.at + one.place - _EXPIRY_TOLERANCE for one in offered)
        case "DeliveryCountExceeded":
            ended = sum(one.at < event.at < feedback.at for one in offered for event in connected)
            return before.count("abandon") + ended >= DELIVERIES
    return False
