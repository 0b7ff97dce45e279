"""Queues in ``hub.db``: a row for each message, and one for each queue with its next number and its depth.

``due`` is ``Entry.due``, indexed, so that the next deadline of a hub is one look. Rows of an identity's queue are
deleted by ``identities.py``, in the transaction that deletes the identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import apsw

from muster.core.audit import Draft
from muster.core.errors import QUEUE_DEPTH, HubError
from muster.identity.changes import not_found
from muster.identity.model import IdentityKey
from muster.messages.queue import Entry, Lock
from muster.messages.queue_contract import (
    Change,
    Collected,
    Dealt,
    Due,
    Edited,
    EndedUpload,
    Ending,
    Everything,
    HeldBy,
    Make,
    New,
    Record,
    Selection,
    Visible,
    WithToken,
)
from muster.messages.upload_contract import upload_unknown
from muster.stores.sqlite.audit import keep
from muster.stores.sqlite.database import Work, Writer, settle, told_as_refusal
from muster.stores.sqlite.uploads import end_upload

T = TypeVar("T")

_COLUMNS = "id, queue, number, enqueued, expires, head, deliveries, token, locked_until, holder"
# Only fixed texts go into these; every value is bound.
_SELECT = f"SELECT {_COLUMNS}, '' FROM queue_messages WHERE hub = ?"  # noqa: S608
_VISIBLE = (
    f"SELECT {_COLUMNS}, body FROM queue_messages WHERE hub = ? AND queue = ? "  # noqa: S608
    "AND (token IS NULL OR locked_until <= ?) AND expires > ? ORDER BY number LIMIT ?"
)
_WITH_TOKEN = f"{_SELECT} AND queue = ? AND token = ?"
_HELD_BY = f"{_SELECT} AND queue = ? AND holder = ? ORDER BY number"
_HELD = f"{_SELECT} AND queue = ? AND holder > '' ORDER BY number"
_ALL = f"{_SELECT} AND queue = ? ORDER BY number"
_DUE = f"{_SELECT} AND due <= ? ORDER BY due LIMIT ?"
_NEXT_DUE = "SELECT min(due) FROM queue_messages WHERE hub = ?"

_QUEUE = "SELECT next, depth FROM queues WHERE hub = ? AND queue = ?"
_PUT_QUEUE = (
    "INSERT INTO queues (hub, queue, next, depth) VALUES (?, ?, 2, 1) "
    "ON CONFLICT (hub, queue) DO UPDATE SET next = next + 1, depth = depth + 1"
)
_LESS = "UPDATE queues SET depth = depth - ? WHERE hub = ? AND queue = ?"
_PUT = (
    "INSERT INTO queue_messages (hub, queue, number, enqueued, expires, due, head, body) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_CHANGE = "UPDATE queue_messages SET deliveries = ?, token = ?, locked_until = ?, holder = ?, due = ? WHERE id = ?"
_DELETE = "DELETE FROM queue_messages WHERE id = ?"
_GENERATION = "SELECT generation_id FROM identities WHERE hub = ? AND device_id = ? AND module_id = ?"

_PUT_RECORD = "INSERT INTO queue_records (hub, queue, made, text) VALUES (?, ?, ?, ?)"
_RECORDS = "SELECT id, queue, made, text FROM queue_records WHERE hub = ? ORDER BY id LIMIT ?"
_DELETE_RECORDS = "DELETE FROM queue_records WHERE hub = ? AND id <= ?"
_LEFT = "SELECT count(*), min(made) FROM queue_records WHERE hub = ?"

_FORGET = tuple(f"DELETE FROM {table} WHERE hub = ?" for table in ("queues", "queue_messages", "queue_records"))  # noqa: S608


class SqliteQueueStore:
    """``messages.queue_contract.QueueStore`` on a ``hub.db``.

    Reads run on the loop, on ``reader``, which nothing but the loop's thread may use.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection) -> None:
        self.shared = writer.turns is not None
        self._writer = writer
        self._reader = reader

    def put(
        self, hub: str, queue: str, new: New, then: Callable[[Entry], None], *, most: int | None = None,
        generation: str | None = None, ends: EndedUpload | None = None,
    ) -> asyncio.Future[Entry]:  # fmt: skip
        def work(connection: apsw.Connection) -> Entry:
            _require(connection, hub, queue, generation)
            if ends is not None and not end_upload(connection, hub, *ends):
                raise upload_unknown()
            return _put(connection, hub, queue, new, most)

        return self._submit(work, then)

    def edit(
        self, hub: str, queue: str, which: Selection, change: Change, then: Callable[[list[Edited]], None],
        *, note: Callable[[int], Draft] | None = None,
    ) -> asyncio.Future[list[Edited]]:  # fmt: skip
        query, values = _selected(which)

        def work(connection: apsw.Connection) -> list[Edited]:
            edited = _edit(connection, hub, query, (queue, *values), change)
            if note is not None:
                keep(self._writer, connection, (note(len(edited)),))
            return edited

        return self._submit(work, then)

    def edit_due(
        self, hub: str, due: Due, change: Change, then: Callable[[list[Edited]], None]
    ) -> asyncio.Future[Dealt]:
        def work(connection: apsw.Connection) -> Dealt:
            edited = _edit(connection, hub, _DUE, due, change)
            return Dealt(edited, connection.execute(_NEXT_DUE, (hub,)).get)

        return self._submit(work, lambda dealt: then(dealt.edited))

    def collect(
        self, hub: str, queue: str, limit: int, make: Make, then: Callable[[Collected], None]
    ) -> asyncio.Future[Collected]:
        return self._submit(lambda connection: _collect(connection, hub, queue, limit, make), then)

    def waiting(self, hub: str, queue: str) -> int:
        row = self._read(_QUEUE, (hub, queue))
        return 0 if row is None else int(row[1])

    async def depths(self, hub: str, queues: Sequence[str]) -> list[int]:
        return [self.waiting(hub, queue) for queue in queues]

    async def records(self, hub: str) -> tuple[int, float | None]:
        count, oldest = self._read(_LEFT, (hub,))
        return count, oldest

    def _read(self, query: str, values: tuple[str, ...]) -> Any:
        with told_as_refusal(self._writer.path):
            return self._reader.execute(query, values).get

    def _submit(self, work: Work[T], then: Callable[[T], None]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T, error: BaseException | None) -> None:
            if error is None:
                then(result)
            settle(future, result, error)

        try:
            self._writer.call(work, done)
        except HubError as error:  # the store is closed: the hub stops
            future.set_exception(error)
        return future


