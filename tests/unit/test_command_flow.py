"""Commands on their way to one session: room, order, locks, and what a session's end gives back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.core.bus import LocalBus
from muster.core.errors import SERVER_ERROR, HubError
from muster.core.limit import Profile
from muster.identity.contract import Edit
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.messages.commands import Ack, Command, Commands, Received, command_rules
from muster.messages.feedback import Feedback
from muster.messages.queue import Settlement
from muster.messages.queues import SERVICE_QUEUES, Queues
from muster.sessions.commands import CommandFlow
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.queues import SqliteQueueStore
from muster.testing.clock import VirtualAmbient

KEY = IdentityKey("d")
IDENTITY = Identity(key=KEY, generation_id="1", version=1, authentication=Authentication())


class Everybody:
    async def get(self, key: IdentityKey) -> Identity:
        return IDENTITY


class Bench:
    """Commands on a real store, by a clock that tests move."""

    def __init__(self, writer: Writer, store: SqliteQueueStore) -> None:
        self.ambient = VirtualAmbient()
        self.writer, self.store = writer, store
        rules = command_rules(Profile.OPEN, 3)
        self.queues = Queues("hub", store, LocalBus(), self.ambient, identities=rules, services=SERVICE_QUEUES)
        self.commands = Commands(self.queues, Everybody(), self.ambient)
        self.queues.start()

    async def send(self, *bodies: bytes) -> None:
        for body in bodies:
            await self.commands.send(KEY, Command(body=body, ack=Ack.FULL))

    async def settled(self) -> None:
        """Once the store has done all that it was asked, and what came of that."""
        for _ in range(3):
            await self.writer.submit(lambda _: None)
            await asyncio.sleep(0)

    async def deliveries(self) -> list[int]:
        """How often each message in the queue has failed."""
        await self.settled()
        taken = await self.queues.take(str(KEY), 99)
        for one in taken:
            assert one.after.lock is not None  # type: ignore[union-attr]
            self.queues.give_back(str(KEY), one.after.lock.token)  # type: ignore[union-attr]
        return [one.before.deliveries for one in taken]


class Sink:
    """A head with room for ``room``."""

    def __init__(self, room: int = 9) -> None:
        self.room = room
        self.got: list[Received] = []

    def command_room(self, held: int) -> int:
        return self.room - held

    def deliver(self, command: Received) -> None:
        self.got.append(command)

    @property
    def bodies(self) -> list[bytes]:
        return [one.command.body for one in self.got]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    path = tmp_path / "hub.db"
    writer = Writer(path, MIGRATIONS, asyncio.get_running_loop(), durable=False)
    reader = open_connection(path, readonly=True)
    await SqliteIdentityStore(writer, reader).edit("hub", [Edit(KEY, lambda _: IDENTITY)])
    made = Bench(writer, SqliteQueueStore(writer, reader))
    yield made
    made.queues.close()
    await writer.close()
    reader.close()


def flow(bench: Bench, sink: Sink) -> CommandFlow:
    return CommandFlow(bench.commands, KEY, sink, bench.ambient)


async def test_what_waits_and_what_comes_is_delivered_in_order_as_there_is_room(bench: Bench) -> None:
    await bench.send(b"1", b"2")
    sink = Sink(room=3)
    made = flow(bench, sink)
    await bench.send(b"3", b"4")
    await bench.settled()
    assert sink.bodies == [b"1", b"2", b"3"]
    await made.settle(sink.got[1].number, sink.got[1].token, Settlement.COMPLETE)
    await bench.settled()
    assert sink.bodies[3:] == [b"4"]
    sink.room = 9
    await bench.send(b"5")
    await bench.settled()
    assert sink.bodies[4:] == [b"5"]


async def test_the_end_gives_back_what_was_sent_and_counts_it(bench: Bench) -> None:
    await bench.send(b"1", b"2")
    sink = Sink()
    made = flow(bench, sink)
    await bench.settled()
    await made.settle(sink.got[0].number, sink.got[0].token, Settlement.COMPLETE)
    made.end()
    assert await bench.deliveries() == [1]


async def test_what_was_taken_when_the_end_came_was_never_sent_and_does_not_count(bench: Bench) -> None:
    await bench.send(b"1", b"2")
    for _ in range(5):
        sink = Sink()
        made = flow(bench, sink)
        made.end()
        await bench.settled()
        assert sink.got == []
    assert await bench.deliveries() == [0, 0]


async def test_a_session_that_ends_in_the_midst_of_a_delivery_gives_the_rest_back(bench: Bench) -> None:
    class Ending(Sink):
        def deliver(self, command: Received) -> None:
            super().deliver(command)
            made.end()

    await bench.send(b"1", b"2", b"3")
    sink = Ending()
    made = flow(bench, sink)
    await bench.settled()
    assert sink.bodies == [b"1"]
    assert await bench.deliveries() == [1, 0, 0]


async def test_what_a_session_of_an_earlier_run_held_is_delivered_at_once_and_does_not_count(bench: Bench) -> None:
    await bench.send(b"1")
    await bench.commands.take(KEY, 1, "gone with the hub")
    sink = Sink()
    flow(bench, sink)
    await bench.settled()
    assert [(one.command.body, one.deliveries) for one in sink.got] == [(b"1", 0)]


async def test_what_somebody_locked_without_a_connection_stays_his(bench: Bench) -> None:
    await bench.send(b"1")
    await bench.commands.take(KEY, 1)
    sink = Sink()
    flow(bench, sink)
    await bench.settled()
    assert sink.got == []
    bench.ambient.advance(60)
    await bench.settled()
    assert sink.bodies == [b"1"]


async def test_a_lapsed_lock_makes_room_and_brings_the_message_again(bench: Bench) -> None:
    await bench.send(b"1", b"2")
    sink = Sink(room=1)
    made = flow(bench, sink)
    await bench.settled()
    bench.ambient.advance(60)
    await bench.settled()
    assert sink.bodies == [b"1", b"1"]
    assert sink.got[0].number == sink.got[1].number
    await made.settle(sink.got[1].number, sink.got[1].token, Settlement.COMPLETE)
    await bench.settled()
    assert sink.bodies == [b"1", b"1", b"2"]


async def test_one_that_could_not_be_sent_goes_back_uncounted(bench: Bench) -> None:
    class Refusing(Sink):
        def deliver(self, command: Received) -> None:
            self.room = 0
            made.give_back(command)

    await bench.send(b"1")
    made = flow(bench, Refusing())
    assert await bench.deliveries() == [0]


async def test_a_store_that_fails_is_asked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.send(b"1")
    sink = Sink()
    with monkeypatch.context() as patch:

        def broken(*_: object) -> asyncio.Future[object]:
            future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            future.set_exception(HubError(SERVER_ERROR))
            return future

        patch.setattr(bench.store, "edit", broken)
        flow(bench, sink)
        await bench.settled()
    assert sink.got == []
    bench.ambient.advance(5)
    await bench.settled()
    assert sink.bodies == [b"1"]


async def test_feedback_of_an_earlier_run_is_gathered_after_the_start(bench: Bench) -> None:
    await bench.send(b"1", b"2")
    await bench.commands.purge(KEY)
    bench.ambient.advance(10)
    bodies: list[int] = []

    def encode(records: object) -> bytes:
        bodies.append(len(records))  # type: ignore[arg-type]
        return b"[]"

    feedback = Feedback(bench.queues, bench.ambient, encode)
    await feedback.start()
    bench.ambient.advance(4)
    await bench.settled()
    assert bodies == []
    bench.ambient.advance(1)
    await bench.settled()
    assert (bodies, bench.queues.waiting("/feedback"), await bench.queues.records()) == ([2], 1, (0, None))
    feedback.close()
    await bench.send(b"3")
    await bench.commands.purge(KEY)
    bench.ambient.advance(60)
    await bench.settled()
    assert bodies == [2], "a closed one gathers nothing"


async def test_feedback_that_could_not_be_gathered_is_tried_again(bench: Bench) -> None:
    tries: list[int] = []

    def encode(_: object) -> bytes:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("disk")
        return b"[]"

    await Feedback(bench.queues, bench.ambient, encode).start()
    await bench.send(b"1")
    await bench.commands.purge(KEY)
    bench.ambient.advance(15)
    await bench.settled()
    assert (await bench.queues.records())[0] == 1
    bench.ambient.advance(5)
    await bench.settled()
    assert ((await bench.queues.records())[0], bench.queues.waiting("/feedback"), len(tries)) == (0, 1, 2)
