"""Queues in PostgreSQL: a row for each message, and one for each queue with its next number and its depth.

The queue's row is its lock: who changes a queue or its messages holds it, so several nodes take turns and none finds a
message half changed. A queue in which nothing is has nothing to be locked, so that who looks in vain, as devices do
whenever they connect, writes nothing.

``edit_due`` and ``collect`` change several queues at once. They come last in a transaction (their places sort behind
all others) and pass over what is locked, so nobody waits for somebody who waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar
from uuid import UUID

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
from muster.stores.postgres.database import Database, Step, Work, settle
from muster.stores.postgres.uploads import end_upload

T = TypeVar("T")

_COLUMNS = "queue, number, enqueued, expires, head, deliveries, token, locked_until, holder"
# Only fixed texts go into these; every value is bound.
_SELECT = f"SELECT {_COLUMNS}, ''::bytea FROM queue_messages WHERE hub = $1 AND queue = $2"  # noqa: S608
_VISIBLE = (
    f"SELECT {_COLUMNS}, body FROM queue_messages WHERE hub = $1 AND queue = $2 "  # noqa: S608
    "AND (token IS NULL OR locked_until <= $3) AND expires > $3 ORDER BY number LIMIT $4"
)
_WITH_TOKEN = f"{_SELECT} AND token = $3"
_HELD_BY = f"{_SELECT} AND holder = $3 ORDER BY number"
_HELD = f"{_SELECT} AND holder > '' ORDER BY number"
_ALL = f"{_SELECT} ORDER BY number"

_DUE_QUEUES = "SELECT queue FROM queue_messages WHERE hub = $1 AND due <= $2 ORDER BY due LIMIT $3"
_LOCK_FREE = "SELECT queue FROM queues WHERE hub = $1 AND queue = ANY($2) FOR UPDATE SKIP LOCKED"
_DUE = (
    f"SELECT {_COLUMNS}, ''::bytea FROM queue_messages "  # noqa: S608
    "WHERE hub = $1 AND due <= $2 AND queue = ANY($4) ORDER BY due LIMIT $3"
)
_NEXT_DUE = "SELECT min(due) FROM queue_messages WHERE hub = $1"

_LOCK = "SELECT 1 FROM queues WHERE hub = $1 AND queue = $2 AND depth > 0 FOR UPDATE"
_LOCK_FOR_PUT = "SELECT depth FROM queues WHERE hub = $1 AND queue = $2 FOR UPDATE"
_LOCK_IDENTITY = (
    "SELECT generation_id FROM identities WHERE hub = $1 AND device_id = $2 AND module_id = $3 FOR KEY SHARE"
)
_DEVICE = "SELECT 1 FROM identities WHERE hub = $1 AND device_id = $2 AND module_id = ''"
_PUT = """
    WITH place AS (
        INSERT INTO queues AS q (hub, queue, next, depth) VALUES ($1, $2, 2, 1)
        ON CONFLICT (hub, queue) DO UPDATE SET next = q.next + 1, depth = q.depth + 1 RETURNING next - 1 AS number
    )
    INSERT INTO queue_messages (hub, queue, number, enqueued, expires, due, head, body)
    SELECT $1, $2, number, $3, $4, $4, $5, $6 FROM place RETURNING number
"""
_CHANGE = (
    "UPDATE queue_messages SET deliveries = $4, token = $5, locked_until = $6, holder = $7, due = $8 "
    "WHERE hub = $1 AND queue = $2 AND number = $3"
)
_END = """
    WITH ended AS (
        DELETE FROM queue_messages WHERE hub = $1 AND queue = $2 AND number = ANY($3::bigint[]) RETURNING 1
    )
    UPDATE queues SET depth = depth - (SELECT count(*) FROM ended)::integer WHERE hub = $1 AND queue = $2
