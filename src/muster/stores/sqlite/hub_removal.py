"""Forgetting a hub: every row of every table of ``hub.db`` that stands under its name."""

from __future__ import annotations

from functools import partial

import apsw

from muster.stores.sqlite.database import Writer

SLICE = 500
"""Rows that one transaction deletes, so that the other hubs' work goes on in between."""


async def forget_hub(writer: Writer, hub: str) -> None:
    """Delete all that ``hub`` has, its settings included; may be repeated. Raises ``HubError`` 500001.

    Finds the tables by their column ``hub``, so that none that is added later is forgotten here.
    """
    for statement in await writer.submit(_statements):
        while await writer.submit(partial(_delete, statement, hub)):
            pass
    await writer.submit(lambda _: writer.kept.clear())  # twins of the hub may be among it


def _statements(connection: apsw.Connection) -> list[str]:
    """One for each table: deletes a slice of it."""
    found = []
    tables = connection.execute("SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    for table, without_rowid in tables.fetchall():
        columns = connection.execute("SELECT name, pk FROM pragma_table_info(?)", (table,)).fetchall()
        if "hub" in (name for name, _ in columns):
            key = ", ".join(f'"{name}"' for name, place in columns if place) if without_rowid else "rowid"
            # Names out of the schema; every value is bound.
            rows = f'SELECT {key} FROM "{table}" WHERE hub = ?1 LIMIT {SLICE}'  # noqa: S608
            found.append(f'DELETE FROM "{table}" WHERE ({key}) IN ({rows})')  # noqa: S608
    settings = f"SELECT name FROM settings WHERE name > ?1 || '/' AND name < ?1 || '0' LIMIT {SLICE}"  # noqa: S608
    return [*found, f"DELETE FROM settings WHERE name IN ({settings})"]  # noqa: S608


def _delete(statement: str, hub: str, connection: apsw.Connection) -> bool:
    """Whether there may be more."""
    connection.execute(statement, (hub,))
    return connection.changes() == SLICE
