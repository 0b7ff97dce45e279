"""The device query language, query by query, on a store (``query_table``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from query_hub import Place, QueryHub, populate
from query_table import CONDITIONS, QUERIES


@pytest.fixture
async def hub(place: Place) -> AsyncIterator[QueryHub]:
    async with place.open() as hub:
        await populate(hub)
        yield hub


async def test_conditions(hub: QueryHub) -> None:
    wrong = {}
    for condition, expected in CONDITIONS:
        found = await hub.ids(condition)
        if found != expected:
            wrong[condition] = (found, expected)
    assert not wrong


def in_any_order(rows: list[Any]) -> list[str]:
    return sorted(repr(sorted(row.items(), key=repr)) for row in rows)


@pytest.mark.parametrize("size", [None, 1])
async def test_queries(hub: QueryHub, size: int | None) -> None:
    wrong = {}
    for query, expected in QUERIES:
        found = await hub.rows(query, size)
        if in_any_order(found) != in_any_order(expected):
            wrong[query] = (found, expected)
    assert not wrong


def test_the_table_is_large_and_says_nothing_twice() -> None:
    queries = [condition for condition, _ in CONDITIONS] + [query for query, _ in QUERIES]
    assert len(set(queries)) == len(queries) >= 120


@pytest.mark.parametrize("modules", [False, True])
async def test_a_star_answers_twins_as_they_are_read_one_by_one(hub: QueryHub, modules: bool) -> None:
    source = "devices.modules" if modules else "devices"
    assert await hub.rows(f"SELECT * FROM {source}", 2) == await hub.bodies(modules)


async def test_every_field_is_projected_as_the_twin_shows_it(hub: QueryHub) -> None:
    names = {name for body in await hub.bodies() for name in body}
    rows = await hub.rows(
        f"SELECT {', '.join(sorted(names))}, properties.desired AS d, properties.reported AS r FROM devices"
    )
    for row, body in zip(rows, await hub.bodies(), strict=True):
        assert (row.pop("d"), row.pop("r")) == (body["properties"]["desired"], body["properties"]["reported"])
        assert row == body


async def test_every_field_can_be_grouped_and_compared(hub: QueryHub) -> None:
    names = [name for body in await hub.bodies() for name in body]
    fields = sorted(
        {*names, "moduleId", "configurations", "generationId", "properties.desired", "capabilities.iotEdge"}
    )
    for name in fields:
        rows = await hub.rows(f"SELECT COUNT() AS n, MAX({name}) AS m FROM devices GROUP BY {name}")
        assert sum(row["n"] for row in rows) == 7, name
        for condition in (f"{name} = {name}", f"{name} IN ['x', 1, true, null]", f"{name}", f"IS_DEFINED({name})"):
            await hub.ids(condition)
    together = await hub.rows(f"SELECT COUNT() AS n FROM devices GROUP BY {', '.join(fields)}")
    assert together == [{"n": 1}] * 7