"""
_DEPTHS = "SELECT queue, depth FROM queues WHERE hub = $1 AND queue = ANY($2)"

_PUT_RECORD = "INSERT INTO queue_records (hub, queue, number, made, text) VALUES ($1, $2, $3, $4, $5)"
_RECORDS = (
    "SELECT queue, made, text, number FROM queue_records WHERE hub = $1 ORDER BY made, queue, number "
    "LIMIT $2 FOR UPDATE SKIP LOCKED"
)
_ANY_RECORD = "SELECT EXISTS (SELECT 1 FROM queue_records WHERE hub = $1)"
_DELETE_RECORD = "DELETE FROM queue_records WHERE hub = $1 AND queue = $2 AND number = $3"
_LEFT = "SELECT count(*), min(made) FROM queue_records WHERE hub = $1"

_FORGET = "DELETE FROM {} WHERE hub = $1 AND queue = $2"
_FORGET_BELOW = "DELETE FROM {} WHERE hub = $1 AND (queue = $2 OR (queue > $2 || '/' AND queue < $2 || '0'))"
"""A device's and its modules': "0" comes after "/"."""


class PostgresQueueStore:
    """``messages.queue_contract.QueueStore`` on a database of ``migrations``."""

    shared = True

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self, hub: str, queue: str, new: New, then: Callable[[Entry], None], *, most: int | None = None,
        generation: str | None = None, ends: EndedUpload | None = None,
    ) -> asyncio.Future[Entry]:  # fmt: skip
        async def work(step: Step) -> Entry:
            await _require(step, hub, queue, generation)
            if ends is not None and not await end_upload(step, hub, *ends):
                raise upload_unknown()
            return await _put(step, hub, queue, new, most)

        return self._submit(_place(hub, queue), work, then)

    def edit(
        self, hub: str, queue: str, which: Selection, change: Change, then: Callable[[list[Edited]], None],
        *, note: Callable[[int], Draft] | None = None,
    ) -> asyncio.Future[list[Edited]]:  # fmt: skip
        query, values = _selected(which)

        async def work(step: Step) -> list[Edited]:
            edited: list[Edited] = []
            if await step.value(_LOCK, hub, queue):
                edited = await _edit(step, hub, await step.fetch(query, hub, queue, *values), change)
            if note is not None:
                step.record((note(len(edited)),))
            return edited

        return self._submit(_place(hub, queue), work, then)

    def edit_due(
        self, hub: str, due: Due, change: Change, then: Callable[[list[Edited]], None]
    ) -> asyncio.Future[Dealt]:
        async def work(step: Step) -> Dealt:
            edited: list[Edited] = []
            if queues := {queue for (queue,) in await step.fetch(_DUE_QUEUES, hub, *due)}:
                free = [queue for (queue,) in await step.fetch(_LOCK_FREE, hub, queues)]
                edited = await _edit(step, hub, await step.fetch(_DUE, hub, *due, free), change)
            return Dealt(edited, await step.value(_NEXT_DUE, hub))

        return self._submit(f"~due/{hub}", work, lambda dealt: then(dealt.edited))

    def collect(
        self, hub: str, queue: str, limit: int, make: Make, then: Callable[[Collected], None]
    ) -> asyncio.Future[Collected]:
        async def work(step: Step) -> Collected:
            if not await step.value(_ANY_RECORD, hub):
                return Collected(0, 0, None, None)
            await step.value(_LOCK_FOR_PUT, hub, queue)  # before the records, as whoever deletes an identity
            rows = await step.fetch(_RECORDS, hub, limit)
            entry = None
            if rows:
                entry = await _put(step, hub, queue, make([Record(*row[:3]) for row in rows]))
                await step.write_many(_DELETE_RECORD, [(hub, row[0], row[3]) for row in rows])
            left = await step.row(_LEFT, hub)
            assert left is not None, "an aggregate has one row"
            return Collected(len(rows), left[0], left[1], entry)

        return self._submit(f"~collect/{hub}", work, then)

    def waiting(self, hub: str, queue: str) -> int | None:  # noqa: ARG002  as the contract has it
        return None

    async def depths(self, hub: str, queues: Sequence[str]) -> list[int]:
        # A task, for some who ask have none (``Operation.direct``), and to get a connection takes one.
        return await asyncio.get_running_loop().create_task(self._depths(hub, queues))

    async def _depths(self, hub: str, queues: Sequence[str]) -> list[int]:
        found = {queue: depth for queue, depth in await self._database.fetch(_DEPTHS, hub, queues)}  # noqa: C416
        return [found.get(queue, 0) for queue in queues]

    async def records(self, hub: str) -> tuple[int, float | None]:
        row = await self._database.row(_LEFT, hub)
        assert row is not None, "an aggregate has one row"
        return row[0], row[1]

    def _submit(self, place: str, work: Work[T], then: Callable[[T], None]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T, error: BaseException | None) -> None:
            if error is None:
                then(result)
            settle(future, result, error)

        try:
            self._database.call(place, work, done)
        except HubError as error:  # the store is closed: the hub stops
            future.set_exception(error)
        return future


async def forget_queues(step: Step, hub: str, key: IdentityKey) -> None:
    """Delete the queue and the records of an identity, of a device with its modules'. The identity's row is locked."""
    forget = _FORGET if key.module_id is not None else _FORGET_BELOW
    if await step.write(forget.format("queues"), hub, str(key)):
        for table in ("queue_messages", "queue_records"):
            await step.write(forget.format(table), hub, str(key))


def _place(hub: str, queue: str) -> str:
    """Where a queue's changes are made: each in a place of its own, so that all nodes lock queues in one order."""
    return f"{hub}/{queue}"


