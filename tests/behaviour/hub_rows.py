"""What stands in the database of a node, SQLite or PostgreSQL."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import apsw
import asyncpg

Rows = dict[str, list[str]]
_TABLES = """
    SELECT relname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    WHERE attname = 'hub' AND relkind IN ('r', 'p') AND NOT relispartition AND relnamespace = 'public'::regnamespace
"""


async def rows_of(data: Path, database: str, hub: str) -> Rows:
    """All rows under the name of ``hub`` by their table, as text, and as ``settings`` those of all hubs.

    ``database`` is a URL, or empty for the file in the directory ``data``.
    """
    found = await _in_postgres(database, hub) if database else _in_sqlite(data / "hub.db", hub)
    return {table: sorted(map(repr, rows)) for table, rows in found.items()}


def _in_sqlite(path: Path, hub: str) -> dict[str, Any]:
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        found: dict[str, Any] = {}
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            columns = [name for name, *_ in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            if "hub" in columns:
                found[table] = connection.execute(f"SELECT * FROM {table} WHERE hub = ?", (hub,)).fetchall()
        found["settings"] = connection.execute("SELECT name, value FROM settings").fetchall()
        return found


async def _in_postgres(url: str, hub: str) -> dict[str, Any]:
    connection = await asyncpg.connect(url)
    try:
        found: dict[str, Any] = {}
        for (table,) in await connection.fetch(_TABLES):
            found[table] = map(tuple, await connection.fetch(f'SELECT * FROM "{table}" WHERE hub = $1', hub))
        found["settings"] = map(tuple, await connection.fetch("SELECT name, value FROM settings"))
        return found
    finally:
        await connection.close()
