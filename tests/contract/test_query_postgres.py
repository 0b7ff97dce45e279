"""What is true of queries on PostgreSQL alone: indexes that several nodes make, what waits in the server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
from query_hub import PostgresPlace, QueryHub

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.identity.model import IdentityKey
from muster.stores.sql.property_indexes import PREFIX
from muster.twins.query.service import Answer, Queries
from tests.postgres import new_database

INDEXED = ["tags.s", "tags.[[a'b]][0].c"]
STATES = (
    "SELECT c.relname, x.indisvalid FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid "
    "WHERE starts_with(c.relname, $1) ORDER BY 1"
)


@pytest.fixture
def place() -> PostgresPlace:
    return PostgresPlace(new_database(), "hub")


@pytest.fixture
async def beside(place: PostgresPlace) -> AsyncIterator[asyncpg.Connection]:
    """Another client of the database."""
    connection = await asyncpg.connect(place.url)
    try:
        yield connection
    finally:
        await connection.close()


async def test_nodes_that_start_together_make_each_index_once(place: PostgresPlace, beside: asyncpg.Connection) -> None:
    async def start() -> None:
        async with place.open(INDEXED):
            pass

    await asyncio.gather(*(start() for _ in range(4)))
    states = await beside.fetch(STATES, PREFIX)
    assert len(states) == len(INDEXED) * 16
    assert all(valid for _, valid in states)


async def test_an_index_whose_making_was_cut_off_is_made_anew(place: PostgresPlace, beside: asyncpg.Connection) -> None:
    async with place.open(INDEXED) as hub:
        await hub.add("d", tags={"s": "x"})
    ((name, _), *_) = await beside.fetch(STATES, PREFIX)
    await beside.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::regclass", name)
    async with place.open(INDEXED) as hub:
        assert all(valid for _, valid in await beside.fetch(STATES, PREFIX))
        assert await hub.ids("tags.s = 'x'") == "d"


async def test_an_indexed_property_may_be_as_long_as_a_string_of_a_twin(place: PostgresPlace) -> None:
    """A btree would take no entry of more than a third of a page."""
    longest = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(64))
    assert len(longest) == 4096
    async with place.open(INDEXED) as hub:
        await hub.add("d", tags={"s": longest, "a'b": [{"c": longest}]})
        await hub.add("e", tags={"s": longest[:-1], "a'b": {"c": longest}})
        assert await hub.ids(f"tags.s = '{longest}'") == "d"
        assert await hub.ids(f"tags.[[a'b]][0].c = '{longest}'") == "d"


async def test_a_scalar_is_not_its_own_first_item(place: PostgresPlace) -> None:
    async with place.open(["tags.x[0]"]) as hub:
        await hub.add("a", tags={"x": "v"})
        await hub.add("b", tags={"x": ["v"]})
        await hub.add("c", tags={"x": {"0": "v"}})
        assert await hub.ids("tags.x[0] = 'v'") == "b"
        assert await hub.ids("IS_DEFINED(tags.x[0])") == "b"
        assert await hub.ids("IS_DEFINED(tags.x[0][0]) OR tags.x[1] = 'v'") == ""


async def test_a_query_that_is_given_up_ends_in_the_server_too(
    place: PostgresPlace, beside: asyncpg.Connection
) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'muster'"
    async with place.open() as hub:
        await hub.add("d", tags={"s": "x"})
        async with beside.transaction():
            await beside.execute("LOCK TABLE twins")
            asked = asyncio.create_task(hub.ids("tags.s = 'x'"))
            while not await beside.fetchval(waiting):
                await asyncio.sleep(0.01)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            while await beside.fetchval(waiting):
                await asyncio.sleep(0.01)
        assert await hub.ids("tags.s = 'x'") == "d"


def continuation(hub: QueryHub, text: str, *after: str) -> str:
    """One that a client has made up, with the digest that the hub asks for."""
    digest = Queries(hub.name, hub.store)._digest(text)
    return base64.urlsafe_b64encode(json.dumps([digest, None, after]).encode()).decode()


@pytest.mark.parametrize("odd", ["\0", "\1", "\udc80", "😀", "'", "~" * 3000])
async def test_positions_that_clients_make_up_do_no_harm(place: PostgresPlace, odd: str) -> None:
    rows, groups = "SELECT deviceId FROM devices", "SELECT tags.s, COUNT() AS n FROM devices GROUP BY tags.s"
    async with place.open() as hub:
        await hub.add("d", tags={"s": "x"})
        for text, after in ((rows, (odd, odd)), (groups, (odd,))):
            asked = hub.queries.page(text, 10, continuation(hub, text, *after))
            (outcome,) = await asyncio.gather(asked, return_exceptions=True)
            refused = isinstance(outcome, HubError) and outcome.row is ARGUMENT_INVALID
            assert refused if odd == "\udc80" else isinstance(outcome, Answer), outcome
        assert await hub.rows(rows) == [{"deviceId": "d"}]


async def test_more_than_is_read_at_once_comes_in_one_page(place: PostgresPlace) -> None:
    async with place.open(slice_size=5000) as hub:
        async with asyncio.TaskGroup() as group:
            for number in range(230):
                group.create_task(hub.add(f"d{number:03}", tags={"n": number}))
        for condition in ("", " WHERE tags.n >= 0", " WHERE connectionState = 'Disconnected'"):
            assert [len(page) for page in await hub.pages(f"SELECT * FROM devices{condition}", 1000)] == [230]
        hub.presence.keys.add(IdentityKey("d017"))
        assert await hub.rows("SELECT connectionState AS c, COUNT() AS n FROM devices GROUP BY connectionState") in (
            [{"c": "Connected", "n": 1}, {"c": "Disconnected", "n": 229}],
            [{"c": "Disconnected", "n": 229}, {"c": "Connected", "n": 1}],
        )
