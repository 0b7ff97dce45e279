"""Queries over identities and twins in PostgreSQL, which does the work; this process puts the pages together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import asyncpg
import asyncpg.cursor
from asyncpg.pool import PoolConnectionProxy

from muster.core.errors import UNAVAILABLE, HubError
from muster.dialect.json_body import compact
from muster.dialect.twin_bodies import twin_body
from muster.identity.contract import Presence
from muster.identity.model import NEVER, IdentityKey
from muster.identity.registry import Activity
from muster.stores.postgres.database import Database
from muster.stores.postgres.identities import COLUMNS as IDENTITY_COLUMNS
from muster.stores.postgres.identities import identity_of
from muster.stores.postgres.property_indexes import PostgresPropertyIndexes
from muster.stores.postgres.query_texts import Text, text_of
from muster.stores.postgres.texts import meant, meant_json
from muster.stores.postgres.twins import twin_of
from muster.stores.sql.query_pages import BEYOND, GroupSlice, Key, Slice, SlicedQueries, columns_row, first_groups
from muster.stores.sql.query_statements import Statements, statements_of
from muster.twins.query.syntax import Item, Query

READERS = 2
"""Slices that are read at a time: half of a process's connections that read, so that others are not kept waiting."""

SLICE = 5000
"""Identities that one statement goes through: some ten milliseconds with twins of usual size."""

AT_ONCE = 100
"""Rows that are in memory at a time beside the page; twins may have 72 KiB and their metadata."""

_MOST_NAMED = 4096
"""More ids than a query can name within its 8,192 characters, each of which is a device at most."""

_ANY_NUMBER = 2**31
"""So many may have been made within a slice since its keys were read."""

_FEW = 20
"""Rows that are made into JSON on the loop; more would hold it up for milliseconds."""

_IDENTITY_WIDTH = 2 + len(IDENTITY_COLUMNS.split(", "))
_NOBODY = Activity(False, NEVER, NEVER)


@dataclass(frozen=True, slots=True)
class _Compiled:
    statements: Statements
    rows: Text
    bound: Text | None
    keys: Text | None

    @property
    def sliced(self) -> bool:
        """Whether the whole may be more than one statement should go through."""
        return self.bound is not None


class _Extent(NamedTuple):
    """The key that a slice ends with, ``None`` for the last one, and who is known to be or to have been present in it,
    if it matters."""

    end: Key | None
    present: Mapping[Key, Activity]


_ALL = _Extent(None, {})


class PostgresQueryStore(SlicedQueries[_Compiled]):
    """``twins.query.contract.QueryStore`` on a database of ``migrations``.

    Where a condition or a column asks for connection state, a slice's keys are read first, ``presence`` is asked about
    each, and what it knows goes along with the statement. So such a query costs this process some microseconds for each
    identity, and a row shows the state by which it was found.
    """

    def __init__(
        self, database: Database, presence: Presence, indexed: Sequence[str] = (), *, slice_size: int = SLICE
    ) -> None:
        """``indexed`` are the properties to have an index, see ``PropertyIndexes``. Raises ``HubError`` 400004."""
        super().__init__()
        self._database = database
        self._presence = presence
        self._indexes = PostgresPropertyIndexes(indexed)
        self._slice_size = slice_size
        self._turns = asyncio.Semaphore(READERS)
        self._closed = False

    async def prepare(self) -> None:
        """Bring the indexes in line with the properties. Once, before the first query."""
        await self._indexes.create(self._database)

    async def close(self) -> None:
        """Take no further queries."""
        self._closed = True

    async def _compiled(self, hub: str, query: Query) -> _Compiled:
        return await asyncio.to_thread(_compile, hub, query, self._indexes)

    async def _row_slice(self, compiled: _Compiled, at: Key, limit: int, room: int) -> Slice:
        at_once = limit <= AT_ONCE + 1  # a usual page, and the row that tells whether there is another one
        known = await self._present(compiled, at)
        async with self._reading(snapshot=compiled.sliced or not at_once) as connection:
            extent = known or await self._extent(connection, compiled, at)
            values = self._values(compiled, at, extent, {"limit": limit})
            renderer = _Renderer(compiled.statements.query, self._presence, extent)
            if not at_once:
                cursor = await connection.cursor(compiled.rows.sql, *compiled.rows.values(values))
                return await renderer.slices(cursor, room)
            records = await connection.fetch(compiled.rows.sql, *compiled.rows.values(values))
        return await renderer.slice(records, room)

    async def _group_slice(self, compiled: _Compiled, at: Key, first: str, limit: int) -> GroupSlice:
        known = await self._present(compiled, at)
        async with self._reading(snapshot=compiled.sliced) as connection:
            extent = known or await self._extent(connection, compiled, at)
            name = first.replace("\0", "\1")  # one that no page ever gave
            values = self._values(compiled, at, extent, {"limit": limit, "name": name})
            records = await connection.fetch(compiled.rows.sql, *compiled.rows.values(values))
        items = compiled.statements.query.items
        return first_groups(((record[0], *_meant_columns(items, record[1:])) for record in records), extent.end)

    # --- slices

    @contextlib.asynccontextmanager
    async def _reading(self, *, snapshot: bool) -> AsyncIterator[PoolConnectionProxy[asyncpg.Record]]:
        """A connection for a moment. ``snapshot``: all of its statements see the same."""
        if self._closed:
            raise HubError(UNAVAILABLE, "the hub is closed; nothing can be read any more")
        async with self._turns, self._database.reading() as connection:
            if not snapshot:
                yield connection
                return
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection

    async def _present(self, compiled: _Compiled, at: Key) -> _Extent | None:
        """The slice behind ``at`` with who is present in it, where that matters. No connection is held meanwhile: to
        ask about other nodes takes one."""
        if compiled.keys is None:
            return None
        async with self._reading(snapshot=False) as connection:
            values = compiled.keys.values(self._values(compiled, at, _ALL, {"slice": self._slice_size}))
            keys = [(record[0], record[1]) for record in await connection.fetch(compiled.keys.sql, *values)]
        states = zip(keys, await _states(self._presence, keys), strict=True)
        present = {key: state for key, state in states if state != _NOBODY}
        return _Extent(keys[-1] if len(keys) == self._slice_size else None, present)

    async def _extent(self, connection: PoolConnectionProxy[asyncpg.Record], compiled: _Compiled, at: Key) -> _Extent:
        """The slice behind ``at``, as the snapshot of ``connection`` has it."""
        if compiled.bound is None:
            return _ALL
        values = self._values(compiled, at, _ALL, {"slice": self._slice_size - 1})
        record = await connection.fetchrow(compiled.bound.sql, *compiled.bound.values(values))
        return _ALL if record is None else _Extent((record[0], record[1]), {})

    def _values(self, compiled: _Compiled, at: Key, extent: _Extent, others: Mapping[str, Any]) -> dict[str, Any]:
        last_device, last_module = extent.end or BEYOND
        present = extent.present
        return {
            **compiled.statements.bindings, "device": at[0], "module": at[1],
            "last_device": last_device, "last_module": last_module,
            "slice": self._most(compiled, others.get("limit", 0)),
            "present_devices": [device_id for device_id, _ in present],
            "present_modules": [module_id for _, module_id in present],
            "present_connected": [state.connected for state in present.values()],
            "present_activity": [state.last_activity for state in present.values()],
            **others,
        }  # fmt: skip

    def _most(self, compiled: _Compiled, limit: int) -> int:
        """How many identities a slice can have; its last key ends it in any case."""
        if compiled.keys is not None:
            return _ANY_NUMBER
        return self._slice_size if compiled.sliced else max(limit, _MOST_NAMED)


