"""Indexes on properties of twins that the operator has named, in PostgreSQL.

What is indexed is a hash of the value: a btree takes no values as long as a string may be, and nothing but equality is
asked for. Behind it stands the key, so that a page takes its rows in order and reads no more of them. Each partition
has an index of its own, which is made and dropped while others read and write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import asyncpg

from muster.core.json_text import encode
from muster.stores.postgres.database import Database, told_as_refusal
from muster.stores.postgres.query_dialect import PostgresDialect, item_of, quoted
from muster.stores.postgres.texts import spelled_json
from muster.stores.sql.property_indexes import PREFIX, PropertyIndexes
from muster.stores.sql.query_operands import Bindings, place_of
from muster.twins.query.syntax import Path, Scalar

_LOCK = 0x71756572
"""The advisory lock under which one node makes and drops indexes while the others wait."""
_WAIT_SECONDS = 0.2
_LONG_SECONDS = 24 * 3600.0
_PARTITIONS = "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'twins'::regclass"
_PRESENT = (
    "SELECT c.relname AS name, x.indisvalid AS valid FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid "
    "JOIN pg_inherits AS p ON p.inhrelid = x.indrelid "
    "WHERE p.inhparent = 'twins'::regclass AND starts_with(c.relname, $1)"
)


class PostgresPropertyIndexes(PropertyIndexes):
    """See ``PropertyIndexes``."""

    dialect = PostgresDialect()

    async def create(self, database: Database) -> None:
        """Make what is missing and drop what is not wanted any more, one node after the other.

        Takes a second or so for each property of 10^5 twins that is new, and waits for transactions that are running.
        Raises ``HubError`` as the database.
        """
        with told_as_refusal():
            connection = await database.connect()
            try:
                await connection.execute("SET statement_timeout = 0")
                # nobody waits in a statement: what is made concurrently would wait for that in turn
                while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110
                    await asyncio.sleep(_WAIT_SECONDS)
                await self._bring_in_line(connection)
            finally:
                await connection.close()

    async def _bring_in_line(self, connection: asyncpg.Connection) -> None:
        partitions = [row["name"] for row in await connection.fetch(_PARTITIONS)]
        wanted = {
            f"{name}_{partition.rpartition('_')[2]}": (path, partition)
            for name, path in self.paths.items()
            for partition in partitions
        }
        present = {row["name"]: row["valid"] for row in await connection.fetch(_PRESENT, PREFIX)}
        for name, valid in present.items():
            if name not in wanted or not valid:  # whoever made it did not come to its end
                await connection.execute(f'DROP INDEX CONCURRENTLY IF EXISTS "{name}"', timeout=_LONG_SECONDS)
        touched = set()
        for name, (path, partition) in wanted.items():
            if not present.get(name):
                value = _indexed(path, "")
                await connection.execute(
                    f'CREATE INDEX CONCURRENTLY "{name}" ON {partition} (hub, ({value}), device_id, module_id) '
                    f"WHERE ({value}) IS NOT NULL",
                    timeout=_LONG_SECONDS,
                )
                touched.add(partition)
        for partition in sorted(touched):  # until then the planner knows nothing of how values are spread
            await connection.execute(f"ANALYZE {partition}", timeout=_LONG_SECONDS)

    def search(self, path: Path, values: Sequence[Scalar], bindings: Bindings) -> str:
        """See ``PropertyIndexes``: other values may have the same hash."""
        constants = [f"CAST({bindings.bind(spelled_json(encode(value)))} AS jsonb)" for value in values]
        return f"{_indexed(path)} IN ({', '.join(map(_hashed, constants))})"


def _indexed(path: Path, table: str = "t.") -> str:
    place = place_of(path)
    assert place is not None
    column, steps = place
    value = column.replace("t.", table)
    for step in steps:
        value = item_of(value, step, quoted(str(step)))
    return _hashed(value)


_hashed: Callable[[str], str] = "jsonb_hash_extended({}, 0)".format
