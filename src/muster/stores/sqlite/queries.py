"""Queries over identities and twins in ``hub.db``, read in threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import apsw

from muster.core.errors import UNAVAILABLE, HubError
from muster.dialect.json_body import compact
from muster.dialect.twin_bodies import twin_body
from muster.identity.contract import Presence
from muster.stores.sql.query_pages import BEYOND, GroupSlice, Key, Slice, SlicedQueries, columns_row, first_groups
from muster.stores.sql.query_statements import Statements, statements_of
from muster.stores.sqlite.database import Writer, open_connection, store_error
from muster.stores.sqlite.identities import COLUMNS as IDENTITY_COLUMNS
from muster.stores.sqlite.identities import identity_of
from muster.stores.sqlite.property_indexes import SqlitePropertyIndexes
from muster.stores.sqlite.query_functions import Activities, SharedActivities, register
from muster.stores.sqlite.twins import twin_of
from muster.twins.query.syntax import Query

T = TypeVar("T")

READERS = 2
"""Threads for reads. More would only wait for the interpreter's lock."""

SLICE = 2000
"""Identities that one transaction goes through: some ten milliseconds with twins of usual size."""

_IDENTITY_WIDTH = len(IDENTITY_COLUMNS.split(", "))

_Compiled = Callable[[], Statements]


class _Reader(NamedTuple):
    connection: apsw.Connection
    activities: Activities


class SqliteQueryStore(SlicedQueries[_Compiled]):
    """``twins.query.contract.QueryStore`` on a ``hub.db``.

    Connection state is asked of ``presence`` by the reader's thread while it goes through the rows.
    """

    def __init__(
        self, writer: Writer, presence: Presence, indexed: Sequence[str] = (), *, slice_size: int = SLICE
    ) -> None:
        """``indexed`` are the properties to have an index, see ``PropertyIndexes``. Raises ``HubError`` 400004."""
        super().__init__()
        self._writer = writer
        self._presence = presence
        self._indexes = SqlitePropertyIndexes(indexed)
        self._slice_size = slice_size
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="query-reader")
        self._idle: SimpleQueue[_Reader] = SimpleQueue()
        self._closed = False

    async def prepare(self) -> None:
        """Bring the indexes in line with the properties. Once, before the first query."""
        await self._writer.submit(self._indexes.create)

    async def close(self) -> None:
        """End the threads after what they are at, and close the files."""
        self._closed = True
        await asyncio.to_thread(self._readers.shutdown)
        while not self._idle.empty():
            self._idle.get_nowait().connection.close()

    async def _compiled(self, hub: str, query: Query) -> _Compiled:
        return cache(partial(statements_of, query, hub, self._indexes))  # by the first reader, off the loop

    async def _row_slice(self, compiled: _Compiled, at: Key, limit: int, room: int) -> Slice:
        return await self._in_reader(partial(self._read_rows, compiled, at, limit, room))

    async def _group_slice(self, compiled: _Compiled, at: Key, first: str, limit: int) -> GroupSlice:
        return await self._in_reader(partial(self._read_groups, compiled, at, first, limit))

    # --- slices

    def _read_rows(self, compiled: _Compiled, at: Key, limit: int, room: int, reader: _Reader) -> Slice:
        statements = self._begin(compiled, reader)
        end = self._end(statements, at, reader)
        rows: list[tuple[Key, bytes]] = []
        render = columns_row if statements.query.items else partial(_twin_row, reader.activities)
        names = [compact(item.name) + b":" for item in statements.query.items]
        cursor = reader.connection.execute(statements.rows, self._values(statements, at, end, limit))
        for device_id, module_id, *columns in cursor:
            row = render(names, columns)
            rows.append(((device_id, module_id), row))
            room -= len(row)
            if room <= 0:
                cursor.close()
                return Slice(rows, end, full=True)
        return Slice(rows, end)

    def _read_groups(self, compiled: _Compiled, at: Key, first: str, limit: int, reader: _Reader) -> GroupSlice:
        statements = self._begin(compiled, reader)
        end = self._end(statements, at, reader)
        cursor = reader.connection.execute(statements.rows, self._values(statements, at, end, limit) | {"name": first})
        try:
            return first_groups(cursor, end)
        finally:
            cursor.close()

    def _begin(self, compiled: _Compiled, reader: _Reader) -> Statements:
        statements = compiled()
        if isinstance(reader.activities, SharedActivities):
            reader.activities.hub = str(statements.bindings["hub"])
        return statements

    def _end(self, statements: Statements, at: Key, reader: _Reader) -> Key | None:
        if statements.bound is None:
            return None
        values = {**statements.bindings, "device": at[0], "module": at[1], "slice": self._slice_size - 1}
        return next(reader.connection.execute(statements.bound, values), None)

    def _values(self, statements: Statements, at: Key, end: Key | None, limit: int) -> dict[str, Any]:
        last_device, last_module = end or BEYOND
        return {
            **statements.bindings, "device": at[0], "module": at[1], "last_device": last_device,
            "last_module": last_module, "limit": limit,
        }  # fmt: skip

    async def _in_reader(self, work: Callable[[_Reader], T]) -> T:
        if self._closed:
            raise HubError(UNAVAILABLE, f"{self._writer.path} is closed; nothing can be read any more")
        return await self._loop.run_in_executor(self._readers, self._read, work)

    def _new_reader(self) -> _Reader:
        connection = open_connection(self._writer.path, readonly=True)
        presence = self._presence
        reader = _Reader(
            connection,
            SharedActivities(presence, connection, self._loop) if presence.shared else Activities(presence),
        )
        register(*reader)
        return reader

    def _read(self, work: Callable[[_Reader], T]) -> T:
        """Run ``work`` in a read transaction that ends with it."""
        try:
            reader = self._idle.get_nowait()
        except Empty:
            reader = self._new_reader()
        reader.activities.begin()
        try:
            reader.connection.execute("BEGIN")
            try:
                return work(reader)
            finally:
                reader.connection.execute("COMMIT")
        except apsw.Error as error:
            raise store_error(self._writer.path, error) from error
        finally:
            self._idle.put(reader)


# --- what the rows hold


def _twin_row(activities: Activities, _: Sequence[bytes], columns: Sequence[Any]) -> bytes:
    """A twin, as ``GET /twins`` answers it."""
    identity = identity_of(tuple(columns[:_IDENTITY_WIDTH]))
    twin = twin_of(tuple(columns[_IDENTITY_WIDTH:-1]))
    activity = activities.of(identity.device_id, identity.module_id or "")._replace(commands_waiting=columns[-1])
    return twin_body(identity, twin, activity)
