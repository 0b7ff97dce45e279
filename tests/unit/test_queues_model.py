"""Queues on a real store against a model that does the obvious, under any order of calls and any passing of time."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.bus import LocalBus
from muster.core.errors import LOCK_LOST, HubError
from muster.messages.queue import Entry, Outcome, Settlement
from muster.messages.queue_contract import Record
from muster.messages.queues import Queues, Rules, taken
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.queues import SqliteQueueStore
from muster.testing.clock import VirtualAmbient

QUEUE, LOCK, MOST = "/q", 60, 2


@dataclass
class Waiting:
    """One message of the model."""

    number: int
    expires: float
    failed: int = 0
    token: UUID | None = None
    until: float = 0.0
    holder: str = ""


class Model:
    def __init__(self) -> None:
        self.waiting: list[Waiting] = []
        self.ended: list[str] = []
        self.put_so_far = 0

    def put(self, expires: float) -> None:
        self.put_so_far += 1
        self.waiting.append(Waiting(self.put_so_far, expires))

    def end(self, one: Waiting, how: Outcome) -> None:
        self.waiting.remove(one)
        self.ended.append(f"{one.number} {how.value}")

    def unlock(self, one: Waiting, now: float, *, failed: bool) -> None:
        one.token = None
        one.failed += failed
        if one.failed >= MOST:
            self.end(one, Outcome.EXHAUSTED)
        elif one.expires <= now:
            self.end(one, Outcome.EXPIRED)

    def pass_to(self, now: float) -> None:
        """Time, one deadline after the other."""
        while due := [one for one in self.waiting if (one.until if one.token else one.expires) <= now]:
            first = min(due, key=lambda one: (one.until if one.token else one.expires, one.number))
            if first.token:
                self.unlock(first, first.until, failed=False)
            else:
                self.end(first, Outcome.EXPIRED)


PUT = st.tuples(st.just("put"), st.sampled_from([1.0, 45.0, 100.0, 500.0]))
TAKE = st.tuples(st.just("take"), st.integers(1, 3), st.sampled_from(["a", "b", ""]))
SETTLE = st.tuples(st.sampled_from(Settlement), st.sampled_from([0, 0, 0, 1, 2, 5]))
ABANDON = st.tuples(st.just(Settlement.ABANDON), st.just(0))
RELEASE = st.tuples(st.just("release"), st.sampled_from(["a", "b", None]), st.booleans())
PASS = st.tuples(st.just("pass"), st.sampled_from([1.0, 30.0, 60.0, 200.0]))
OTHER = st.sampled_from([("purge",), ("restart",), ("restart",)])
OPERATIONS = st.lists(
    st.one_of(PUT, TAKE, SETTLE, TAKE, ABANDON, PUT, RELEASE, TAKE, PASS, ABANDON, OTHER), min_size=15, max_size=40
)
"""Some twice and more: what is rare should happen often enough."""


def record(queue: str, entry: Entry, outcome: Outcome, now: float) -> Record:
    return Record(queue, now, f"{entry.number} {outcome.value}")


class Real:
    """The queues, restarted as often as one likes."""

    def __init__(self, directory: Path, ambient: VirtualAmbient) -> None:
        self.path, self.ambient = directory / "hub.db", ambient
        self.open()

    def open(self) -> None:
        self.writer = Writer(self.path, MIGRATIONS, asyncio.get_running_loop(), durable=False)
        self.reader = open_connection(self.path, readonly=True)
        rules = {QUEUE: Rules(LOCK, MOST, record=record)}
        store = SqliteQueueStore(self.writer, self.reader)
        self.queues = Queues("hub", store, LocalBus(), self.ambient, identities=rules[QUEUE], services=rules)
        self.queues.start()

    async def close(self) -> None:
        self.queues.close()
        await self.writer.close()
        self.reader.close()

    async def settled(self) -> None:
        """Once nothing is due any more."""
        for _ in range(20):
            await self.writer.submit(lambda _: None)
            await asyncio.sleep(0)
            due = self.reader.execute("SELECT min(due) FROM queue_messages").get
            if due is None or due > self.ambient.now():
                return
            self.ambient.advance(0)
        raise AssertionError("what is due is not dealt with")

    def endings(self) -> list[str]:
        return [text for (text,) in self.reader.execute("SELECT text FROM queue_records ORDER BY id")]


async def play(real: Real, model: Model, operations: list[tuple[object, ...]]) -> None:
    tokens: list[UUID] = []
    for what, *args in operations:
        now = real.ambient.now()
        if what == "put":
            await real.queues.put(QUEUE, "", b"%d" % (model.put_so_far + 1), now + args[0])  # type: ignore[operator]
            model.put(now + args[0])  # type: ignore[operator]
        elif what == "take":
            found = taken(await real.queues.take(QUEUE, args[0], args[1]))  # type: ignore[arg-type]
            free = [one for one in model.waiting if one.token is None][: args[0]]  # type: ignore[misc]
            assert [one.entry.number for one in found] == [one.number for one in free]
            assert [one.body for one in found] == [b"%d" % one.number for one in free]
            assert [one.entry.deliveries for one in found] == [one.failed for one in free]
            for one, mine in zip(found, free, strict=True):
                mine.token, mine.until, mine.holder = one.token, now + LOCK, args[1]  # type: ignore[assignment]
                tokens.append(one.token)
        elif isinstance(what, Settlement) and tokens:
            token = tokens[-1 - args[0] % len(tokens)]  # type: ignore[operator]
            held = next((one for one in model.waiting if one.token == token), None)
            if held is None:
                with pytest.raises(HubError, match=LOCK_LOST.name):
                    await real.queues.settle(QUEUE, token, what)
                continue
            await real.queues.settle(QUEUE, token, what)
            if what is Settlement.ABANDON:
                model.unlock(held, now, failed=True)
            else:
                model.end(held, Outcome.COMPLETED if what is Settlement.COMPLETE else Outcome.REJECTED)
        elif what == "release":
            await real.queues.release(QUEUE, args[0], counted=bool(args[1]))  # type: ignore[arg-type]
            for one in list(model.waiting):
                if one.token and (one.holder == args[0] or (args[0] is None and one.holder)):
                    model.unlock(one, now, failed=bool(args[1]))
        elif what == "purge":
            assert await real.queues.purge(QUEUE) == len(model.waiting)
            for one in list(model.waiting):
                model.end(one, Outcome.PURGED)
        elif what == "restart":
            await real.close()
            real.open()
        elif what == "pass":
            real.ambient.advance(args[0])  # type: ignore[arg-type]
            model.pass_to(real.ambient.now())
        await real.settled()
        assert real.queues.waiting(QUEUE) == len(model.waiting)
        assert sorted(real.endings()) == sorted(model.ended)


@settings(deadline=None, max_examples=80)
@given(OPERATIONS)
def test_any_history_ends_as_the_model_says(operations: list[tuple[object, ...]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as directory:
            real = Real(Path(directory), VirtualAmbient())
            try:
                await play(real, Model(), operations)
            finally:
                await real.close()

    asyncio.run(run())