def _compile(hub: str, query: Query, indexes: PostgresPropertyIndexes) -> _Compiled:
    statements = statements_of(query, hub, indexes)
    rows, *others = (
        None if statement is None else text_of(statement, statements.bindings)
        for statement in (statements.rows, statements.bound, statements.keys)
    )
    assert rows is not None
    return _Compiled(statements, rows, *others)


# --- what the rows hold


class _Renderer(NamedTuple):
    """Makes JSON of the rows of a slice."""

    query: Query
    presence: Presence
    extent: _Extent

    async def slices(self, cursor: asyncpg.cursor.Cursor[asyncpg.Record], room: int) -> Slice:
        """As ``slice`` with what ``cursor`` yields; what is too much is not fetched."""
        found: list[tuple[Key, bytes]] = []
        while True:
            records = await cursor.fetch(AT_ONCE)
            part = await self.slice(records, room)
            found += part.rows
            room -= sum(len(row) for _, row in part.rows)
            if part.full or len(records) < AT_ONCE:
                return Slice(found, self.extent.end, part.full)

    async def slice(self, records: Sequence[asyncpg.Record], room: int) -> Slice:
        """``records`` up to the one that goes beyond ``room`` bytes."""
        states: Mapping[Key, Activity] = self.extent.present
        if not self.query.items:
            keys = [key for record in records if (key := (record[0], record[1])) not in states]
            states = {**states, **dict(zip(keys, await _states(self.presence, keys), strict=True))}
        if len(records) <= _FEW:
            return self._slice(records, room, states)
        return await asyncio.to_thread(self._slice, records, room, states)

    def _slice(self, records: Sequence[asyncpg.Record], room: int, states: Mapping[Key, Activity]) -> Slice:
        names = [compact(item.name) + b":" for item in self.query.items]
        rows: list[tuple[Key, bytes]] = []
        for record in records:
            row = columns_row(names, map(_meant_output, record[2:])) if names else _twin(record, states)
            rows.append(((record[0], record[1]), row))
            room -= len(row)
            if room <= 0:
                return Slice(rows, self.extent.end, full=True)
        return Slice(rows, self.extent.end)


def _twin(record: Any, states: Mapping[Key, Activity]) -> bytes:
    """A twin, as ``GET /twins`` answers it."""
    identity = identity_of(record[2:_IDENTITY_WIDTH])
    activity = states[record[0], record[1]]._replace(commands_waiting=record[-1])
    return twin_body(identity, twin_of(record[_IDENTITY_WIDTH:-1]), activity)


async def _states(presence: Presence, keys: Sequence[Key]) -> list[Activity]:
    """How it is with the connections of identities, on whichever nodes."""
    if not keys:
        return []
    known = await presence.activities([IdentityKey(device_id, module_id or None) for device_id, module_id in keys])
    return [Activity(*state) for state in known]


def _meant_output(column: str | None) -> str | None:
    """JSON text without PostgreSQL's blanks, its strings as they were."""
    if column is None or (column[0] not in "{[" and "\\u0001" not in column):
        return column
    return compact(meant_json(column)).decode()


def _meant_columns(items: Sequence[Item], columns: Sequence[Any]) -> list[Any]:
    """The columns of a group; texts are JSON where an item is a path, else themselves."""
    values = iter(columns)
    meanings: list[Any] = []
    for item in items:
        match item.aggregate:
            case None:
                meanings.append(_meant_output(next(values)))
            case "MIN" | "MAX":
                number, text = next(values), next(values)
                meanings += number, None if text is None else meant(text)
            case "AVG":
                meanings += next(values), next(values)
            case _:
                meanings.append(next(values))
    return meanings
