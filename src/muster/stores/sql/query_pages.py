"""Pages of a query's result, put together of slices: the same whatever database the slices come from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from muster.core.errors import ARGUMENT_INVALID, THROTTLED, HubError
from muster.core.query_limits import QUERIES_IN_PROGRESS, QUERY_PAGE_BYTES
from muster.dialect.json_body import compact
from muster.twins.query.contract import Page, Position
from muster.twins.query.syntax import Item, Query

Compiled = TypeVar("Compiled")
Key = tuple[str, str]
Groups = dict[str, list[Any]]
"""Columns of groups by the groups' names."""

BEGINNING = ("", "")
BEYOND = ("\U0010ffff", "")
"""Keys before and behind all: ids are ASCII."""
_EXACT = 2**53


class Slice(NamedTuple):
    """Rows of one slice with their keys, and the key that it ends with, ``None`` for the last one. ``full``: there may
    be more before that, but they would be too large for a page."""

    rows: list[tuple[Key, bytes]]
    end: Key | None
    full: bool = False


class GroupSlice(NamedTuple):
    """The first groups of one slice, its end, and the last of them where more would be too large for a page."""

    groups: Groups
    end: Key | None
    last: str | None = None


class SlicedQueries(ABC, Generic[Compiled]):
    """``twins.query.contract.QueryStore`` on whatever answers slices of the key."""

    def __init__(self) -> None:
        self._running = 0

    async def page(self, hub: str, query: Query, after: Position | None, most: int) -> Page:
        """See ``QueryStore.page``."""
        if self._running >= QUERIES_IN_PROGRESS.open:
            raise HubError(THROTTLED, f"{self._running} queries are in progress, retry in a moment.")
        if after is not None and (len(after) != (1 if query.aggregates else 2) or not _is_text(after)):
            raise HubError(ARGUMENT_INVALID, "x-ms-continuation is not one that this query gave.")
        self._running += 1
        try:
            compiled = await self._compiled(hub, query)
            if query.aggregates:
                return await self._groups(query.items, compiled, after, most)
            return await self._rows(compiled, after, most)
        finally:
            self._running -= 1

    @abstractmethod
    async def _compiled(self, hub: str, query: Query) -> Compiled:
        """What the slices of ``query`` need."""

    @abstractmethod
    async def _row_slice(self, compiled: Compiled, at: Key, limit: int, room: int) -> Slice:
        """The slice behind ``at``: its rows as JSON, at most ``limit``, up to the one that goes over ``room`` bytes."""

    @abstractmethod
    async def _group_slice(self, compiled: Compiled, at: Key, first: str, limit: int) -> GroupSlice:
        """The slice behind ``at``: its first groups behind ``first``, at most ``limit``."""

    async def _rows(self, compiled: Compiled, after: Position | None, most: int) -> Page:
        found: list[tuple[Key, bytes]] = []
        at: Key | None = BEGINNING if after is None else (after[0], after[1])
        full = False
        while at is not None and len(found) <= most and not full:
            room = QUERY_PAGE_BYTES.open - sum(len(row) for _, row in found)
            part = await self._row_slice(compiled, at, most + 1 - len(found), room)
            found += part.rows
            at, full = part.end, part.full
        page = found[:most]
        more = len(found) > most or full
        return Page([row for _, row in page], page[-1][0] if more else None)

    async def _groups(self, items: Sequence[Item], compiled: Compiled, after: Position | None, most: int) -> Page:
        """Every slice gives its first groups; together they hold the first groups of all."""
        groups: Groups = {}
        at: Key | None = BEGINNING
        first, last = "" if after is None else after[0], None
        while at is not None:
            part, at, bound = await self._group_slice(compiled, at, first, most + 1)
            for name, columns in part.items():
                groups[name] = _joined(items, groups[name], columns) if name in groups else columns
            last = min(filter(None, (last, bound, _bound(groups))), default=None)
            kept = sorted(groups)[: most + 1]
            groups = {name: groups[name] for name in kept if last is None or name <= last}
        names = sorted(groups)
        page = names[:most]
        more = len(names) > most or last is not None
        return Page([_group_row(items, groups[name]) for name in page], (page[-1],) if more else None)


def _is_text(position: Position) -> bool:
    """Whether all of it could be in a database: a client may have put in half of a surrogate pair."""
    try:
        "".join(position).encode()
    except UnicodeEncodeError:
        return False
    return True


def columns_row(names: Sequence[bytes], columns: Iterable[str | None]) -> bytes:
    """An object of the columns that are there."""
    members = [name + value.encode() for name, value in zip(names, columns, strict=True) if value is not None]
    return b"{" + b",".join(members) + b"}"


def first_groups(rows: Iterable[Sequence[Any]], end: Key | None) -> GroupSlice:
    """``rows``, each a group's name and columns, as far as they fit into a page; the rest is not read."""
    groups: Groups = {}
    room = QUERY_PAGE_BYTES.open
    for name, *columns in rows:
        groups[name] = columns
        room -= _size(columns)
        if room <= 0:
            return GroupSlice(groups, end, name)
    return GroupSlice(groups, end)


def _size(columns: Sequence[Any]) -> int:
    return sum(len(column) for column in columns if isinstance(column, str))


def _bound(groups: Groups) -> str | None:
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
