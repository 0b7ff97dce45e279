"""Queues that several nodes share, each with a ``Queues`` of its own on one database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import cast

import pytest
from hub_database import Storage, one_of_several, settled

from muster.core.bus import LocalBus
from muster.core.errors import DEVICE_NOT_FOUND, LOCK_LOST, UPLOAD_UNKNOWN, HubError
from muster.core.limit import Profile
from muster.identity.contract import Edit
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.messages.commands import Ack, Command, Commands, FeedbackRecord, Received, command_rules
from muster.messages.feedback import Feedback
from muster.messages.queue import Entry, Outcome, Settlement
from muster.messages.queue_contract import Due, EndedUpload, Ending, New
from muster.messages.queues import (
    FEEDBACK,
    FILE_NOTIFICATIONS,
    LOOK_SECONDS,
    SERVICE_QUEUES,
    Queues,
    ServiceQueue,
    taken,
)
from muster.messages.upload_contract import Slot, StoredFile, UploadStorage
from muster.messages.uploads import Uploads
from muster.node.files import FileNotices
from muster.sessions.commands import CommandFlow
from muster.stores.postgres.storage import PostgresStorage
from muster.testing.clock import VirtualAmbient

HUB, KEY, TTL = "hub", IdentityKey("d"), 3600


class Everybody:
    async def get(self, key: IdentityKey) -> Identity:
        return Identity(key=key, generation_id="1", version=1, authentication=Authentication())


class Node:
    """A process's part, as far as queues go. ``told`` are the outcomes that its services would hear of."""

    def __init__(self, storage: Storage, ambient: VirtualAmbient, seed: int) -> None:
        stores = storage.of(HUB, None)
        self.storage, self.ambient = storage, ambient
        self.identities, self.store, self.uploads = stores.identities, stores.queues, stores.uploads
        rules, own = command_rules(Profile.OPEN), VirtualAmbient(ambient.now(), seed)
        own.now, own.at = ambient.now, ambient.at  # type: ignore[method-assign]  # one time, its own randomness
        self.queues = Queues(HUB, self.store, LocalBus(), own, identities=rules, services=SERVICE_QUEUES)
        self.commands = Commands(self.queues, Everybody(), own)
        self.feedback = Feedback(self.queues, own, _encode)

    async def put(self, *bodies: bytes, ttl: float = TTL) -> None:
        """Something for services."""
        await asyncio.gather(*(self.queues.put(FEEDBACK, "", body, self.ambient.now() + ttl) for body in bodies))

    async def send(self, *bodies: bytes, device: str = "d", ttl: float = TTL) -> None:
        """Commands whose senders want to hear of all outcomes."""
        for body in bodies:
            command = Command(body=body, message_id=body.decode(), ack=Ack.FULL, expires=self.ambient.now() + ttl)
            await self.commands.send(IdentityKey(device), command)

    async def settled(self) -> None:
        """Once all that was asked for so far is done."""
        await settled(self.storage)

    def close(self) -> None:
        self.feedback.close()
        self.queues.close()


def _encode(records: Sequence[FeedbackRecord]) -> bytes:
    return ",".join(f"{one.message_id} {one.outcome}" for one in records).encode()


@contextlib.asynccontextmanager
async def node(common: str, ambient: VirtualAmbient, seed: int = 0) -> AsyncIterator[Node]:
    async with one_of_several(common) as storage:
        made = Node(storage, ambient, seed)
        made.queues.start()
        await made.feedback.start()
        await made.settled()
        try:
            yield made
        finally:
            made.close()


@pytest.fixture
async def nodes(common: str) -> AsyncIterator[tuple[Node, Node]]:
    ambient = VirtualAmbient()
    async with node(common, ambient, 1) as one, node(common, ambient, 2) as other:
        await add(one, "d")
        yield one, other


async def add(at: Node, *ids: str) -> None:
    made = [Identity(key=IdentityKey(id), generation_id="1", version=1, authentication=Authentication()) for id in ids]
    await at.identities.edit(HUB, [Edit(one.key, lambda _, one=one: one) for one in made])  # type: ignore[misc]


async def drop(at: Node, id: str) -> None:
    assert await at.identities.edit(HUB, [Edit(IdentityKey(id), lambda _: None)]) == [None]


async def until(condition: Callable[[], Awaitable[bool]], *nodes: Node, step: float = 1) -> None:
    """While time passes in steps of so many seconds."""
    async with asyncio.timeout(30):
        while not await condition():
            nodes[0].ambient.advance(step)
            for one in nodes:
                await one.settled()


