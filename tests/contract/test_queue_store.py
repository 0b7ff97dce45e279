"""What every ``QueueStore`` promises, beside the ``IdentityStore`` of the same database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import DEVICE_NOT_FOUND, LOCK_LOST, MODULE_NOT_FOUND, QUEUE_DEPTH, HubError
from muster.identity.contract import Edit, IdentityStore
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.messages.queue import Entry, Lock, Outcome
from muster.messages.queue_contract import (
    Change,
    Due,
    Edited,
    Ending,
    Everything,
    HeldBy,
    New,
    QueueStore,
    Record,
    Selection,
    Visible,
    WithToken,
)
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.queues import PostgresQueueStore
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.queues import SqliteQueueStore
from tests.postgres import emptied_database

HUB, DEVICE, MODULE, FEEDBACK = "hub", "d", "d/m", "/feedback"
TOKENS = [UUID(int=number) for number in range(1, 100)]


class Stores(NamedTuple):
    identities: IdentityStore
    queues: QueueStore

    async def add(self, *keys: str, generation: str = "1") -> None:
        for name in keys:
            key = key_of(name)
            identity = Identity(key=key, generation_id=generation, version=1, authentication=Authentication())
            await self.identities.edit(HUB, [Edit(key, lambda _, identity=identity: identity)])  # type: ignore[misc]

    async def drop(self, name: str) -> None:
        assert await self.identities.edit(HUB, [Edit(key_of(name), lambda _: None)]) == [None]

    async def put(
        self, queue: str = DEVICE, body: bytes = b"", *, at: float = 0, expires: float = 1000, head: str = "",
        hub: str = HUB, most: int | None = None, generation: str | None = None,
    ) -> Entry:  # fmt: skip
        new = New(at, expires, head, body)
        return await self.queues.put(hub, queue, new, ignore, most=most, generation=generation)

    async def edit(self, which: Selection, change: Change, queue: str = DEVICE) -> list[Edited]:
        return await self.queues.edit(HUB, queue, which, change, ignore)

    async def lock(
        self, limit: int = 1, until: float = 60, holder: str = "", queue: str = DEVICE, first: int = 0
    ) -> list[Edited]:
        tokens = iter(TOKENS[first:])
        return await self.edit(
            Visible(0, limit), lambda _, entry: replace(entry, lock=Lock(next(tokens), until, holder)), queue
        )

    async def depths(self, *queues: str) -> list[int]:
        return await self.queues.depths(HUB, queues)

    async def next_due(self, hub: str = HUB) -> float | None:
        return (await self.queues.edit_due(hub, Due(-1, 0), keep, ignore)).next

    async def all(self, queue: str = DEVICE) -> list[Entry]:
        return [one.before for one in await self.edit(Everything(), keep, queue)]


def key_of(name: str) -> IdentityKey:
    device_id, _, module_id = name.partition("/")
    return IdentityKey(device_id, module_id or None)


def ignore(_: object) -> None:
    return None


def keep(_: str, entry: Entry) -> Entry:
    return entry


def end(_: str, entry: Entry) -> Ending:
    return Ending(Outcome.COMPLETED)


def end_with_record(queue: str, entry: Entry) -> Ending:
    return Ending(Outcome.COMPLETED, Record(queue, entry.enqueued, f"{queue} {entry.number}"))


def numbers(edited: Sequence[Edited]) -> list[int]:
    return [one.before.number for one in edited]


def _sqlite(directory: Path) -> Opener[Stores]:
    return opener_of(
        directory, lambda writer, reader: Stores(SqliteIdentityStore(writer, reader), SqliteQueueStore(writer, reader))
    )


def _postgres(_: Path) -> Opener[Stores]:
    return postgres_opener(
        emptied_database(),
        lambda database: Stores(PostgresIdentityStore(database), PostgresQueueStore(database)),  # type: ignore[arg-type]
    )


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Stores]:
    made: Opener[Stores] = request.param(tmp_path)
    return made


@pytest.fixture
async def stores(opener: Opener[Stores]) -> AsyncIterator[Stores]:
    async with opener() as opened:
        await opened.add(DEVICE, MODULE, "d2")
        yield opened


async def test_messages_are_numbered_by_queue_and_come_in_that_order(stores: Stores) -> None:
    assert [(await stores.put(body=body)).number for body in (b"a", b"b", b"c")] == [1, 2, 3]
    assert (await stores.put(MODULE)).number == 1
    taken = await stores.lock(2)
    assert [(one.before.number, one.body) for one in taken] == [(1, b"a"), (2, b"b")]
    assert [one.body for one in await stores.lock(2, first=2)] == [b"c"], "what is locked is not visible"
    assert await stores.depths(DEVICE) == [3]


async def test_what_was_put_is_there_when_the_store_is_opened_anew(opener: Opener[Stores]) -> None:
    async with opener() as stores:
        await stores.add(DEVICE)
        await stores.put(at=5, expires=50, head="h\u20ac", body=b"\x00\xff")
        await stores.put(expires=40)
        await stores.lock(1, until=30, holder="x")
    async with opener() as stores:
        first, second = await stores.all()
        assert first == Entry(1, 5, 50, "h\u20ac", 0, Lock(TOKENS[0], 30, "x"))
        assert (second.number, second.expires, second.lock) == (2, 40, None)
        assert await stores.next_due() == 30
        assert [one.body for one in await stores.edit(Visible(30, 9), keep)] == [b"\x00\xff", b""], "lapsed: visible"


async def test_visible_passes_over_what_has_expired(stores: Stores) -> None:
    await stores.put(expires=10)
    await stores.put(expires=20)
    assert numbers(await stores.edit(Visible(10, 9), keep)) == [2]
    assert await stores.edit(Visible(20, 9), keep) == []


async def test_a_message_is_found_by_its_token_in_its_own_queue_only(stores: Stores) -> None:
    await stores.put()
    await stores.put()
    await stores.put(MODULE)
    await stores.lock(2)
    assert numbers(await stores.edit(WithToken(TOKENS[1]), end)) == [2]
    assert await stores.edit(WithToken(TOKENS[1]), end) == []
    assert await stores.edit(WithToken(TOKENS[0]), end, MODULE) == []
    assert await stores.depths(DEVICE) == [1]


async def test_messages_are_found_by_who_holds_them(stores: Stores) -> None:
    for _ in range(4):
        await stores.put()
    tokens = iter(TOKENS)
    for holder in ("", "one", "two"):
        await stores.edit(
            Visible(0, 1), lambda _, entry, holder=holder: replace(entry, lock=Lock(next(tokens), 60, holder))  # type: ignore[misc]
        )  # fmt: skip
    assert numbers(await stores.edit(HeldBy("two"), keep)) == [3]
    assert numbers(await stores.edit(HeldBy(None), keep)) == [2, 3], "not what was locked for nobody's connection"


async def test_a_change_is_kept_as_it_was_made(stores: Stores) -> None:
    await stores.put()
    (one,) = await stores.edit(Visible(0, 1), lambda _, entry: replace(entry, deliveries=3, lock=Lock(TOKENS[0], 9)))
    assert one.after == (await stores.all())[0]
    (one,) = await stores.edit(Everything(), lambda _, entry: replace(entry, lock=None))
    assert one.after == (await stores.all())[0] == Entry(1, 0, 1000, deliveries=3)


async def test_a_change_that_raises_undoes_the_whole_edit(stores: Stores) -> None:
    await stores.put()
    await stores.put()
    told: list[object] = []

    def refuse(_: str, entry: Entry) -> Ending:
        if entry.number == 2:
            raise HubError(LOCK_LOST)
        return Ending(Outcome.PURGED, Record(DEVICE, 0, "r"))

    with pytest.raises(HubError) as caught:
        await stores.queues.edit(HUB, DEVICE, Everything(), refuse, told.append)
    assert caught.value.row is LOCK_LOST
    assert (len(await stores.all()), await stores.queues.records(HUB), told) == (2, (0, None), [])


async def test_what_ended_is_gone_and_its_number_is_not_used_again(stores: Stores) -> None:
    await stores.put()
    await stores.edit(Everything(), end)
    assert (await stores.depths(DEVICE), await stores.all(), await stores.next_due()) == ([0], [], None)
    assert (await stores.put()).number == 2


async def test_a_full_queue_takes_nothing(stores: Stores) -> None:
    await stores.put(most=2)
    await stores.put(most=2)
    with pytest.raises(HubError) as caught:
        await stores.put(most=2)
    assert caught.value.row is QUEUE_DEPTH
    assert (await stores.put(MODULE, most=2)).number == 1
    await stores.edit(Visible(0, 1), end)
    assert (await stores.put(most=2)).number == 3


@pytest.mark.parametrize(
    ("queue", "row", "message"),
    [("n", DEVICE_NOT_FOUND, "n"), ("d/n", MODULE_NOT_FOUND, "d/n"), ("n/m", DEVICE_NOT_FOUND, "n")],
)
async def test_an_identity_that_is_not_there_has_no_queue(
    stores: Stores, queue: str, row: object, message: str
) -> None:
    with pytest.raises(HubError) as caught:
        await stores.put(queue)
    assert (caught.value.row, caught.value.message) == (row, message)
    assert await stores.depths(queue) == [0]


async def test_a_message_meant_for_an_earlier_identity_is_not_put(stores: Stores) -> None:
    await stores.put(generation="1")
    with pytest.raises(HubError) as caught:
        await stores.put(generation="0")
    assert caught.value.row is DEVICE_NOT_FOUND


async def test_a_deleted_identity_leaves_nothing_and_a_later_one_begins_empty(stores: Stores) -> None:
    for queue in (DEVICE, MODULE, "d2", FEEDBACK):
        await stores.put(queue)
        await stores.put(queue)
    for queue in (DEVICE, MODULE, "d2"):
        await stores.edit(Visible(0, 1), end_with_record, queue)
    await stores.drop(DEVICE)
    assert await stores.depths(DEVICE, MODULE, "d2", FEEDBACK) == [0, 0, 1, 2]
    assert await stores.queues.records(HUB) == (1, 0)
    await stores.add(DEVICE, MODULE)
    assert await stores.all() == []
    assert (await stores.put()).number == 1


async def test_a_deleted_module_leaves_its_device_alone(stores: Stores) -> None:
    await stores.put()
    await stores.put(MODULE)
    await stores.drop(MODULE)
    assert await stores.depths(DEVICE, MODULE) == [1, 0]


async def test_what_is_due_is_found_in_all_queues_of_the_hub_the_longest_overdue_first(stores: Stores) -> None:
    await stores.put(expires=30)
    await stores.put(MODULE, expires=10)
    await stores.put(FEEDBACK, expires=20)
    await stores.put(FEEDBACK, expires=40, hub="another")
    assert (await stores.next_due(), await stores.next_due("another")) == (10, 40)
    found = (await stores.queues.edit_due(HUB, Due(30, 2), keep, ignore)).edited
    assert [(one.queue, one.before.due) for one in found] == [(MODULE, 10), (FEEDBACK, 20)]
    ended = await stores.queues.edit_due(HUB, Due(29, 9), end, ignore)
    assert ([one.queue for one in ended.edited], ended.next) == ([MODULE, FEEDBACK], 30)
    assert (await stores.depths(MODULE), await stores.next_due()) == ([0], 30)
    await stores.lock(1, until=25)
    assert await stores.next_due() == 25, "a locked message is due when its lock lapses"


async def test_records_are_collected_the_oldest_first(stores: Stores) -> None:
    for number in range(5):
        await stores.put(at=number)
    await stores.edit(Everything(), end_with_record)
    assert await stores.queues.records(HUB) == (5, 0)

    def make(records: Sequence[Record]) -> New:
        return New(9, 99, "", ",".join(record.text for record in records).encode())

    first = await stores.queues.collect(HUB, FEEDBACK, 3, make, ignore)
    assert (first.taken, first.left, first.oldest) == (3, 2, 3)
    second = await stores.queues.collect(HUB, FEEDBACK, 3, make, ignore)
    assert (second.taken, second.left, second.oldest) == (2, 0, None)
    nothing = await stores.queues.collect(HUB, FEEDBACK, 3, make, ignore)
    assert (nothing.taken, nothing.entry) == (0, None)
    bodies = [one.body for one in await stores.edit(Visible(0, 9), keep, FEEDBACK)]
    assert bodies == [b"d 1,d 2,d 3", b"d 4,d 5"]


async def test_calls_take_their_places_when_they_are_made_and_tell_also_when_nobody_waits(stores: Stores) -> None:
    order: list[str] = []

    def note(name: str) -> Callable[[object], None]:
        return lambda _: order.append(name)

    put = stores.queues.put(HUB, DEVICE, New(0, 9, "", b""), note("put"))
    ended = stores.queues.edit(HUB, DEVICE, Everything(), end, note("end"))
    put.cancel()
    assert numbers(await ended) == [1]
    assert order == ["put", "end"]


async def test_writers_at_the_same_time_lose_nothing(stores: Stores) -> None:
    await asyncio.gather(*(stores.put(body=b"%d" % number) for number in range(50)))
    assert [entry.number for entry in await stores.all()] == list(range(1, 51))
    await asyncio.gather(*(stores.edit(Visible(0, 1), end) for _ in range(50)))
    assert await stores.depths(DEVICE) == [0]
