"""The queues of a hub: messages put, taken under a lock, settled, and ended by time.

What happens to one message is in ``messages.queue``; here is when. Every call is handed to the store at once, in the
order of the calls. Deadlines (locks that lapse, messages that expire) are one timer, set to the next of them; who
waits for a queue is told when something in it may be taken. Nothing polls, but for the deadlines that another process
set in a store that is shared: it may be gone when they come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple
from uuid import UUID

from muster.core.ambient import Ambient, Timer
from muster.core.audit import Note
from muster.core.bus import IDENTITY_CHANGED, MISSED, QUEUE_WAITING, Bus
from muster.core.errors import LOCK_LOST, HubError
from muster.core.memory_limits import IDENTITIES_REMEMBERED
from muster.core.queue_limits import QUEUE_DELIVERIES, QUEUE_LOCK, QUEUE_TTL
from muster.messages import queue as machine
from muster.messages.queue import Entry, Lock, Outcome, Settlement, State, Step
from muster.messages.queue_contract import (
    Collected,
    Dealt,
    Due,
    Edited,
    EndedUpload,
    Ending,
    Everything,
    HeldBy,
    Make,
    New,
    QueueStore,
    Record,
    Visible,
    WithToken,
)

log = logging.getLogger("muster.queues")

DUE_AT_ONCE = 256
"""Messages whose deadline has come that one transaction deals with; others wait for the next."""
RETRY_SECONDS = 5.0
"""After the store has failed to deal with those."""
LOOK_SECONDS = 10.0
"""How long at most the deadlines of others are not looked for, in a store that is shared."""
AGAIN_SECONDS = 1.0
"""After what was due was in the hands of another process."""


def no_record(queue: str, entry: Entry, outcome: Outcome, now: float) -> None:
    """Nothing is kept of what ended."""


class Rules(NamedTuple):
    """How a kind of queue behaves. ``most``: messages it may hold, ``None`` for any number."""

    lock_seconds: float
    deliveries: int
    most: int | None = None
    record: Callable[[str, Entry, Outcome, float], Record | None] = no_record
    """What is kept of a message that ended (queue, message, how, when). Pure, runs in the store's thread."""


class Taken(NamedTuple):
    """A message in the hands of whoever took it."""

    entry: Entry
    body: bytes

    @property
    def token(self) -> UUID:
        """What settles it."""
        assert self.entry.lock is not None, "what was taken is locked"
        return self.entry.lock.token


