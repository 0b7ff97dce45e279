"""Several processes that use one ``hub.db``: what one suite on one store cannot see."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from muster.audit.chain import verify
from muster.core.audit import Act, draft
from muster.core.errors import DEVICE_EXISTS, DEVICE_NOT_FOUND, PRECONDITION_FAILED, SERVER_ERROR, TAKEN_OVER, HubError
from muster.core.outbox import Entry
from muster.identity.contract import Counts, Edit, Standing
from muster.identity.model import Authentication, Identity, IdentityKey, Status
from muster.node.offline import Nobody
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.storage import SqliteStorage
from muster.twins.document import Twin, patch_twin
from muster.twins.query.parser import parse_query

HUB = "hub"
DEVICE = IdentityKey("d")
ALL, MUCH = 1000, 1 << 30


class Node:
    """The stores of one process: with locks of its own, as files and databases opened twice have them."""

    def __init__(self, path: Path) -> None:
        self.storage = SqliteStorage(path, durable=False, shared=True)
        stores = self.storage.of(HUB)
        assert isinstance(stores.identities, SqliteIdentityStore)
        self.identities, self.twins, self.outbox, self.queues = (
            stores.identities, stores.twins, stores.outbox, stores.queues
        )  # fmt: skip

    async def add(self, *keys: IdentityKey) -> None:
        outcomes = await self.identities.edit(HUB, [Edit(key, lambda _, key=key: identity(key)) for key in keys])  # type: ignore[misc]
        assert all(isinstance(outcome, Identity) for outcome in outcomes)

    async def drop(self, key: IdentityKey) -> None:
        assert await self.identities.edit(HUB, [Edit(key, lambda _: None)]) == [None]

    async def tag(self, name: str, value: object, *entries: Entry) -> Twin:
        change = lambda twin: patch_twin(twin, {name: value}, {}, 0.0)  # noqa: E731
        return await self.twins.edit(HUB, DEVICE, change, lambda _: None, lambda *_: entries)


def identity(key: IdentityKey, **fields: object) -> Identity:
    return replace(Identity(key=key, generation_id="1", version=1, authentication=Authentication()), **fields)  # type: ignore[arg-type]


def create(key: IdentityKey) -> Edit:
    """Made, unless it is there."""

    def change(standing: Standing) -> Identity:
        if standing.identity is not None:
            raise HubError(DEVICE_EXISTS)
        return identity(key)

    return Edit(key, change)


Opener = Callable[[], Node]


@pytest.fixture
async def opener(tmp_path: Path) -> AsyncIterator[Opener]:
    made: list[Node] = []

    def make() -> Node:
        made.append(Node(tmp_path / "hub.db"))
        return made[-1]

    yield make
    for node in made:
        await node.storage.close()


@pytest.fixture
async def nodes(opener: Opener) -> tuple[Node, Node]:
    return opener(), opener()


async def test_a_device_is_made_once(nodes: tuple[Node, Node]) -> None:
    keys = [IdentityKey(f"d{number}") for number in range(200)]

    async def make(node: Node, key: IdentityKey) -> Identity | Exception | None:
        (outcome,) = await node.identities.edit(HUB, [create(key)])
        return outcome

    for key in keys:
        outcomes = await asyncio.gather(*(make(node, key) for node in nodes))
        made, refused = sorted(outcomes, key=lambda outcome: isinstance(outcome, HubError))
        assert made == identity(key)
        assert isinstance(refused, HubError)
        assert refused.row is DEVICE_EXISTS
    assert [await node.identities.counts(HUB) for node in nodes] == [Counts(200, 0)] * 2


async def test_devices_are_counted_by_many_at_once(nodes: tuple[Node, Node]) -> None:
    async def live(node: Node, number: int) -> None:
        key = IdentityKey(f"d{number}")
        await node.add(key)
        await node.identities.edit(HUB, [Edit(key, lambda _: identity(key, status=Status.DISABLED))])
        if number % 3 == 0:
            await node.drop(key)

    await asyncio.gather(*(live(nodes[number % 2], number) for number in range(120)))
    assert await nodes[1].identities.counts(HUB) == Counts(0, 80)


async def test_what_another_process_changed_is_known_once_it_is_forgotten(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    await one.add(DEVICE)
    assert (found := await one.identities.get(HUB, DEVICE)) is not None
    await other.identities.edit(HUB, [Edit(DEVICE, lambda _: identity(DEVICE, version=2))])
    assert await one.identities.get(HUB, DEVICE) is found
    one.identities.forget(HUB, "d")
    assert await one.identities.get(HUB, DEVICE) == identity(DEVICE, version=2)
    await other.drop(DEVICE)
    one.identities.forget_all()
    assert await one.identities.get(HUB, DEVICE) is None


async def test_twins_take_the_changes_of_all_processes(nodes: tuple[Node, Node]) -> None:
    """Each keeps in mind what it wrote last, and one that is made anew has nothing of its forerunner."""
    await nodes[0].add(DEVICE)
    for number in range(20):
        await nodes[number % 2].tag(f"t{number}", number)
    made = await asyncio.gather(*(nodes[number % 2].tag(f"t{number}", number) for number in range(20, 60)))
    assert sorted(twin.version for twin in made) == list(range(23, 63))
    assert {len(twin.tags) for twin in made} == set(range(21, 61))
    await nodes[1].drop(DEVICE)
    with pytest.raises(HubError) as refused:
        await nodes[0].tag("t", 1)
    assert refused.value.row is DEVICE_NOT_FOUND
    await nodes[1].add(DEVICE)
    assert (await nodes[0].tag("t", 1)).tags == {"t": 1}


async def test_a_process_without_its_sessions_changes_no_twin_for_them(nodes: tuple[Node, Node]) -> None:
    storage, asked = nodes[0].storage, [True, False]
    storage.has_sessions = lambda: asked.pop(0)
    await nodes[0].add(DEVICE)
    twins = storage.of(HUB).twins
    change = lambda twin: patch_twin(twin, {"t": twin.version}, {}, 0.0)  # noqa: E731
    made = await twins.edit(HUB, DEVICE, change, lambda _: None, epoch=1)
    for epoch in (1, 0):  # 0: its session has ended
        with pytest.raises(HubError) as refused:
            await twins.edit(HUB, DEVICE, change, lambda _: None, epoch=epoch)
        assert refused.value.row is TAKEN_OVER
    assert asked == []
    assert await twins.get(HUB, DEVICE) == made
    assert (await twins.edit(HUB, DEVICE, change, lambda _: None)).version == 4, "services go on"


async def test_the_audit_log_is_one_chain(nodes: tuple[Node, Node]) -> None:
    async def record(number: int) -> None:
        await nodes[number % 2].storage.audit.record(draft("", Act("x", "me", transport="test"), f"{number}", 0.0))

    for number in range(6):
        await record(number)
    await asyncio.gather(*map(record, range(6, 60)))
    lines = await nodes[0].storage.audit.lines(0, ALL)
    assert verify(one.line for one in lines) == (await nodes[1].storage.audit.head()).mark
    assert len(lines) == 60


async def test_one_process_takes_events_until_it_has_gone(opener: Opener) -> None:
    first, second = opener(), opener()
    await first.add(DEVICE)
    assert await first.outbox.take(0, ALL, MUCH) == []  # its turn now
    await second.tag("t", 1, Entry("d", b"1"))
    await first.tag("t", 2, Entry("d", b"2"))
    assert await second.outbox.take(0, ALL, MUCH) == []
    kept = [Entry("d", b"1"), Entry("d", b"2")]
    assert [entry for _, entry in await first.outbox.take(0, ALL, MUCH)] == kept
    assert first.storage.of("other").outbox.shared
    await second.storage.of("other").outbox.take(0, ALL, MUCH)
    await first.storage.close()  # without having told of it
    found = await second.outbox.take(0, ALL, MUCH)
    assert [entry for _, entry in found] == kept
    assert await second.outbox.take(found[-1].number, ALL, MUCH) == []


async def test_indexes_are_made_once_and_queries_see_what_others_wrote(nodes: tuple[Node, Node]) -> None:
    engines = [node.storage.queries(Nobody(), ["tags.t"]) for node in nodes]
    await asyncio.gather(*(engine.prepare() for engine in engines))
    await nodes[0].add(DEVICE)
    await nodes[0].tag("t", 7)
    query = parse_query("SELECT tags FROM devices WHERE tags.t = 7")
    for engine in engines:
        page = await engine.page(HUB, query, None, 10)
        assert [json.loads(row) for row in page.rows] == [{"tags": {"t": 7}}]
        await engine.close()


async def test_settings_are_put_over_what_was_read(nodes: tuple[Node, Node]) -> None:
    one, other = (node.storage.rows for node in nodes)
    await one.put_settings({"a": b"1", "b": b"1"}, expected={"a": None})
    await other.put_settings({"a": b"2"}, expected={"a": b"1"})
    for expected in ({"a": b"1"}, {"a": None}, {"a": b"2", "c": b"1"}):
        with pytest.raises(HubError) as refused:
            await one.put_settings({"a": b"3", "b": b"3"}, expected=expected)
        assert refused.value.row is PRECONDITION_FAILED
    assert [await one.get_setting(name) for name in "ab"] == [b"2", b"1"]


async def test_one_at_a_time_starts(nodes: tuple[Node, Node]) -> None:
    one, other = (node.storage.turns for node in nodes)
    assert one is not None
    assert other is not None
    order: list[str] = []

    async def start(turns: object, name: str) -> None:
        async with turns.starting():  # type: ignore[attr-defined]
            order.append(f"{name} begins")
            await asyncio.sleep(0.05)
            order.append(f"{name} ends")

    async with one.starting():
        second = asyncio.ensure_future(start(other, "other"))
        await asyncio.sleep(0.05)
        assert order == []
    await second
    await start(one, "one")
    assert order == ["other begins", "other ends", "one begins", "one ends"]


async def test_without_a_place_for_the_turns_nothing_is_opened(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"none/hub\.db-turns: No such file") as refused:
        SqliteStorage(tmp_path / "none" / "hub.db", shared=True)
    assert refused.value.row is SERVER_ERROR