def _selected(which: Selection) -> tuple[str, tuple[Any, ...]]:
    match which:
        case Visible(now, limit):
            return _VISIBLE, (now, limit)
        case WithToken(token):
            return _WITH_TOKEN, (token,)
        case HeldBy(None):
            return _HELD, ()
        case HeldBy(holder):
            return _HELD_BY, (holder,)
        case Everything():
            return _ALL, ()


async def _require(step: Step, hub: str, queue: str, generation: str | None) -> None:
    """Refuse unless the identity of ``queue`` is there, and see to it that it stays until the message is put."""
    if queue.startswith("/"):
        return
    device_id, _, module_id = queue.partition("/")
    present = await step.value(_LOCK_IDENTITY, hub, device_id, module_id)
    if present is None or (generation is not None and present != generation):
        if module_id and await step.value(_DEVICE, hub, device_id) is None:
            module_id = ""
        raise not_found(IdentityKey(device_id, module_id or None))


async def _put(step: Step, hub: str, queue: str, new: New, most: int | None = None) -> Entry:
    if most is not None and (depth := await step.value(_LOCK_FOR_PUT, hub, queue) or 0) >= most:
        raise HubError(QUEUE_DEPTH, f"{queue} has {depth} messages that wait, {most} are allowed.")
    ((number,),) = await step.returning(_PUT, hub, queue, new.enqueued, new.expires, new.head, new.body)
    return Entry(number, new.enqueued, new.expires, new.head)


async def _edit(step: Step, hub: str, rows: Iterable[Any], change: Change) -> list[Edited]:
    """Change the messages ``rows``, whose queues are locked. Nothing is written before all is known."""
    edited = []
    ended: dict[str, list[int]] = {}
    changed, records = [], []
    for row in rows:
        queue, before = row[0], _entry(row)
        after = change(queue, before)
        if isinstance(after, Ending):
            ended.setdefault(queue, []).append(before.number)
            if after.record is not None:
                name, at, text = after.record
                records.append((hub, name, before.number, at, text))
        elif after is not before:
            lock = (None, None, None) if after.lock is None else after.lock
            changed.append((hub, queue, before.number, after.deliveries, *lock, after.due))
        edited.append(Edited(queue, before, after, row[9]))
    for query, values in (
        (_CHANGE, changed),
        (_END, [(hub, queue, numbers) for queue, numbers in ended.items()]),
        (_PUT_RECORD, records),
    ):
        if values:
            await step.write_many(query, values)
    return edited


def _entry(row: Any) -> Entry:
    _, number, enqueued, expires, head, deliveries, token, until, holder, _ = row
    lock = None if token is None else Lock(UUID(int=token.int), until, holder)
    return Entry(number, enqueued, expires, head, deliveries, lock)
