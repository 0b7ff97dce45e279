"""Queues on a real store, by the virtual clock: what is told to whom, and what time does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest

from muster.core.bus import MISSED, LocalBus
from muster.core.errors import LOCK_LOST, HubError
from muster.messages.queue import Entry, Outcome, Settlement
from muster.messages.queue_contract import Record
from muster.messages.queues import FEEDBACK, SERVICE_QUEUES, Queues, Rules, ServiceQueue, Taken, taken
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.queues import SqliteQueueStore
from muster.testing.clock import VirtualAmbient

TTL, LOCK = 3600, 60
QUEUE = "/feedback"


def record(queue: str, _: Entry, outcome: Outcome, now: float) -> Record:
    return Record(queue, now, outcome.value)


RULES = {**SERVICE_QUEUES, "/kept": Rules(30, 2, record=record)}


class Bench:
    """Queues, a clock, and what was heard."""

    def __init__(
        self, queues: Queues, store: SqliteQueueStore, ambient: VirtualAmbient, writer: Writer, bus: LocalBus
    ) -> None:
        self.bus = bus
        self.queues, self.store, self.ambient, self.writer = queues, store, ambient, writer
        self.feedback = ServiceQueue(queues, FEEDBACK, ambient)
        self.heard = 0
        queues.watch(QUEUE, self._hear)

    def _hear(self) -> None:
        self.heard += 1

    async def settled(self) -> None:
        """Once all that was handed to the store is done."""
        await self.writer.submit(lambda _: None)

    async def advance(self, seconds: float) -> None:
        self.ambient.advance(seconds)
        await self.settled()

    async def take(self, limit: int = 9, holder: str = "", queue: str = QUEUE) -> list[Taken]:
        return taken(await self.queues.take(queue, limit, holder))


@contextlib.asynccontextmanager
async def opened(directory: Path, ambient: VirtualAmbient) -> AsyncIterator[Bench]:
    path = directory / "hub.db"
    writer = Writer(path, MIGRATIONS, asyncio.get_running_loop(), durable=False)
    reader = open_connection(path, readonly=True)
    store = SqliteQueueStore(writer, reader)
    bus = LocalBus()
    queues = Queues("hub", store, bus, ambient, identities=Rules(60, 10), services=RULES)
    queues.start()
    try:
        yield Bench(queues, store, ambient, writer, bus)
    finally:
        queues.close()
        await writer.close()
        reader.close()


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with opened(tmp_path, VirtualAmbient()) as made:
        yield made


async def test_what_is_put_is_told_and_taken_and_settled_once(bench: Bench) -> None:
    await bench.feedback.put(b"one")
    assert bench.heard == 1
    (one,) = await bench.take()
    assert one.body == b"one"
    assert await bench.take() == []
    await bench.queues.settle(QUEUE, one.token, Settlement.COMPLETE)
    with pytest.raises(HubError) as caught:
        await bench.queues.settle(QUEUE, one.token, Settlement.COMPLETE)
    assert caught.value.row is LOCK_LOST
    assert bench.feedback.waiting() == 0


async def test_a_message_nobody_takes_expires_at_its_time(bench: Bench) -> None:
    await bench.feedback.put(b"")
    await bench.feedback.put(b"", ttl_seconds=10)
    await bench.advance(9.9)
    assert bench.feedback.waiting() == 2
    await bench.advance(0.1)
    assert bench.feedback.waiting() == 1
    await bench.advance(TTL)
    assert bench.feedback.waiting() == 0


async def test_a_lock_lapses_and_the_message_is_told_of_again_without_being_counted(bench: Bench) -> None:
    await bench.feedback.put(b"")
    (one,) = await bench.take()
    heard = bench.heard
    await bench.advance(LOCK - 0.1)
    assert bench.heard == heard
    await bench.advance(0.1)
    assert bench.heard == heard + 1
    (again,) = await bench.take()
    assert (again.entry.number, again.entry.deliveries) == (one.entry.number, 0)
    assert again.token != one.token
    with pytest.raises(HubError):
        await bench.queues.settle(QUEUE, one.token, Settlement.COMPLETE)


async def test_an_abandoned_message_is_told_of_again_until_it_was_ten_times(bench: Bench) -> None:
    await bench.feedback.put(b"")
    for failed in range(10):
        (one,) = await bench.take()
        assert one.entry.deliveries == failed
        heard = bench.heard
        await bench.queues.settle(QUEUE, one.token, Settlement.ABANDON)
        assert bench.heard == heard + (failed < 9)
    assert bench.feedback.waiting() == 0


async def test_what_a_connection_held_comes_back_when_it_ends(bench: Bench) -> None:
    for _ in range(4):
        await bench.feedback.put(b"")
    await bench.take(1)
    await bench.take(1, "a")
    (third,) = await bench.take(1, "b")
    await bench.feedback.release("a", counted=True)
    assert [(one.entry.number, one.entry.deliveries) for one in await bench.take(1, "c")] == [(2, 1)]
    await bench.feedback.give_back(third.token)
    await bench.feedback.release(None, counted=False)
    assert [(one.entry.number, one.entry.deliveries) for one in await bench.take()] == [(2, 1), (3, 0), (4, 0)]


async def test_those_who_wait_compete_and_nothing_is_taken_twice(bench: Bench) -> None:
    for _ in range(20):
        await bench.feedback.put(b"")
    found = await asyncio.gather(*(bench.take(3, str(number)) for number in range(9)))
    numbers = [one.entry.number for some in found for one in some]
    assert sorted(numbers) == list(range(1, 21))


async def test_deadlines_outlast_a_restart(tmp_path: Path) -> None:
    ambient = VirtualAmbient()
    async with opened(tmp_path, ambient) as bench:
        await bench.feedback.put(b"locked", ttl_seconds=TTL)
        await bench.feedback.put(b"free", ttl_seconds=30)
        (held,) = await bench.take(1, "gone")
    ambient.advance(10)
    async with opened(tmp_path, ambient) as bench:
        await bench.advance(19.9)
        assert bench.feedback.waiting() == 2
        await bench.advance(0.1)
        assert (bench.feedback.waiting(), await bench.take()) == (1, []), "one expired, one is still locked"
        await bench.advance(30)
        (again,) = await bench.take()
        assert (again.body, again.entry.number) == (b"locked", held.entry.number)


async def test_what_falls_due_while_the_hub_is_down_is_dealt_with_at_its_start(tmp_path: Path) -> None:
    ambient = VirtualAmbient()
    async with opened(tmp_path, ambient) as bench:
        await bench.feedback.put(b"")
    ambient.advance(2 * TTL)
    async with opened(tmp_path, ambient) as bench:
        await bench.advance(0)
        assert bench.feedback.waiting() == 0


async def test_thousands_due_at_once_end_in_several_goes(bench: Bench) -> None:
    await asyncio.gather(*(bench.feedback.put(b"") for _ in range(600)))
    bench.ambient.advance(TTL)
    async with asyncio.timeout(5):
        while bench.feedback.waiting():
            await asyncio.sleep(0)
            bench.ambient.advance(0)


async def test_one_timer_is_set_and_for_the_next_deadline(bench: Bench) -> None:
    for seconds in (50, 20, 90):
        await bench.feedback.put(b"", ttl_seconds=seconds)
    live = [timer for _, _, timer in bench.ambient._timers if timer.callback is not None]
    assert len(live) == 1
    assert bench.queues._armed == bench.ambient.now() + 20


async def test_a_store_that_fails_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.feedback.put(b"", ttl_seconds=10)
    real = bench.store.edit_due

    def broken(*_: object) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        future.set_exception(HubError(LOCK_LOST))
        return future

    monkeypatch.setattr(bench.store, "edit_due", broken)
    await bench.advance(10)
    monkeypatch.setattr(bench.store, "edit_due", real)
    assert bench.feedback.waiting() == 1
    await bench.advance(5)
    assert bench.feedback.waiting() == 0


async def test_what_ended_leaves_the_record_that_its_rules_ask_for(bench: Bench) -> None:
    counts: list[int] = []
    bench.queues.recorded = counts.append
    kept = ServiceQueue(bench.queues, "/kept", bench.ambient)
    for ttl in (TTL, TTL, 5, TTL):
        await kept.put(b"", ttl)
    first, second = await bench.take(2, queue="/kept")
    await kept.settle(first.token, Settlement.COMPLETE)
    await kept.settle(second.token, Settlement.REJECT)
    await bench.advance(5)
    for _ in range(2):
        (last,) = await bench.take(1, queue="/kept")
        await kept.settle(last.token, Settlement.ABANDON)
    assert (counts, (await bench.queues.records())[0]) == ([1, 1, 1, 1], 4)
    seen: list[str] = []

    def make(records: object) -> object:
        seen.extend(one.text for one in records)  # type: ignore[attr-defined]
        raise HubError(LOCK_LOST)

    with pytest.raises(HubError):
        await bench.queues.collect(FEEDBACK, 9, make)  # type: ignore[arg-type]
    assert seen == ["completed", "rejected", "expired", "delivery count exceeded"]
    assert (await bench.queues.records())[0] == 4, "nothing was made of them, they are kept"


async def test_a_purge_takes_the_locked_too_and_their_locks_are_lost(bench: Bench) -> None:
    for _ in range(3):
        await bench.feedback.put(b"")
    (one,) = await bench.take(1)
    assert await bench.queues.purge(QUEUE) == 3
    with pytest.raises(HubError):
        await bench.queues.settle(QUEUE, one.token, Settlement.COMPLETE)
    assert await bench.queues.purge(QUEUE) == 0


async def test_a_cancelled_wait_settles_all_the_same(bench: Bench) -> None:
    await bench.feedback.put(b"")
    (one,) = await bench.take()
    bench.queues.settle(QUEUE, one.token, Settlement.COMPLETE).cancel()
    await bench.settled()
    assert bench.feedback.waiting() == 0


async def test_who_has_left_is_not_told(bench: Bench) -> None:
    told: list[str] = []

    def teller(name: str) -> Callable[[], None]:
        return lambda: told.append(name)

    leave = bench.queues.watch(QUEUE, teller("a"))
    bench.queues.watch(QUEUE, teller("b"))
    leave()
    await bench.feedback.put(b"")
    assert told == ["b"]


async def test_an_unknown_token_is_refused(bench: Bench) -> None:
    with pytest.raises(HubError) as caught:
        await bench.queues.settle(QUEUE, UUID(int=5), Settlement.REJECT)
    assert caught.value.row is LOCK_LOST


async def test_after_missed_notices_all_who_wait_look_again(bench: Bench) -> None:
    await bench.feedback.put(b"")
    heard = bench.heard
    bench.bus.publish(MISSED, "")
    assert bench.heard == heard + 1