def forget_queues(connection: apsw.Connection, hub: str, key: IdentityKey) -> None:
    """Delete the queue and the records of an identity, of a device with its modules', within a transaction."""
    queue = str(key)
    for forget in _FORGET:
        connection.execute(f"{forget} AND queue = ?", (hub, queue))
        if key.module_id is None:  # "0" comes after "/". One statement for both would read all queues there are
            connection.execute(f"{forget} AND queue > ? AND queue < ?", (hub, f"{queue}/", f"{queue}0"))


def _selected(which: Selection) -> tuple[str, tuple[Any, ...]]:
    match which:
        case Visible(now, limit):
            return _VISIBLE, (now, now, limit)
        case WithToken(token):
            return _WITH_TOKEN, (token.bytes,)
        case HeldBy(None):
            return _HELD, ()
        case HeldBy(holder):
            return _HELD_BY, (holder,)
        case Everything():
            return _ALL, ()


def _require(connection: apsw.Connection, hub: str, queue: str, generation: str | None) -> None:
    if queue.startswith("/"):
        return
    device_id, _, module_id = queue.partition("/")
    present = connection.execute(_GENERATION, (hub, device_id, module_id)).get
    if present is None or (generation is not None and present != generation):
        if module_id and connection.execute(_GENERATION, (hub, device_id, "")).get is None:
            module_id = ""
        raise not_found(IdentityKey(device_id, module_id or None))


def _put(connection: apsw.Connection, hub: str, queue: str, new: New, most: int | None = None) -> Entry:
    row = connection.execute(_QUEUE, (hub, queue)).get
    number, depth = (1, 0) if row is None else row
    if most is not None and depth >= most:
        raise HubError(QUEUE_DEPTH, f"{queue} has {depth} messages that wait, {most} are allowed.")
    entry = Entry(number, new.enqueued, new.expires, new.head)
    values = (hub, queue, number, new.enqueued, new.expires, entry.due, new.head, new.body)
    connection.execute(_PUT, values)
    connection.execute(_PUT_QUEUE, (hub, queue))
    return entry


def _edit(connection: apsw.Connection, hub: str, query: str, values: tuple[Any, ...], change: Change) -> list[Edited]:
    edited = []
    rows: list[Any] = connection.execute(query, (hub, *values)).fetchall()
    for row in rows:
        id, queue, before, body = row[0], row[1], _entry(row), row[10]
        after = change(queue, before)
        if isinstance(after, Ending):
            connection.execute(_DELETE, (id,))
            connection.execute(_LESS, (1, hub, queue))
            if after.record is not None:
                connection.execute(_PUT_RECORD, (hub, *after.record))
        elif after is not before:
            token, until, holder = (None, None, None) if after.lock is None else after.lock
            bound = (after.deliveries, None if token is None else token.bytes, until, holder, after.due, id)
            connection.execute(_CHANGE, bound)
        edited.append(Edited(queue, before, after, body or b""))
    return edited


def _collect(connection: apsw.Connection, hub: str, queue: str, limit: int, make: Make) -> Collected:
    rows: list[Any] = connection.execute(_RECORDS, (hub, limit)).fetchall()
    entry = None
    if rows:
        entry = _put(connection, hub, queue, make([Record(*row[1:]) for row in rows]))
        connection.execute(_DELETE_RECORDS, (hub, rows[-1][0]))
    left, oldest = connection.execute(_LEFT, (hub,)).get
    return Collected(len(rows), left, oldest, entry)


def _entry(row: Any) -> Entry:
    _, _, number, enqueued, expires, head, deliveries, token, until, holder, _ = row
    lock = None if token is None else Lock(UUID(bytes=token), until, holder)
    return Entry(number, enqueued, expires, head, deliveries, lock)