async def test_what_nodes_take_at_once_is_taken_once_and_what_they_settle_is_settled_once(
    nodes: tuple[Node, Node],
) -> None:
    await asyncio.gather(*(one.put(*[b""] * 15) for one in nodes))
    found = await asyncio.gather(*(nodes[at % 2].queues.take(FEEDBACK, 4) for at in range(12)))
    messages = [one for some in found for one in taken(some)]
    assert sorted(one.entry.number for one in messages) == list(range(1, 31))
    settling = [at.queues.settle(FEEDBACK, one.token, Settlement.COMPLETE) for one in messages for at in nodes]
    outcomes = await asyncio.gather(*settling, return_exceptions=True)
    for both in zip(outcomes[::2], outcomes[1::2], strict=True):
        assert sorted(type(one).__name__ for one in both) == ["HubError", "NoneType"]
    assert all(one.row is LOCK_LOST for one in outcomes if isinstance(one, HubError))
    assert await nodes[0].queues.depths([FEEDBACK]) == [0]


async def test_an_upload_that_is_reported_to_two_nodes_at_once_is_announced_once(nodes: tuple[Node, Node]) -> None:
    class Storage:
        both = asyncio.Barrier(2)

        async def find(self, _: str) -> StoredFile:
            await self.both.wait()  # each has seen that the slot is there
            return StoredFile("https://files/d/f", 1, 0.0)

    now, storage = nodes[0].ambient.now(), cast("UploadStorage", Storage())
    for number in range(10):
        name = f"c{number}"
        await nodes[0].uploads.begin(HUB, Slot(name, "d", f"d/{name}", now + TTL), now, 10)
        reports = []
        for one in nodes:
            notices = FileNotices(ServiceQueue(one.queues, FILE_NOTIFICATIONS, one.ambient))
            uploads = Uploads(HUB, one.uploads, storage, notices, one.ambient)
            reports.append(uploads.report("d", name, success=True))
        outcomes = await asyncio.gather(*reports, return_exceptions=True)
        assert [one.row for one in outcomes if isinstance(one, HubError)] == [UPLOAD_UNKNOWN]
        assert outcomes.count(None) == 1
        assert await nodes[0].queues.depths([FILE_NOTIFICATIONS]) == [number + 1]


async def test_a_notice_that_cannot_be_kept_leaves_the_upload_to_be_reported_again(nodes: tuple[Node, Node]) -> None:
    one, now = nodes[0], nodes[0].ambient.now()
    await one.uploads.begin(HUB, Slot("c", "d", "d/f", now + TTL), now, 10)
    new, ends = New(now, now + TTL, "", b""), EndedUpload("d", "c")
    await one.store.put(HUB, FILE_NOTIFICATIONS, new, lambda _: None)
    with pytest.raises(HubError):
        await one.store.put(HUB, FILE_NOTIFICATIONS, new, lambda _: None, most=1, ends=ends)
    assert await one.uploads.get(HUB, "d", "c") is not None
    await one.store.put(HUB, FILE_NOTIFICATIONS, new, lambda _: None, ends=ends)
    assert await one.uploads.get(HUB, "d", "c") is None


async def test_what_is_due_on_several_nodes_ends_once_and_is_told_once(nodes: tuple[Node, Node]) -> None:
    ids = [f"d{at}" for at in range(12)]
    await add(nodes[0], *ids)
    names = {f"{id}-{at}" for id in ids for at in range(3)}
    await asyncio.gather(
        *(nodes[at % 2].send(*(f"{id}-{n}".encode() for n in range(3)), device=id, ttl=5) for at, id in enumerate(ids))
    )

    async def all_told() -> bool:
        return await records_left(nodes[0]) == 0 and sum(await nodes[0].queues.depths(ids)) == 0

    nodes[0].ambient.advance(5)
    await until(all_told, *nodes)
    told = [one.body.decode() for one in taken(await nodes[1].queues.take(FEEDBACK, 99))]
    assert sorted(",".join(told).split(",")) == sorted(f"{name} expired" for name in names)


async def test_what_is_due_is_dealt_with_by_one_node_at_a_time(nodes: tuple[Node, Node]) -> None:
    ids = [f"d{at}" for at in range(12)]
    await add(nodes[0], *ids)
    for id in ids:
        await nodes[0].send(b"x", device=id, ttl=50)
    due = Due(nodes[0].ambient.now() + 50, 99)

    def end(_: str, entry: Entry) -> Ending:
        return Ending(Outcome.EXPIRED)

    stores = [nodes[at % 2].store for at in range(6)]
    dealt = await asyncio.gather(*(store.edit_due(HUB, due, end, lambda _: None) for store in stores))
    assert sorted(one.queue for some in dealt for one in some.edited) == sorted(ids)


async def test_the_deadlines_of_a_node_that_is_gone_are_found(common: str) -> None:
    ambient = VirtualAmbient()
    async with node(common, ambient) as one:
        async with node(common, ambient) as other:
            await other.put(b"", b"", ttl=30)
            await other.queues.take(FEEDBACK, 1)

        async def one_left() -> bool:
            return await one.queues.depths([FEEDBACK]) == [1]

        async def none_left() -> bool:
            return await one.queues.depths([FEEDBACK]) == [0]

        begun = ambient.now()
        await until(one_left, one, step=5)
        assert ambient.now() - begun <= 30 + 2 * LOOK_SECONDS, "the second has expired, the first is locked"
        await until(none_left, one, step=5)
        assert ambient.now() - begun >= 60, "the first expired when its lock had lapsed"


