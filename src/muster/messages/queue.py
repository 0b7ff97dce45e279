"""One message in a queue: the pure state machine that all queues of the hub share, those of devices and of services.

A message is *visible*, or *locked* by somebody who has it in hand until it is settled or its lock lapses, or it has
ended with an outcome. ``NEXT`` is the whole machine. Expiry strikes visible messages only: who holds a lock has
time to settle until that lapses. What counts as a failed delivery is an explicit abandon (docs
iot-hub-devguide-messages-c2d, service.md 3.3), and a release that says so; a lapsed lock does not count.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from muster.core.errors import LOCK_LOST, HubError
from muster.core.values import value


class State(StrEnum):
    """Where a message stands while it is in a queue."""

    VISIBLE = "visible"
    LOCKED = "locked"


class Outcome(StrEnum):
    """How a message ended. All but the first are what other brokers call dead-lettered; nothing is kept of it."""

    COMPLETED = "completed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    EXHAUSTED = "delivery count exceeded"
    PURGED = "purged"


class Event(StrEnum):
    """What happens to a message."""

    TAKE = "take"
    COMPLETE = "complete"
    REJECT = "reject"
    ABANDON = "abandon"
    RELEASE = "release"
    """Given back unsettled by a connection that ends."""
    LAPSE = "lapse"
    """The lock has reached its deadline."""
    EXPIRE = "expire"
    EXHAUST = "exhaust"
    """Given back once too often."""
    PURGE = "purge"


NEXT: Final[dict[tuple[State, Event], State | Outcome]] = {
    (State.VISIBLE, Event.TAKE): State.LOCKED,
    (State.VISIBLE, Event.EXPIRE): Outcome.EXPIRED,
    (State.VISIBLE, Event.PURGE): Outcome.PURGED,
    (State.LOCKED, Event.COMPLETE): Outcome.COMPLETED,
    (State.LOCKED, Event.REJECT): Outcome.REJECTED,
    (State.LOCKED, Event.ABANDON): State.VISIBLE,
    (State.LOCKED, Event.RELEASE): State.VISIBLE,
    (State.LOCKED, Event.LAPSE): State.VISIBLE,
    (State.LOCKED, Event.EXHAUST): Outcome.EXHAUSTED,
    (State.LOCKED, Event.PURGE): Outcome.PURGED,
}
"""What becomes of a message. What is not in it does not happen."""


class Settlement(StrEnum):
    """What the holder of a lock may say."""

    COMPLETE = Event.COMPLETE.value
    REJECT = Event.REJECT.value
    ABANDON = Event.ABANDON.value


class Lock(NamedTuple):
    """Held until ``until`` (seconds since 1970). ``holder`` names the connection that it ends with; empty: none."""

    token: UUID
    until: float
    holder: str = ""


@value(frozen=True, slots=True)
class Entry:
    """A message in its queue, without its body.

    ``number`` is its place, counted up from 1 in each queue. ``enqueued`` and ``expires`` are seconds since 1970,
    ``deliveries`` how many failed so far. ``head`` is text that means something to the queue's owner only.
    """

    number: int
    enqueued: float
    expires: float
    head: str = ""
    deliveries: int = 0
    lock: Lock | None = None

    @property
    def state(self) -> State:
        """Where it stands, whatever the time is."""
        return State.VISIBLE if self.lock is None else State.LOCKED

    @property
    def due(self) -> float:
        """When time alone will change it: its lock lapses, or it expires (seconds since 1970)."""
        return self.expires if self.lock is None else self.lock.until


Step = Entry | Outcome
"""What a transition makes of an entry."""


def advance(entry: Entry, now: float) -> Step:
    """What time has made of ``entry`` until ``now``; the very entry when nothing."""
    if entry.lock is not None:
        if entry.lock.until > now:
            return entry
        entry = _unlocked(entry, Event.LAPSE)
    return _expired(entry, now)


def take(entry: Entry, lock: Lock, now: float) -> Step:
    """Lock a visible entry, or one whose lock has lapsed. ``EXPIRED`` if it is too late for that."""
    present = advance(entry, now)
    if isinstance(present, Outcome):
        return present
    if (present.state, Event.TAKE) not in NEXT:
        raise ValueError(f"message {entry.number} is locked already")
    return replace(present, lock=lock)


def settle(entry: Entry, token: UUID, how: Settlement, now: float, most: int) -> Step:
    """Do as the holder of ``token`` says. ``most`` failed deliveries are allowed.

    Raises ``HubError`` 412002 when the lock is not, or no longer, held by that token.
    """
    if entry.lock is None or entry.lock.token != token or entry.lock.until <= now:
        raise HubError(LOCK_LOST)
    if how is Settlement.ABANDON:
        return _returned(entry, Event.ABANDON, now, most, counted=True)
    return _end(entry, Event(how.value))


def release(entry: Entry, now: float, most: int, *, counted: bool) -> Step:
    """Give a locked entry back; ``counted`` as a failed delivery."""
    return _returned(entry, Event.RELEASE, now, most, counted=counted)


def purge(entry: Entry) -> Outcome:
    """Throw it away, whoever holds it."""
    return _end(entry, Event.PURGE)


def _returned(entry: Entry, event: Event, now: float, most: int, *, counted: bool) -> Step:
    deliveries = entry.deliveries + counted
    if deliveries >= most:
        return _end(entry, Event.EXHAUST)
    return _expired(replace(_unlocked(entry, event), deliveries=deliveries), now)


def _unlocked(entry: Entry, event: Event) -> Entry:
    if NEXT.get((entry.state, event)) is not State.VISIBLE:
        raise ValueError(f"message {entry.number} is {entry.state}, {event} does not happen to it")
    return replace(entry, lock=None)


def _expired(entry: Entry, now: float) -> Step:
    return _end(entry, Event.EXPIRE) if entry.expires <= now else entry


def _end(entry: Entry, event: Event) -> Outcome:
    outcome = NEXT.get((entry.state, event))
    if not isinstance(outcome, Outcome):
        raise ValueError(f"message {entry.number} is {entry.state}, {event} does not end it")
    return outcome
