"""Identities and what goes with them, when several nodes use one PostgreSQL: what one suite on one store cannot see."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from muster.core.errors import DEVICE_EXISTS, DEVICE_NOT_FOUND, PRECONDITION_FAILED, SERVER_ERROR, HubError
from muster.core.outbox import Entry
from muster.identity.contract import Counts, Edit, Standing
from muster.identity.model import Authentication, Identity, IdentityKey, Status
from muster.messages.upload_contract import Slot
from muster.stores.postgres.database import LANES, Database, Step
from muster.stores.postgres.hub_removal import SLICE, forget_hub
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.settings import PostgresHubSettingsStore
from muster.stores.postgres.subscriptions import PostgresSubscriptionStore
from muster.stores.postgres.twins import PostgresTwinStore
from muster.stores.postgres.uploads import PostgresUploadStore
from muster.twins.document import Twin, patch_twin
from tests.postgres import emptied_database

HUB = "hub"
DEVICE = IdentityKey("d")
ALL, MUCH = 1000, 1 << 30


class Node:
    """The stores of one node."""

    def __init__(self, url: str, *, lanes: int = LANES) -> None:
        self.database = Database(url, lanes=lanes)
        self.outbox = PostgresOutbox(self.database, HUB)
        self.identities = PostgresIdentityStore(self.database)
        self.twins = PostgresTwinStore(self.database, self.outbox)
        self.subscriptions = PostgresSubscriptionStore(self.database)
        self.uploads = PostgresUploadStore(self.database)
        self.settings = PostgresHubSettingsStore(self.database)

    async def add(self, *keys: IdentityKey, hub: str = HUB) -> None:
        outcomes = await self.identities.edit(hub, [Edit(key, making(key)) for key in keys])
        assert all(isinstance(outcome, Identity) for outcome in outcomes)

    async def drop(self, key: IdentityKey) -> None:
        assert await self.identities.edit(HUB, [Edit(key, lambda _: None)]) == [None]

    async def tag(self, name: str, value: object, *entries: Entry) -> Twin:
        change = lambda twin: patch_twin(twin, {name: value}, {}, 0.0)  # noqa: E731
        return await self.twins.edit(HUB, DEVICE, change, lambda _: None, lambda *_: entries)


def identity(key: IdentityKey, **fields: object) -> Identity:
    return replace(Identity(key=key, generation_id="1", version=1, authentication=Authentication()), **fields)  # type: ignore[arg-type]


def making(key: IdentityKey) -> Callable[[object], Identity]:
    return lambda _: identity(key)


def create(key: IdentityKey) -> Edit:
    """Made, unless it is there."""

    def change(standing: Standing) -> Identity:
        if standing.identity is not None:
            raise HubError(DEVICE_EXISTS)
        return identity(key)

    return Edit(key, change)


@pytest.fixture
def url() -> str:
    return emptied_database()


@pytest.fixture
async def nodes(url: str) -> AsyncIterator[tuple[Node, Node]]:
    made = Node(url), Node(url)
    for node in made:
        await node.database.open()
    yield made
    for node in made:
        await node.database.close()


@contextlib.asynccontextmanager
async def held(node: Node, statement: str, *values: object) -> AsyncIterator[None]:
    """Somebody has run ``statement`` in a transaction that lasts until the end of the block, and then commits."""
    async with node.database.reading() as connection, connection.transaction():
        await connection.execute(statement, *values)
        yield


async def waiting_for_a_lock(node: Node) -> None:
    """Until a transaction waits for what another one holds."""
    async with asyncio.timeout(30):
        while not await node.database.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)


async def test_a_device_is_made_once(nodes: tuple[Node, Node]) -> None:
    keys = [IdentityKey(f"d{number}") for number in range(200)]
    ways = [[create(key) for key in keys], [create(key) for key in reversed(keys)]]
    both = await asyncio.gather(*(node.identities.edit(HUB, edits) for node, edits in zip(nodes, ways, strict=True)))
    for key, *outcomes in zip(keys, both[0], reversed(both[1]), strict=True):
        made, refused = sorted(outcomes, key=lambda outcome: isinstance(outcome, HubError))
        assert made == identity(key)
        assert isinstance(refused, HubError)
        assert refused.row is DEVICE_EXISTS
    assert [await node.identities.counts(HUB) for node in nodes] == [Counts(200, 0)] * 2
    assert await nodes[0].database.value("SELECT count(*) FROM twins") == 200


async def test_devices_are_counted_by_many_at_once(nodes: tuple[Node, Node]) -> None:
    async def live(node: Node, number: int) -> None:
        key = IdentityKey(f"d{number}")
        await node.add(key)
        await node.identities.edit(HUB, [Edit(key, lambda _: identity(key, status=Status.DISABLED))])
        if number % 3 == 0:
            await node.drop(key)

    await asyncio.gather(*(live(nodes[number % 2], number) for number in range(120)))
    assert await nodes[1].identities.counts(HUB) == Counts(0, 80)
    assert await nodes[0].database.value("SELECT count(*) FROM identity_counts") <= 2 * 8


async def test_what_another_node_changed_is_known_once_it_is_forgotten(nodes: tuple[Node, Node]) -> None:
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


@pytest.mark.parametrize("asked_again", [True, False])
async def test_what_was_read_before_a_change_is_not_remembered_after_it(
    nodes: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch, *, asked_again: bool
) -> None:
    one, other = nodes
    await one.add(DEVICE)
    read, told, row = asyncio.Event(), asyncio.Event(), one.database.row

    async def slow_row(query: str, *values: object) -> object:
        found = await row(query, *values)
        read.set()
        await told.wait()
        return found

    monkeypatch.setattr(one.database, "row", slow_row)
    early = asyncio.ensure_future(one.identities.get(HUB, DEVICE))
    await read.wait()
    await other.identities.edit(HUB, [Edit(DEVICE, lambda _: identity(DEVICE, version=2))])
    one.identities.forget(HUB, "d")
    if asked_again:
        late = asyncio.ensure_future(one.identities.get(HUB, DEVICE))
        await asyncio.sleep(0)
    told.set()
    assert await early == identity(DEVICE)
    if asked_again:
        assert await late == identity(DEVICE, version=2), "it is not answered by what was read before it was asked"
    assert await one.identities.get(HUB, DEVICE) == identity(DEVICE, version=2)


async def test_modules_are_counted_as_they_are_when_it_is_ones_turn(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    await one.add(DEVICE)

    def at_most_three(key: IdentityKey) -> Edit:
        def change(standing: Standing) -> Identity:
            if standing.modules >= 3:
                raise HubError(PRECONDITION_FAILED)
            return identity(key)

        return Edit(key, change)

    edits = [at_most_three(IdentityKey("d", f"m{number}")) for number in range(8)]
    await asyncio.gather(*(nodes[at % 2].identities.edit(HUB, [edit]) for at, edit in enumerate(edits)))
    assert len(await other.identities.modules(HUB, "d")) == 3


async def test_twins_take_the_changes_of_all_nodes(nodes: tuple[Node, Node]) -> None:
    await nodes[0].add(DEVICE)
    made = await asyncio.gather(*(nodes[number % 2].tag(f"t{number}", number) for number in range(60)))
    assert sorted(twin.version for twin in made) == list(range(3, 63))
    twin = await nodes[0].twins.get(HUB, DEVICE)
    assert twin is not None
    assert twin.tags == {f"t{number}": number for number in range(60)}


async def test_a_twin_is_changed_behind_the_making_of_its_identity(nodes: tuple[Node, Node]) -> None:
    node, others = nodes[0], [IdentityKey(f"e{number}") for number in range(20)]
    await node.add(*others)
    change = lambda twin: patch_twin(twin, {"t": 1}, {}, 0.0)  # noqa: E731
    edits = [node.twins.edit(HUB, key, change, lambda _: None) for key in others]
    making = asyncio.ensure_future(node.add(DEVICE))
    await asyncio.sleep(0)
    made = await asyncio.gather(*edits, node.tag("t", 1), node.tag("u", 2))
    await making
    assert [len(twin.tags) for twin in made] == [1] * 21 + [2]


async def test_a_change_that_the_database_cannot_keep_fails_alone(nodes: tuple[Node, Node]) -> None:
    node, keys = nodes[0], [IdentityKey(f"d{number}") for number in range(20)]
    await node.add(*keys)
    told: list[str] = []

    def edit(key: IdentityKey) -> asyncio.Future[Twin]:
        value = "\ud800" if key.device_id == "d7" else key.device_id
        return node.twins.edit(
            HUB, key, lambda twin: replace(twin, tags={"t": value}, version=9), lambda twin: told.append(twin.tags["t"])
        )

    outcomes = await asyncio.gather(*map(edit, keys), return_exceptions=True)
    assert [key.device_id for key, one in zip(keys, outcomes, strict=True) if isinstance(one, Exception)] == ["d7"]
    assert sorted(told) == sorted(key.device_id for key in keys if key.device_id != "d7")
    for key, twin in zip(keys, await asyncio.gather(*(node.twins.get(HUB, key) for key in keys)), strict=True):
        assert twin is not None
        assert twin.tags == ({"t": key.device_id} if key.device_id != "d7" else {})


async def test_a_twin_that_is_deleted_meanwhile_is_not_changed(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    await one.add(DEVICE)
    async with held(other, "DELETE FROM twins WHERE hub = 'hub'"):
        async with other.database.reading() as connection:
            assert await connection.fetchval("SELECT count(*) FROM twins") == 1
        changing = asyncio.ensure_future(one.tag("t", 1))
        await waiting_for_a_lock(other)
    with pytest.raises(HubError) as refused:
        await changing
    assert refused.value.row is DEVICE_NOT_FOUND


async def test_no_subscription_is_left_of_who_is_deleted_meanwhile(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    await one.add(DEVICE)
    async with held(other, "DELETE FROM identities WHERE hub = 'hub'"):
        putting = one.subscriptions.put(HUB, DEVICE, "1", {"a/#": 1})
        await waiting_for_a_lock(other)
    await putting
    assert await one.subscriptions.get(HUB, DEVICE) == {}


async def test_an_entry_that_was_seen_late_is_not_taken_out_with_later_ones(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    await one.add(DEVICE)
    entry = "INSERT INTO outbox (hub, device_id, record) VALUES ('hub', 'late', '\\x31')"
    async with held(other, entry):
        await one.tag("t", 1, Entry("d", b"2"))
        ((number, found),) = await one.outbox.take(0, ALL, MUCH)
        assert found == Entry("d", b"2")
    assert [found for _, found in await one.outbox.take(number, ALL, MUCH)] == [Entry("late", b"1")]


async def test_events_of_one_device_keep_their_order_over_nodes(nodes: tuple[Node, Node]) -> None:
    await nodes[0].add(DEVICE)
    told: list[bytes] = []

    async def change(number: int) -> None:
        before: list[Twin] = []
        await nodes[number % 2].twins.edit(
            HUB,
            DEVICE,
            lambda twin: before.append(twin) or patch_twin(twin, {"n": number}, {}, 0.0),  # type: ignore[func-returns-value]
            lambda _: None,
            lambda _, after: [Entry("d", str(after.version).encode())],
        )

    changes = asyncio.gather(*(change(number) for number in range(80)))
    last = 0
    while not (changes.done() and len(told) == 80):
        found = await nodes[0].outbox.take(last, 7, MUCH)
        told += [entry.record for _, entry in found]
        last = found[-1].number if found else last
    assert told == [str(version).encode() for version in range(3, 83)]


async def test_many_are_looked_up_in_few_statements_and_none_spoils_the_others(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    keys = [IdentityKey(f"d{number}") for number in range(300)]
    await one.add(*keys)
    asked = 0
    fetch, row = other.database.fetch, other.database.row

    async def counting(query: str, *values: object) -> object:
        nonlocal asked
        asked += 1
        return await fetch(query, *values)

    other.database.fetch = counting  # type: ignore[assignment, method-assign]
    odd = [IdentityKey("no\0ne"), IdentityKey("\ud800"), IdentityKey("d0", "\ud800"), IdentityKey("d0", "m")]
    found = await asyncio.gather(*(other.identities.get(HUB, key) for key in [*keys, *odd, *keys]))
    assert [one.key for one in found if one is not None] == keys * 2
    assert asked == 2
    assert await other.identities.get(HUB, keys[0]) is found[0]
    assert await row("SELECT 1") is not None


@pytest.mark.parametrize("analyzed", [False, True])
async def test_changes_read_what_they_are_about_and_no_whole_tables(url: str, *, analyzed: bool) -> None:
    node = Node(url, lanes=1)
    await node.database.open()
    await node.add(*(IdentityKey(f"d{number}") for number in range(20)))
    more = "FROM generate_series(1, 20000) AS n"
    copy = [
        "INSERT INTO identities (hub, device_id, module_id, generation_id, version, authentication, status, "
        f"status_updated, iot_edge) SELECT 'hub', 'e' || n, '', '1', 1, 'sas', 'enabled', 0, false {more}",
        f"INSERT INTO twins (hub, device_id, module_id) SELECT 'hub', 'e' || n, '' {more}",
        f"INSERT INTO outbox (hub, device_id, record) SELECT 'hub', 'e' || n, '' {more}",
        *(["ANALYZE"] if analyzed else []),
    ]
    for statement in copy:
        await node.database.fetch(statement)
    keys = [IdentityKey(f"{letter}{number}") for letter in "de" for number in range(1, 20)]
    change = lambda twin: patch_twin(twin, {"t": 1}, {}, 0.0)  # noqa: E731
    told = 0
    for _ in range(8):  # the server plans anew five times, then it has a plan for all values
        edits = [node.twins.edit(HUB, key, change, lambda _: None, lambda *_: [Entry("d", b"1")]) for key in keys]
        adding, taking = node.add(*keys), node.outbox.take(told, 100, MUCH)
        reading = asyncio.gather(*edits, adding, taking, node.database.submit("~~~", rows_read))
        *_, taken, rows = await reading
        told = taken[-1].number
        assert rows < 5000
    await node.database.close()


async def rows_read(step: Step) -> int:
    """How many rows the transaction has read by now."""
    tables = "relname ~ '^(identities|twins|outbox)_[0-9]+$'"
    rows: int = await step.value(
        f"SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_xact_user_tables WHERE {tables}"
    )
    return rows


async def test_a_value_that_the_database_cannot_take_fails_alone(nodes: tuple[Node, Node]) -> None:
    database = nodes[0].database

    def put(name: object) -> Callable[[Step], object]:
        async def work(step: Step) -> None:
            await step.write("INSERT INTO settings (name, value) VALUES ($1, '')", name)

        return work

    names = ["a", "\0", "b", "\ud800", 7, "c"]
    outcomes = await asyncio.gather(*(database.submit("p", put(name)) for name in names), return_exceptions=True)  # type: ignore[arg-type]
    assert [type(outcome) for outcome in outcomes] == [type(None), HubError] * 2 + [HubError, type(None)]
    assert {outcome.row for outcome in outcomes if isinstance(outcome, HubError)} == {SERVER_ERROR}
    assert [await nodes[0].settings.get_setting(name) for name in "abc"] == [b"", b"", b""]


async def test_nothing_is_left_of_a_hub_and_all_of_the_others(nodes: tuple[Node, Node]) -> None:
    node = nodes[0]
    for hub in ("gone", "gone2", "stays"):
        await node.add(*(IdentityKey(f"d{number}") for number in range(SLICE // 8)), IdentityKey("d0", "m"), hub=hub)
        await node.subscriptions.put(hub, IdentityKey("d0"), "1", {"a/#": 1})
        await node.uploads.begin(hub, Slot("c", "d0", "f", 1.0), 0.0, 3)
        PostgresOutbox(node.database, hub).put([Entry("d", b"1")])
        await node.settings.put_settings({f"{hub}/name": b"1"})
    await node.settings.put_settings({f"gone/{number}": b"" for number in range(SLICE + 10)})
    tables = "SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = oid " \
        "WHERE attname = 'hub' AND relkind IN ('r', 'p') AND NOT relispartition"  # fmt: skip
    names = [name for (name,) in await node.database.fetch(tables)]
    before = {name: await _rows(node, name) for name in names}
    await asyncio.gather(*(forget_hub(other.database, "gone") for other in nodes))
    await forget_hub(node.database, "gone")
    for name in names:
        assert await _rows(node, name) == {hub: rows for hub, rows in before[name].items() if hub != "gone"}
    kept = await node.database.fetch("SELECT name FROM settings ORDER BY name")
    assert [name for (name,) in kept] == ["gone2/name", "stays/name"]
    assert {"identities", "twins", "identity_counts", "subscriptions", "uploads", "outbox"} <= set(names)


async def _rows(node: Node, table: str) -> dict[str, int]:
    return dict(await node.database.fetch(f"SELECT hub, count(*) FROM {table} GROUP BY hub"))  # type: ignore[arg-type]


async def test_one_node_takes_events_until_it_has_gone(url: str) -> None:
    databases = [Database(url), Database(url)]
    for database in databases:
        await database.open()
    first, second = (PostgresOutbox(database, HUB) for database in databases)
    assert await first.take(0, ALL, MUCH) == []  # its turn now
    second.put([Entry("d", b"1")])
    assert await second.take(0, ALL, MUCH) == []
    assert [entry for _, entry in await first.take(0, ALL, MUCH)] == [Entry("d", b"1")]
    await databases[0].close()  # without having told of it
    while not (found := await second.take(0, ALL, MUCH)):
        await asyncio.sleep(0.05)
    assert [entry for _, entry in found] == [Entry("d", b"1")]
    assert await second.take(found[-1].number, ALL, MUCH) == []
    assert await databases[1].value("SELECT count(*) FROM outbox") == 0
    await databases[1].close()
