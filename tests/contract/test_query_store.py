"""What a ``QueryStore`` promises beside what queries mean: pages, indexes, slices, and that nothing can be put in."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from query_hub import SAS, Place, QueryHub

from muster.core import query_limits as limits
from muster.core.errors import ARGUMENT_INVALID, THROTTLED, UNAVAILABLE, HubError
from muster.identity.model import Identity, IdentityKey
from muster.stores.postgres.property_indexes import PostgresPropertyIndexes
from muster.stores.sql.query_statements import statements_of
from muster.stores.sqlite.property_indexes import SqlitePropertyIndexes
from muster.twins.query.parser import parse_query

COUNT = 23


async def fill(hub: QueryHub, count: int = COUNT) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            tags = {"n": number, "even": number % 2 == 0, "s": f"v{number % 3}"}
            group.create_task(hub.add(f"d{number:03}", tags=tags))


@pytest.fixture
async def hub(place: Place) -> AsyncIterator[QueryHub]:
    async with place.open(["tags.s", "properties.reported.[[a b'c]]"]) as hub:
        await fill(hub)
        yield hub


def names(rows: list[Any]) -> list[str]:
    return [row["deviceId"] for row in rows]


# --- pages


@pytest.mark.parametrize("condition", ["", " WHERE tags.even", " WHERE tags.s = 'v1'", " WHERE tags.n + 1 > 5"])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
async def test_pages_give_every_row_once(hub: QueryHub, condition: str, size: int) -> None:
    query = f"SELECT deviceId FROM devices{condition}"
    pages = await hub.pages(query, size)
    assert [row for page in pages for row in page] == (await hub.pages(query, 1000))[0]
    assert all(len(page) == size for page in pages[:-1])
    assert pages[-1], "the last page is not an empty one"


async def test_the_default_page_has_100_rows_and_the_largest_1000(hub: QueryHub) -> None:
    await fill(hub, 101)
    assert [len(page) for page in await hub.pages("SELECT deviceId FROM devices")] == [100, 1]
    assert [len(page) for page in await hub.pages("SELECT deviceId FROM devices", 5000)] == [101]


async def test_top_bounds_the_whole_result(hub: QueryHub) -> None:
    assert [len(page) for page in await hub.pages("SELECT TOP 7 deviceId FROM devices", 3)] == [3, 3, 1]
    assert [len(page) for page in await hub.pages("SELECT TOP 6 deviceId FROM devices", 3)] == [3, 3]
    assert [len(page) for page in await hub.pages("SELECT TOP 2 COUNT() FROM devices GROUP BY tags.n", 1)] == [1, 1]


async def test_changes_between_pages_neither_hide_nor_repeat_what_stays(hub: QueryHub) -> None:
    stays = {f"d{number:03}" for number in range(COUNT)} - {"d001", "d004", "d020"}
    seen: list[str] = []
    continuation = None
    for step in range(COUNT):
        answer = await hub.queries.page("SELECT deviceId FROM devices", 4, continuation)
        seen += [json.loads(row)["deviceId"] for row in answer.rows]
        continuation = answer.continuation
        if continuation is None:
            break
        if step < 3:
            await hub.drop(("d001", "d004", "d020")[step])
            await hub.add(f"d{step:03}x")  # before, at or behind where the pages are
            await hub.change(IdentityKey("d010"), tags={"n": f"changed {step}"})
    assert len(seen) == len(set(seen))
    assert stays <= set(seen)


async def test_pages_of_groups_while_rows_change(hub: QueryHub) -> None:
    query = "SELECT tags.n, COUNT() AS c FROM devices GROUP BY tags.n"
    first = await hub.queries.page(query, 10)
    await hub.add("zzz", tags={"n": 5})
    second = await hub.queries.page(query, 100, first.continuation)
    rows = [json.loads(row)["n"] for row in (*first.rows, *second.rows)]
    assert sorted(rows) == list(range(COUNT))


async def test_a_page_ends_with_the_row_that_makes_it_large(hub: QueryHub, monkeypatch: pytest.MonkeyPatch) -> None:
    small = limits.QUERY_PAGE_BYTES._replace(open=2000)
    monkeypatch.setattr("muster.stores.sql.query_pages.QUERY_PAGE_BYTES", small)
    pages = await hub.pages("SELECT * FROM devices")
    assert [row["deviceId"] for page in pages for row in page] == [f"d{number:03}" for number in range(COUNT)]
    sizes = [sum(len(json.dumps(row, separators=(",", ":"))) for row in page) for page in pages]
    assert max(sizes) < 2000 + 1500
    assert len(pages) > 5
    groups = await hub.pages("SELECT properties, tags.n AS n, COUNT() AS c FROM devices GROUP BY properties, tags.n")
    assert sorted((row["n"], row["c"]) for page in groups for row in page) == [(number, 1) for number in range(COUNT)]
    assert len(groups) > 1
    assert all(page for page in groups)


@pytest.mark.parametrize(
    "continuation", ["x", "", "W10=", "eyJhIjoxfQ==", "bnVsbA==", "W1siYSJdXQ==", "é", "[" * 5000, "A" * 4000]
)
async def test_a_continuation_that_was_not_given_is_refused(hub: QueryHub, continuation: str) -> None:
    with pytest.raises(HubError, match="x-ms-continuation") as caught:
        await hub.queries.page("SELECT * FROM devices", 1, continuation)
    assert caught.value.row is ARGUMENT_INVALID


async def test_a_continuation_is_bound_to_its_query(hub: QueryHub) -> None:
    rows = (await hub.queries.page("SELECT * FROM devices", 1)).continuation
    for other in (
        "SELECT * FROM  devices",
        "SELECT deviceId FROM devices",
        "SELECT COUNT() FROM devices GROUP BY etag",
    ):
        with pytest.raises(HubError, match="not one that this query gave"):
            await hub.queries.page(other, 1, rows)


# --- what is seen


async def test_a_query_sees_every_change_that_was_answered(hub: QueryHub) -> None:
    for number in range(20):
        await hub.change(IdentityKey("d001"), tags={"s": f"new {number}"}, reported={"a b'c": number})
        assert await hub.ids(f"tags.s = 'new {number}'") == "d001"
        assert await hub.ids(f"properties.reported.[[a b'c]] = {number}") == "d001"
        assert await hub.ids(f"tags.s = 'new {number - 1}'") == ""


async def test_a_deleted_device_and_its_modules_are_gone(hub: QueryHub) -> None:
    await hub.add("d001", "m")
    await hub.drop("d001")
    assert await hub.ids("deviceId = 'd001'") == ""
    assert await hub.rows("SELECT * FROM devices.modules") == []


async def test_another_hub_of_the_database_is_not_seen(hub: QueryHub) -> None:
    page = await hub.store.page("another", parse_query("SELECT * FROM devices"), None, 100)
    assert page == ([], None)
    page = await hub.store.page("another", parse_query("SELECT COUNT() AS n FROM devices WHERE tags.s = 'v1'"), None, 9)
    assert page.rows == [b'{"n":0}']


async def test_connection_state_is_that_of_the_moment(hub: QueryHub) -> None:
    hub.presence.keys |= {IdentityKey("d003"), IdentityKey("d004", "m")}
    assert await hub.ids("connectionState = 'Connected'") == "d003"
    (row,) = await hub.rows("SELECT * FROM devices WHERE connectionState = 'Connected'")
    assert (row["deviceId"], row["connectionState"]) == ("d003", "Connected")
    hub.presence.keys.clear()
    assert await hub.ids("connectionState = 'Connected'") == ""


# --- indexes


async def test_indexes_come_and_go_with_their_properties(place: Place) -> None:
    async with place.open(["tags.s", "TAGS.n"]) as hub:
        await fill(hub)
        before = await place.indexes()
        assert len(before) == 2
    async with place.open(["tags.s", "properties.desired.x[0]"]) as hub:
        assert len(await place.indexes()) == 2
        assert len(await place.indexes() & before) == 1
        assert await hub.ids("tags.s = 'v1' AND tags.n < 5") == "d001 d004"
        await hub.change(IdentityKey("d002"), desired={"x": [True]})
        assert await hub.ids("properties.desired.x[0] = true") == "d002"
        assert await hub.ids("properties.desired.x[0] = 1") == ""
    async with place.open():
        assert await place.indexes() == set()


@pytest.mark.parametrize(
    "path", ["deviceId", "tags", "properties.desired", "properties.reported.$version", "tags.", "x"]
)
def test_only_properties_can_be_indexed(path: str) -> None:
    with pytest.raises(HubError, match="cannot be indexed, name a property"):
        SqlitePropertyIndexes([path])


def test_indexes_are_bounded() -> None:
    with pytest.raises(HubError, match="33 properties are to be indexed, 32 are allowed"):
        SqlitePropertyIndexes([f"tags.t{number}" for number in range(33)])


# --- work


async def test_the_loop_goes_on_while_a_query_reads(place: Place) -> None:
    """A condition that takes the reader long, and others that pass it by, also on the same two threads."""
    async with place.open(slice_size=5) as hub:
        await fill(hub, 60)
        order: list[str] = []

        async def ask(condition: str, name: str) -> None:
            await hub.ids(condition)
            order.append(name)

        slow = " OR ".join(["CONTAINS(LOWER(CONCAT(tags.s, deviceId)), 'zzz')"] * 100)
        long = [asyncio.create_task(ask(slow, "slow")) for _ in range(3)]
        turns = 0
        while not hub.store._running:
            await asyncio.sleep(0)
        quick = asyncio.create_task(ask("deviceId = 'd001'", "quick"))
        while not all(task.done() for task in (*long, quick)):
            await asyncio.sleep(0)
            turns += 1
        assert order[0] == "quick"
        assert turns > 50


async def test_a_query_that_is_given_up_stops(hub: QueryHub) -> None:
    task = asyncio.create_task(hub.ids("tags.n = 99"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert hub.store._running == 0
    assert await hub.ids("tags.n = 3") == "d003"


async def test_queries_in_progress_are_bounded(hub: QueryHub, monkeypatch: pytest.MonkeyPatch) -> None:
    few = limits.QUERIES_IN_PROGRESS._replace(open=2)
    monkeypatch.setattr("muster.stores.sql.query_pages.QUERIES_IN_PROGRESS", few)
    outcomes = await asyncio.gather(*(hub.ids("tags.n = 3") for _ in range(5)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, HubError)]
    assert [error.row for error in refused] == [THROTTLED] * 3
    assert await hub.ids("tags.n = 3") == "d003"


async def test_after_its_end_a_store_refuses(hub: QueryHub) -> None:
    await hub.store.close()
    with pytest.raises(HubError) as caught:
        await hub.ids("tags.n = 3")
    assert caught.value.row is UNAVAILABLE


LARGEST = 8000


@pytest.mark.parametrize(
    "condition",
    [
        " OR ".join(["tags.n=1"] * 620),
        "tags.n IN [" + ",".join(map(str, range(1700))) + "]",
        "CONCAT(" + ",".join(["tags.s"] * 1000) + ")='x'",
        "(" * 60 + "tags.n=1" + ")" * 60,
        "NOT " * 60 + "tags.even",
        "-(" * 30 + "tags.n" + ")" * 30 + "=1",
        "ABS(" * 60 + "tags.n" + ")" * 60 + "=1",
        "+".join(["tags.n"] * 60) + ">1",
        "(" * 40 + "tags.even IN [true,null]" + ") IN [true,null]" * 40,
        "(" * 40 + "tags.even" + ")=tags.even" * 40,
        "(" * 40 + "tags.even" + ")!=statusReason" * 40,
        "ARRAY_CONTAINS(tags.s," * 50 + "tags.s" + ")" * 50,
        " AND ".join(f"tags.t{number}.u.v='x'" for number in range(330)),
        "".join(f"({' OR '.join(['tags.even'] * 20)}) AND (" for _ in range(30)) + "true" + ")" * 30,
    ],
)
async def test_the_largest_queries_run(hub: QueryHub, condition: str) -> None:
    assert len(condition) < LARGEST
    await hub.ids(condition)


async def test_many_columns_and_groups(hub: QueryHub) -> None:
    columns = ",".join(f"tags.a{number}" for number in range(100))
    assert await hub.rows(f"SELECT {columns} FROM devices") == [{}] * COUNT
    with pytest.raises(HubError, match="a query has 100 columns at most"):
        await hub.rows(f"SELECT {columns},tags.x FROM devices")
    aggregates = ",".join(f"AVG(tags.n) AS a{number}" for number in range(100))
    assert len((await hub.rows(f"SELECT {aggregates} FROM devices"))[0]) == 100
    groups = ",".join(f"tags.a{number}" for number in range(32))
    assert await hub.rows(f"SELECT COUNT() AS n FROM devices GROUP BY {groups}") == [{"n": COUNT}]
    with pytest.raises(HubError, match="GROUP BY takes 32 paths at most"):
        await hub.rows(f"SELECT COUNT() AS n FROM devices GROUP BY {groups},tags.x")


# --- nothing can be put into the statement

INJECTIONS = (
    "'; DROP TABLE twins; --", "' OR '1'='1", "\\' OR 1=1 --", '" OR 1=1 --', "x') UNION SELECT 1 --",
    "$.a') = 'x' OR (1=1", "a\"]'); DELETE FROM identities; --", ":hub", "?1", "@p", "/*", "*/",
    "--", ";", "\\", "%", "_",
)  # fmt: skip


@pytest.mark.parametrize("text", INJECTIONS)
async def test_text_of_users_is_never_part_of_a_statement(hub: QueryHub, text: str) -> None:
    literal = json.dumps(text)
    for condition in (
        f"tags.s = {literal}", f"tags.s IN [{literal}, 'y']", f"deviceId = {literal}", f"tags.[[{text}]] = 1",
        f"properties.reported.[[{text}]].$metadata = {literal}", f"CONTAINS(tags.s, {literal})",
        f"ARRAY_CONTAINS([{literal}], tags.s)",
    ):  # fmt: skip
        assert await hub.ids(condition) == "", condition
        query = parse_query(f"SELECT * FROM devices WHERE {condition}")
        for indexes in (SqlitePropertyIndexes(()), PostgresPropertyIndexes(())):
            if len(text) > 4:
                assert text not in statements_of(query, "hub", indexes).rows
    rows = await hub.rows(f"SELECT tags.[[{text}]] AS [[{text}]], deviceId FROM devices WHERE tags.n = 1")
    assert rows == [{"deviceId": "d001"}]
    assert len(await hub.rows("SELECT deviceId FROM devices")) == COUNT


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a\\b", "'||x||'", "') --"])
async def test_names_of_indexed_properties_are_quoted(place: Place, name: str) -> None:
    async with place.open([f"tags.[[{name}]]"]) as hub:
        await hub.add("d", tags={name: "x"})
        await hub.add("e", tags={name: 1})
        assert await hub.ids(f"tags.[[{name}]] = 'x'") == "d"
        assert await hub.ids(f"tags.[[{name}]] IN [1, true]") == "e"


async def test_keys_are_not_among_the_fields(hub: QueryHub) -> None:
    await hub.put(Identity(key=IdentityKey("k"), generation_id="1", version=1, authentication=SAS))
    with pytest.raises(HubError, match="no field 'primary_key'"):
        await hub.rows("SELECT primary_key FROM devices")
    assert await hub.rows("SELECT authentication FROM devices WHERE deviceId = 'k'") == [{}]


async def test_the_model_that_a_device_announced_is_found(hub: QueryHub) -> None:
    model = "dtmi:com:example:Thermostat;1"
    await hub.twins.edit(hub.name, IdentityKey("d001"), lambda twin: replace(twin, model_id=model), lambda _: None)
    assert names(await hub.rows(f"SELECT deviceId FROM devices WHERE modelId = '{model}'")) == ["d001"]
    (row,) = await hub.rows("SELECT * FROM devices WHERE modelId != ''")
    assert row["modelId"] == model


async def test_messages_that_wait_are_counted_for_devices_and_modules(hub: QueryHub) -> None:
    await hub.add("d001", "m")
    for queue, count in (("d001", 2), ("d001/m", 1), ("d002", 1)):
        await hub.wait(queue, count)
    rows = await hub.rows("SELECT * FROM devices WHERE cloudToDeviceMessageCount > 1")
    assert [(row["deviceId"], row["cloudToDeviceMessageCount"]) for row in rows] == [("d001", 2)]
    assert await hub.rows("SELECT SUM(cloudToDeviceMessageCount) AS n FROM devices") == [{"n": 3}]
    assert await hub.rows("SELECT moduleId, cloudToDeviceMessageCount AS n FROM devices.modules") == [
        {"moduleId": "m", "n": 1}
    ]