async def test_the_records_of_a_node_that_is_gone_are_gathered(common: str) -> None:
    ambient = VirtualAmbient()
    async with node(common, ambient) as one:
        await add(one, "d")
        async with node(common, ambient) as other:
            await other.send(b"a", b"b")
            await other.commands.purge(KEY)
        assert await records_left(one) == 2

        async def gathered() -> bool:
            return await records_left(one) == 0

        await until(gathered, one, step=5)
        (message,) = taken(await one.queues.take(FEEDBACK, 9))
        assert message.body == b"a purged,b purged"


async def test_what_is_put_while_the_identity_is_deleted_goes_with_it_or_is_refused(nodes: tuple[Node, Node]) -> None:
    ids = [f"d{at}" for at in range(10)]
    await add(nodes[0], *ids)
    works = [work for id in ids for work in (nodes[0].send(b"x", device=id), drop(nodes[1], id))]
    outcomes = await asyncio.gather(*works, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, BaseException)]
    assert all(isinstance(one, HubError) and one.row is DEVICE_NOT_FOUND for one in refused), refused
    assert await nodes[0].queues.depths(ids) == [0] * 10
    await add(nodes[0], *ids)
    assert [await nodes[0].commands.take(IdentityKey(id), 9) for id in ids] == [[]] * 10


async def test_what_another_node_puts_waits_here_too(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    assert one.queues.waiting("d") in {0, None}
    await other.send(b"x", b"y")
    assert one.queues.waiting("d") in {2, None}
    assert await one.queues.depths(["d"]) == [2]
    await other.commands.purge(KEY)
    assert one.queues.waiting("d") in {0, None}


@pytest.mark.parametrize("common", ["postgres"], indirect=True)
async def test_who_looks_in_vain_writes_nothing(nodes: tuple[Node, Node]) -> None:
    one = nodes[0]
    assert isinstance(one.storage, PostgresStorage)
    database = one.storage._database
    await one.send(b"x")
    await one.commands.purge(KEY)
    later = one.ambient.now() + 99
    assert (await one.queues.collect(FEEDBACK, 9, lambda _: New(0, later, "", b""))).taken == 1
    before = await database.fetch("SELECT queue, xmin::text, xmax::text FROM queues ORDER BY queue")
    assert await one.commands.take(KEY, 9) == []
    one.commands.release(KEY)
    assert (await one.queues.collect(FEEDBACK, 9, lambda _: New(0, 0, "", b""))).taken == 0
    await one.settled()
    assert await database.fetch("SELECT queue, xmin::text, xmax::text FROM queues ORDER BY queue") == before


@pytest.mark.parametrize("common", ["postgres"], indirect=True)
async def test_how_many_wait_can_be_asked_without_a_task(nodes: tuple[Node, Node]) -> None:
    """As ``heads.http.connection`` does for operations that are ``direct``."""
    await nodes[0].send(b"x")
    asking, begun = nodes[0].queues.depths(["d", "e"]), asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(lambda: begun.set_result([asking.send(None)]))
    async with asyncio.timeout(10):
        (future,) = await begun
    future._asyncio_future_blocking = False
    await asyncio.wait([future])
    with pytest.raises(StopIteration) as ended:
        asking.send(None)
    assert ended.value.value == [1, 0]


class Sink:
    """A head with room for nine."""

    def __init__(self) -> None:
        self.got: list[Received] = []

    def command_room(self, held: int) -> int:
        return 9 - held

    def deliver(self, command: Received) -> None:
        self.got.append(command)


async def test_a_session_gets_what_waits_also_what_a_session_of_a_node_that_is_gone_had_in_hand(common: str) -> None:
    ambient, sink = VirtualAmbient(), Sink()
    async with node(common, ambient, 1) as one:
        await add(one, "d")
        async with node(common, ambient, 2) as other:
            await other.send(b"a", b"b")
            earlier = Sink()
            CommandFlow(other.commands, KEY, earlier, ambient)
            await other.settled()
            assert [got.command.body for got in earlier.got] == [b"a", b"b"]
        idle: list[bool] = []
        flow = CommandFlow(one.commands, KEY, sink, ambient)
        flow.when_idle = lambda: idle.append(True)
        await one.settled()
        assert [(got.command.body, got.deliveries) for got in sink.got] == [(b"a", 0), (b"b", 0)]
        assert (idle, flow.busy) == ([True], False)
        await flow.settle(sink.got[0].number, sink.got[0].token, Settlement.COMPLETE)
        await one.send(b"c")
        await one.settled()
        assert [got.command.body for got in sink.got[2:]] == [b"c"]


async def records_left(at: Node) -> int:
    return (await at.queues.records())[0]
