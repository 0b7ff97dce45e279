"""Queries over identities and twins in ``hub.db``, read in threads of their own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import apsw

from muster.core.errors import ARGUMENT_INVALID, THROTTLED, UNAVAILABLE, HubError
from muster.core.query_limits import QUERIES_IN_PROGRESS, QUERY_PAGE_BYTES
from muster.dialect.json_body import compact
from muster.dialect.twin_bodies import twin_body
from muster.identity.contract import Presence
from muster.stores.sqlite.database import Writer, open_connection, store_error
from muster.stores.sqlite.identities import COLUMNS as IDENTITY_COLUMNS
from muster.stores.sqlite.identities import identity_of
from muster.stores.sqlite.property_indexes import PropertyIndexes
from muster.stores.sqlite.query_functions import Activities, register
from muster.stores.sqlite.query_statements import Statements, statements_of
from muster.stores.sqlite.twins import twin_of
from muster.twins.query.contract import Page, Position
from muster.twins.query.syntax import Item, Query

T = TypeVar("T")

READERS = 2
"""Threads for reads. More would only wait for the interpreter's lock."""

SLICE = 2000
"""Identities that one transaction goes through: some ten milliseconds with twins of usual size."""

_BEGINNING = ("", "")
_BEYOND = ("\U0010ffff", "")
"""Keys before and behind all: ids are ASCII."""
_IDENTITY_WIDTH = len(IDENTITY_COLUMNS.split(", "))
_EXACT = 2**53

Key = tuple[str, str]
_Compiled = Callable[[], Statements]
_Groups = dict[str, list[Any]]
"""Columns of groups by the groups' names."""


class _Reader(NamedTuple):
    connection: apsw.Connection
    activities: Activities


class _Slice(NamedTuple):
    """Rows of one slice with their keys, and the key that it ends with, ``None`` for the last one."""

    rows: list[tuple[Key, bytes]]
    end: Key | None
    full: bool = False


class SqliteQueryStore:
    """``twins.query.contract.QueryStore`` on a ``hub.db``.

    Connection state is asked of ``presence`` by the reader's thread while it goes through the rows.
    """

    def __init__(
        self, writer: Writer, presence: Presence, indexed: Sequence[str] = (), *, slice_size: int = SLICE
    ) -> None:
        """``indexed`` are the properties to have an index, see ``PropertyIndexes``. Raises ``HubError`` 400004."""
        self._writer = writer
        self._presence = presence
        self._indexes = PropertyIndexes(indexed)
        self._slice_size = slice_size
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="query-reader")
        self._idle: SimpleQueue[_Reader] = SimpleQueue()
        self._running = 0
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

    async def page(self, hub: str, query: Query, after: Position | None, most: int) -> Page:
        """See ``QueryStore.page``."""
        if self._running >= QUERIES_IN_PROGRESS.open:
            raise HubError(THROTTLED, f"{self._running} queries are in progress, retry in a moment.")
        if after is not None and len(after) != (1 if query.aggregates else 2):
            raise HubError(ARGUMENT_INVALID, "x-ms-continuation is not one that this query gave.")
        self._running += 1
        try:
            compiled = cache(partial(statements_of, query, hub, self._indexes))  # by the first reader, off the loop
            if query.aggregates:
                return await self._groups(query.items, compiled, after, most)
            return await self._rows(compiled, after, most)
        finally:
            self._running -= 1

    # --- rows

    async def _rows(self, compiled: _Compiled, after: Position | None, most: int) -> Page:
        found: list[tuple[Key, bytes]] = []
        at: Key | None = _BEGINNING if after is None else (after[0], after[1])
        full = False
        while at is not None and len(found) <= most and not full:
            room = QUERY_PAGE_BYTES.open - sum(len(row) for _, row in found)
            part = await self._in_reader(partial(self._row_slice, compiled, at, most + 1 - len(found), room))
            found += part.rows
            at, full = part.end, part.full
        page = found[:most]
        more = len(found) > most or full
        return Page([row for _, row in page], page[-1][0] if more else None)

    def _row_slice(self, compiled: _Compiled, at: Key, limit: int, room: int, reader: _Reader) -> _Slice:
        statements = compiled()
        end = self._end(statements, at, reader)
        rows: list[tuple[Key, bytes]] = []
        render = _columns_row if statements.query.items else partial(_twin_row, reader.activities)
        names = [compact(item.name) + b":" for item in statements.query.items]
        cursor = reader.connection.execute(statements.rows, self._values(statements, at, end, limit))
        for device_id, module_id, *columns in cursor:
            row = render(names, columns)
            rows.append(((device_id, module_id), row))
            room -= len(row)
            if room <= 0:
                cursor.close()
                return _Slice(rows, end, full=True)
        return _Slice(rows, end)

    # --- groups

    async def _groups(self, items: Sequence[Item], compiled: _Compiled, after: Position | None, most: int) -> Page:
        """Every slice gives its first groups; together they hold the first groups of all."""
        groups: _Groups = {}
        at: Key | None = _BEGINNING
        first, last = "" if after is None else after[0], None
        while at is not None:
            part, at, bound = await self._in_reader(partial(self._group_slice, compiled, at, first, most + 1))
            for name, columns in part.items():
                groups[name] = _joined(items, groups[name], columns) if name in groups else columns
            last = min(filter(None, (last, bound, _bound(groups))), default=None)
            kept = sorted(groups)[: most + 1]
            groups = {name: groups[name] for name in kept if last is None or name <= last}
        names = sorted(groups)
        page = names[:most]
        more = len(names) > most or last is not None
        return Page([_group_row(items, groups[name]) for name in page], (page[-1],) if more else None)

    def _group_slice(
        self, compiled: _Compiled, at: Key, first: str, limit: int, reader: _Reader
    ) -> tuple[_Groups, Key | None, str | None]:
        """The slice's first groups, its end, and the last of them where more would be too large for a page."""
        statements = compiled()
        end = self._end(statements, at, reader)
        cursor = reader.connection.execute(statements.rows, self._values(statements, at, end, limit) | {"name": first})
        groups: _Groups = {}
        room = QUERY_PAGE_BYTES.open
        for name, *columns in cursor:
            groups[name] = columns
            room -= _size(columns)
            if room <= 0:
                cursor.close()
                return groups, end, name
        return groups, end, None

    # --- slices

    def _end(self, statements: Statements, at: Key, reader: _Reader) -> Key | None:
        if statements.bound is None:
            return None
        values = {**statements.bindings, "device": at[0], "module": at[1], "slice": self._slice_size - 1}
        return next(reader.connection.execute(statements.bound, values), None)

    def _values(self, statements: Statements, at: Key, end: Key | None, limit: int) -> dict[str, Any]:
        last_device, last_module = end or _BEYOND
        return {
            **statements.bindings, "device": at[0], "module": at[1], "last_device": last_device,
            "last_module": last_module, "limit": limit,
        }  # fmt: skip

    async def _in_reader(self, work: Callable[[_Reader], T]) -> T:
        if self._closed:
            raise HubError(UNAVAILABLE, f"{self._writer.path} is closed; nothing can be read any more")
        return await self._loop.run_in_executor(self._readers, self._read, work)

    def _read(self, work: Callable[[_Reader], T]) -> T:
        """Run ``work`` in a read transaction that ends with it."""
        try:
            reader = self._idle.get_nowait()
        except Empty:
            reader = _Reader(open_connection(self._writer.path, readonly=True), Activities(self._presence))
            register(*reader)
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