class Queues:
    """All queues of ``hub``."""

    def __init__(
        self,
        hub: str,
        store: QueueStore,
        bus: Bus,
        ambient: Ambient,
        *,
        identities: Rules,
        services: Mapping[str, Rules],
    ) -> None:
        """``identities`` are the rules for every device's and module's queue, ``services`` those of the hub's own."""
        self._hub = hub
        self._store = store
        self._bus = bus
        self._ambient = ambient
        self._identities, self._services = identities, services
        self._watchers: dict[str, list[Callable[[], None]]] = {}
        self._timer: Timer | None = None
        self._armed = 0.0
        self._closed = False
        self.recorded: Callable[[int], None] = _ignore
        """Called with how many records were kept, once they are durable."""
        self._depths: dict[str, int] = {}
        bus.subscribe(QUEUE_WAITING, self._tell)
        bus.subscribe(IDENTITY_CHANGED, lambda _: self._depths.clear())
        bus.subscribe(MISSED, lambda _: self._tell_all())

    def allow(self, deliveries: int) -> None:
        """From now on so many failed deliveries end a message of a device or module."""
        self._identities = self._identities._replace(deliveries=deliveries)

    def start(self) -> None:
        """Take up the deadlines of what an earlier run left."""
        self._armed = self._ambient.now()
        self._on_time()

    def close(self) -> None:
        """No deadline is kept from now on."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    # --- what may be done with a queue

    def put(
        self, queue: str, head: str, body: bytes, expires: float, *, generation: str | None = None,
        ends: EndedUpload | None = None,
    ) -> asyncio.Future[Entry]:  # fmt: skip
        """Append a message that ends at ``expires`` (seconds since 1970); done once it is durable.

        Raises ``HubError`` as ``QueueStore.put``.
        """
        new = New(self._ambient.now(), expires, head, body)
        most = self._rules(queue).most

        def then(entry: Entry) -> None:
            self._depths.pop(queue, None)
            self._arm(entry.due)
            self._bus.publish(QUEUE_WAITING, queue)

        return self._store.put(self._hub, queue, new, then, most=most, generation=generation, ends=ends)

    def take(
        self, queue: str, limit: int, holder: str = "", *, lock_seconds: float | None = None
    ) -> asyncio.Future[list[Edited]]:
        """Lock up to ``limit`` messages, the oldest first; ``taken`` says which they are. See ``Lock.holder``.

        The locks last ``lock_seconds``, by default as long as the queue's rules say.
        """
        now, seconds = self._ambient.now(), self._rules(queue).lock_seconds if lock_seconds is None else lock_seconds
        # One random number for all: of the limit most is never used, and in the writer's thread no other may be drawn.
        base, numbers = self._ambient.uuid().int, count()

        def change(name: str, entry: Entry) -> Entry | Ending:
            lock = Lock(UUID(int=base ^ next(numbers)), now + seconds, holder)
            return self._step(name, entry, machine.take(entry, lock, now), now)

        return self._store.edit(self._hub, queue, Visible(now, limit), change, self._edited)

    def settle(self, queue: str, token: UUID, how: Settlement) -> asyncio.Future[None]:
        """Do with the message that ``token`` holds what its holder says; done once that is durable.

        Raises ``HubError`` 412002 when the token holds nothing, or no longer.
        """
        now, most = self._ambient.now(), self._rules(queue).deliveries
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def change(name: str, entry: Entry) -> Entry | Ending:
            return self._step(name, entry, machine.settle(entry, token, how, now, most), now)

        def told(future: asyncio.Future[list[Edited]]) -> None:
            error = None if future.cancelled() else future.exception()
            if settled.done():
                return
            if error is not None:
                settled.set_exception(error)
            elif future.result():
                settled.set_result(None)
            else:
                settled.set_exception(HubError(LOCK_LOST))

        self._store.edit(self._hub, queue, WithToken(token), change, self._edited).add_done_callback(told)
        return settled

    def release(self, queue: str, holder: str | None, *, counted: bool) -> asyncio.Future[list[Edited]]:
        """Give back all that ``holder`` holds (``None``: whatever has a holder), ``counted`` as failed deliveries."""
        return self._edit_all(queue, HeldBy(holder), counted=counted)

    def give_back(self, queue: str, token: UUID, *, counted: bool = False) -> asyncio.Future[list[Edited]]:
        """Give back one message, as ``release``. Passed over when the token holds none (any more)."""
        return self._edit_all(queue, WithToken(token), counted=counted)

    def _edit_all(self, queue: str, which: HeldBy | WithToken, *, counted: bool) -> asyncio.Future[list[Edited]]:
        now, most = self._ambient.now(), self._rules(queue).deliveries

        def change(name: str, entry: Entry) -> Entry | Ending:
            return self._step(name, entry, machine.release(entry, now, most, counted=counted), now)

        future = self._store.edit(self._hub, queue, which, change, self._edited)
        future.add_done_callback(_noted)
        return future

    async def purge(self, queue: str, note: Note | None = None) -> int:
        """Throw away all that is in the queue, locked or not; how many."""
        now = self._ambient.now()

        def change(name: str, entry: Entry) -> Entry | Ending:
            return self._step(name, entry, machine.purge(entry), now)

        record = None if note is None else lambda count: note({"messages": count}, None)
        return len(await self._store.edit(self._hub, queue, Everything(), change, self._edited, note=record))

    @property
    def shared(self) -> bool:
        """See ``QueueStore``."""
        return self._store.shared

    def collect(self, queue: str, limit: int, make: Make) -> asyncio.Future[Collected]:
        """See ``QueueStore``."""

        def then(collected: Collected) -> None:
            if collected.entry is not None:
                self._depths.pop(queue, None)
                self._arm(collected.entry.due)
                self._bus.publish(QUEUE_WAITING, queue)

        return self._store.collect(self._hub, queue, limit, make, then)

    async def records(self) -> tuple[int, float | None]:
        """How many records were kept, and when the oldest of them was made (seconds since 1970)."""
        return await self._store.records(self._hub)

    def waiting(self, queue: str) -> int | None:
        """How many messages are in the queue, locked ones too; ``None``: take, and see. Raises ``HubError`` 500001."""
        depth = self._depths.get(queue)
        if depth is None:
            depth = self._store.waiting(self._hub, queue)
            if depth is None or self._store.shared:  # what others put is not told of before it can be taken
                return depth
            if len(self._depths) >= IDENTITIES_REMEMBERED.open:
                self._depths.clear()
            self._depths[queue] = depth
        return depth

    async def depths(self, queues: Sequence[str]) -> list[int]:
        """How many messages are in each of ``queues``, locked ones too. Raises ``HubError`` 500001, 503001."""
        known = [depth for queue in queues if (depth := self.waiting(queue)) is not None]
        return known if len(known) == len(queues) else await self._store.depths(self._hub, queues)

    def watch(self, queue: str, listener: Callable[[], None]) -> Callable[[], None]:
        """From now on call ``listener`` when something in ``queue`` may be taken, until what this returns is called."""
        watchers = self._watchers.setdefault(queue, [])
        watchers.append(listener)

        def leave() -> None:
            watchers.remove(listener)
            if not watchers and self._watchers.get(queue) is watchers:
                del self._watchers[queue]

        return leave

    # --- time

    def _arm(self, due: float | None) -> None:
        if due is None or self._closed or (self._timer is not None and self._armed <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = due
        self._timer = self._ambient.at(due, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        now = max(self._ambient.now(), self._armed)

        def change(queue: str, entry: Entry) -> Entry | Ending:
            return self._step(queue, entry, machine.advance(entry, now), now)

        future = self._store.edit_due(self._hub, Due(now, DUE_AT_ONCE), change, self._edited)
        future.add_done_callback(partial(self._rearm, now))

    def _rearm(self, asked: float, future: asyncio.Future[Dealt]) -> None:
        if self._closed or future.cancelled():
            return
        error, now = future.exception(), self._ambient.now()
        if error is not None:
            log.error("messages whose time has come could not be dealt with: %s", error)
            self._arm(now + RETRY_SECONDS)
            return
        edited, due = future.result()
        if self._store.shared:
            due = now + LOOK_SECONDS if due is None else min(due, now + LOOK_SECONDS)
            if not edited and due <= asked:
                due = now + AGAIN_SECONDS
        self._arm(due)

    # --- inside

    def _rules(self, queue: str) -> Rules:
        return self._services[queue] if queue.startswith("/") else self._identities

    def _step(self, queue: str, entry: Entry, step: Step, now: float) -> Entry | Ending:
        if isinstance(step, Outcome):
            return Ending(step, self._rules(queue).record(queue, entry, step, now))
        return step

    def _edited(self, edited: Iterable[Edited]) -> None:
        """It is durable: watch the new deadlines, and tell those who wait."""
        visible: dict[str, None] = {}
        records = 0
        for queue, before, after, _ in edited:
            if isinstance(after, Ending):
                self._depths.pop(queue, None)
                records += after.record is not None
            else:
                self._arm(after.due)
                if after.state is State.VISIBLE and before.state is State.LOCKED:
                    visible[queue] = None
        if records:
            self.recorded(records)
        for queue in visible:
            self._bus.publish(QUEUE_WAITING, queue)

    def _tell_all(self) -> None:
        """Anything may be waiting anywhere."""
        self._depths.clear()
        for queue in tuple(self._watchers):
            self._tell(queue)

    def _tell(self, queue: str) -> None:
        for listener in list(self._watchers.get(queue, ())):
            listener()


def taken(edited: Iterable[Edited]) -> list[Taken]:
    """What a ``take`` has brought."""
    return [Taken(one.after, one.body) for one in edited if isinstance(one.after, Entry)]


def _ignore(_: int) -> None:
    return None


def _noted(future: asyncio.Future[list[Edited]]) -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:  # the lock lapses by itself
        log.warning("a message could not be given back: %s", error)


FEEDBACK, FILE_NOTIFICATIONS = "/feedback", "/filenotifications"
"""The queues that services read."""
SERVICE_RULES = Rules(QUEUE_LOCK.open, QUEUE_DELIVERIES.open)
SERVICE_QUEUES: Mapping[str, Rules] = {FEEDBACK: SERVICE_RULES, FILE_NOTIFICATIONS: SERVICE_RULES}


class ServiceQueue:
    """A queue that services read: ``Queues`` with one name. Whoever has something to tell services puts it here."""

    def __init__(self, queues: Queues, name: str, ambient: Ambient, ttl_seconds: float = QUEUE_TTL.open) -> None:
        """``name`` is one of those that ``queues`` has rules for. Messages end unread after ``ttl_seconds``."""
        self.name = name
        self._queues = queues
        self._ttl_seconds = ttl_seconds
        self._ambient = ambient
        self.take = partial(queues.take, name)
        self.settle = partial(queues.settle, name)
        self.release = partial(queues.release, name)
        self.give_back = partial(queues.give_back, name)
        self.watch = partial(queues.watch, name)

    def put(
        self, body: bytes, ttl_seconds: float | None = None, *, ends: EndedUpload | None = None
    ) -> asyncio.Future[Entry]:
        """Append ``body``; done once it is durable. It ends unread after ``ttl_seconds``, by default the queue's.

        ``ends`` as in ``QueueStore.put``. Raises ``HubError`` as that, 500001 when the disk fails, 503001 when the hub
        stops.
        """
        ttl = self._ttl_seconds if ttl_seconds is None else ttl_seconds
        return self._queues.put(self.name, "", body, self._ambient.now() + ttl, ends=ends)

    def waiting(self) -> int | None:
        """See ``Queues.waiting``."""
        return self._queues.waiting(self.name)
