"""Forgetting a hub: every row of every table that stands under its name."""

from __future__ import annotations

from collections.abc import Sequence

from muster.stores.postgres.database import Database, Step

SLICE = 500
"""Rows that one transaction deletes, so that the other hubs' work goes on in between."""

_TABLES = """
    SELECT quote_ident(tables.relname) FROM pg_class AS tables JOIN pg_attribute AS columns ON attrelid = tables.oid
    WHERE attname = 'hub' AND relkind = 'r' AND relnamespace = current_schema()::regnamespace ORDER BY relname
"""
_SETTINGS = "WITH slice AS (SELECT name FROM settings WHERE name > $1 || '/' AND name < $1 || '0' LIMIT $2) "


async def forget_hub(database: Database, hub: str) -> None:
    """Delete all that ``hub`` has, its settings included; may be repeated. Raises ``HubError`` as the database.

    Finds the tables by their column ``hub``, so that none that is added later is forgotten here. Of tables that are
    spread by device it goes through each part.
    """
    statements = [_statement(name) for (name,) in await database.fetch(_TABLES)]
    left = [*statements, f"{_SETTINGS} DELETE FROM settings WHERE name IN (SELECT name FROM slice)"]  # noqa: S608
    while left:

        async def work(step: Step, statements: Sequence[str] = tuple(left)) -> int:
            """How many of ``statements`` are done with."""
            room = SLICE
            for done, statement in enumerate(statements):
                room -= await step.write(statement, hub, room)
                if room <= 0:
                    return done
            return len(statements)

        del left[: await database.submit(f"~removal/{hub}", work)]


def _statement(table: str) -> str:
    """Deletes a slice of ``table``, whose name comes out of the schema; every value is bound."""
    return f"DELETE FROM {table} WHERE ctid = ANY(ARRAY(SELECT ctid FROM {table} WHERE hub = $1 LIMIT $2))"  # noqa: S608