def _columns_row(names: Sequence[bytes], columns: Sequence[str | None]) -> bytes:
    """An object of the columns that are there."""
    members = [name + value.encode() for name, value in zip(names, columns, strict=True) if value is not None]
    return b"{" + b",".join(members) + b"}"


def _twin_row(activities: Activities, _: Sequence[bytes], columns: Sequence[Any]) -> bytes:
    """A twin, as ``GET /twins`` answers it."""
    identity = identity_of(tuple(columns[:_IDENTITY_WIDTH]))
    twin = twin_of(tuple(columns[_IDENTITY_WIDTH:-1]))
    activity = activities.of(identity.device_id, identity.module_id or "")._replace(commands_waiting=columns[-1])
    return twin_body(identity, twin, activity)


def _size(columns: Sequence[Any]) -> int:
    return sum(len(column) for column in columns if isinstance(column, str))


def _bound(groups: _Groups) -> str | None:
    """The name of the group that makes ``groups`` too large for a page, ``None`` while they are not."""
    room = QUERY_PAGE_BYTES.open
    for name in sorted(groups):
        room -= _size(groups[name])
        if room <= 0:
            return name
    return None


_WIDTHS = {None: 1, "COUNT": 1, "SUM": 1, "AVG": 2, "MIN": 2, "MAX": 2}


def _joined(items: Sequence[Item], one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    """The columns of one group from two slices."""
    joined: list[Any] = []
    for item in items:
        for _ in range(_WIDTHS[item.aggregate]):
            pair = [value for value in (one[len(joined)], other[len(joined)]) if value is not None]
            joined.append(_JOINS[item.aggregate](pair) if pair else None)
    return joined


_JOINS: dict[str | None, Callable[[Sequence[Any]], Any]] = {
    None: lambda pair: pair[0], "COUNT": sum, "SUM": sum, "AVG": sum, "MIN": min, "MAX": max,
}  # fmt: skip


def _group_row(items: Sequence[Item], columns: Sequence[Any]) -> bytes:
    members: list[bytes] = []
    values = iter(columns)
    for item in items:
        parts = [next(values) for _ in range(_WIDTHS[item.aggregate])]
        text = parts[0].encode() if item.aggregate is None and parts[0] is not None else _aggregate(item, parts)
        if text is not None:
            members.append(compact(item.name) + b":" + text)
    return b"{" + b",".join(members) + b"}"


def _aggregate(item: Item, parts: Sequence[Any]) -> bytes | None:
    """An aggregate as JSON; whole numbers have no fraction. ``None`` when it is over nothing or too large."""
    if item.aggregate == "AVG":
        value = None if parts[0] is None else parts[0] / parts[1]
    else:
        value = next((part for part in parts if part is not None), None)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        if value == value // 1 and abs(value) <= _EXACT:
            value = int(value)
    return None if value is None or item.aggregate is None else compact(value)
