"""By which way the databases get at the rows of a query."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest
from query_hub import NOW, SCOPE, Connected, PostgresPlace, SqlitePlace

from muster.stores.postgres.property_indexes import PostgresPropertyIndexes
from muster.stores.postgres.query_texts import text_of
from muster.stores.sql.query_statements import statements_of
from muster.stores.sqlite.database import open_connection
from muster.stores.sqlite.property_indexes import SqlitePropertyIndexes
from muster.stores.sqlite.query_functions import Activities, register
from muster.twins.query.parser import parse_query
from tests.postgres import new_database

HUB = "hub"
BETWEEN = {"device": "", "module": "", "last_device": "~", "last_module": "", "limit": 1, "slice": 9, "name": ""}


def by_sqlite(path: Path, query: str, indexed: tuple[str, ...]) -> str:
    """How SQLite goes about the rows of a query."""
    statements = statements_of(parse_query(query), HUB, SqlitePropertyIndexes(indexed))
    connection = open_connection(path, readonly=True)
    try:
        register(connection, Activities(Connected()))
        values = statements.bindings | BETWEEN
        return "; ".join(str(row[-1]) for row in connection.execute(f"EXPLAIN QUERY PLAN {statements.rows}", values))
    finally:
        connection.close()


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    place = SqlitePlace(tmp_path / "hub.db")
    async with place.open(["tags.s"]):
        return place.path


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("tags.s = 'v1'", "SEARCH t USING INDEX twin_property_"),
        ("'v1' = tags.s AND tags.n > 3", "SEARCH t USING INDEX twin_property_"),
        ("tags.n > 3 AND (tags.even AND tags.s IN ['v1', 'v2'])", "SEARCH t USING INDEX twin_property_"),
        ("deviceId = 'd001' AND tags.s = 'v1'", "SEARCH i USING PRIMARY KEY (hub=? AND device_id=?"),
        ("deviceId IN ['d001', 'd002']", "SEARCH i USING PRIMARY KEY (hub=? AND device_id=?"),
        ("status = 'disabled'", "SEARCH i USING INDEX identities_disabled"),
        ("capabilities.iotEdge = true", "SEARCH i USING INDEX identities_edge"),
        ("capabilities.iotEdge", "SEARCH i USING INDEX identities_edge"),
        (f"deviceScope = '{SCOPE}'", "SEARCH i USING INDEX identities_by_scope"),
        ("tags.n = 3", "SEARCH t USING PRIMARY KEY (hub=?"),
        ("tags.s = 'v1' OR tags.n = 3", "SEARCH t USING PRIMARY KEY (hub=?"),
        ("NOT tags.s = 'v1'", "SEARCH t USING PRIMARY KEY (hub=?"),
        ("tags.n = 3 AND status = 'enabled'", "SEARCH i USING PRIMARY KEY (hub=?"),
        ("status = 'enabled'", "SEARCH i USING PRIMARY KEY (hub=?"),
    ],
)
async def test_sqlite_searches_what_is_indexed(path: Path, condition: str, expected: str) -> None:
    shown = by_sqlite(path, f"SELECT * FROM devices WHERE {condition}", ("tags.s",))
    assert shown.startswith(expected), shown
    assert "SCAN" not in shown
    if "IN ['v1'" not in condition:
        assert "TEMP B-TREE" not in shown


async def test_sqlite_finds_modules_by_their_id(path: Path) -> None:
    shown = by_sqlite(path, "SELECT * FROM devices.modules WHERE moduleId = '$edgeAgent'", ())
    assert shown.startswith("SEARCH i USING INDEX identities_by_module")


@pytest.mark.parametrize("indexes", [SqlitePropertyIndexes(()), PostgresPropertyIndexes(())])
def test_fields_of_one_table_do_not_read_the_other(indexes: SqlitePropertyIndexes | PostgresPropertyIndexes) -> None:
    assert "twins" not in statements_of(parse_query("SELECT COUNT() FROM devices"), HUB, indexes).rows
    query = parse_query("SELECT deviceId, tags.n FROM devices WHERE tags.n > 3")
    assert "identities" not in statements_of(query, HUB, indexes).rows


async def by_postgres(url: str, query: str, indexed: tuple[str, ...]) -> str:
    """How PostgreSQL goes about the rows of a query, if it may use indexes; of small tables it reads all."""
    statements = statements_of(parse_query(query), HUB, PostgresPropertyIndexes(indexed))
    rows = text_of(statements.rows, statements.bindings)
    connection = await asyncpg.connect(url, server_settings={"enable_seqscan": "off", "enable_bitmapscan": "off"})
    try:
        plan = await connection.fetch(f"EXPLAIN {rows.sql}", *rows.values(statements.bindings | BETWEEN))
        return "\n".join(row[0] for row in plan)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def url() -> str:
    return new_database()


@pytest.mark.parametrize(
    ("condition", "expected", "partitions"),
    [
        ("tags.s = 'v1'", "Index Scan using twin_property_", 16),
        ("'v1' = tags.s AND tags.n > 3", "Index Scan using twin_property_", 16),
        ("tags.n > 3 AND (tags.even AND tags.s IN ['v1'])", "Index Scan using twin_property_", 16),
        ("deviceId = 'd001' AND tags.s = 'v1'", "Index Scan using identities_", 1),
        ("status = 'disabled'", "_hub_device_id_module_id_idx on identities_", 16),
        (f"deviceScope = '{SCOPE}'", "_hub_device_scope_device_id_module_id_idx on identities_", 16),
    ],
)
async def test_postgres_searches_what_is_indexed(url: str, condition: str, expected: str, partitions: int) -> None:
    async with PostgresPlace(url, HUB).open(["tags.s"]) as hub:
        await hub.add("d001", tags={"s": "v1"}, status_updated=NOW)
    shown = await by_postgres(url, f"SELECT * FROM devices WHERE {condition}", ("tags.s",))
    assert shown.count(expected) == partitions, shown
    assert "Sort  " not in shown
