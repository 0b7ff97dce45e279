"""Twins in PostgreSQL: one row beside each identity's, jsonb, so that queries can look into them and index them.

Rows are made and deleted by ``identities.py``, in the transactions that make and delete the identities. Other nodes
write too: a twin is read, and locked, for each change, and none is remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import asyncpg

from muster.core.errors import TAKEN_OVER, HubError
from muster.core.outbox import Entry
from muster.identity.changes import not_found
from muster.identity.model import IdentityKey
from muster.stores.postgres.database import Database, Step, settle
from muster.stores.postgres.lookups import Lookups
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.texts import meant, meant_object, spelled, spelled_object
from muster.twins.contract import Change, Note, Record
from muster.twins.document import EMPTY, Properties, Twin

COLUMNS = (
    "version, revision, tags, desired, desired_metadata, desired_version, reported, reported_metadata, "
    "reported_version, model_id"
)
"""The columns that ``twin_of`` takes, in their order."""
_LOCK = f"SELECT {COLUMNS} FROM twins WHERE hub = $1 AND device_id = $2 AND module_id = $3 FOR UPDATE"  # noqa: S608
# A subquery that locks is run for each row of the outer one, in their order.
_LOCK_ALL = (
    "SELECT number, found.* FROM unnest($1::text[], $2::text[], $3::text[]) "  # noqa: S608
    "WITH ORDINALITY AS asked (hub, device_id, module_id, number) CROSS JOIN LATERAL "
    f"(SELECT {COLUMNS} FROM twins AS kept WHERE kept.hub = asked.hub AND kept.device_id = asked.device_id "
    "AND kept.module_id = asked.module_id FOR UPDATE) AS found"
)
_INSERT_EMPTY = (  # the columns' defaults are the empty twin
    "INSERT INTO twins (hub, device_id, module_id) SELECT $1, made.* FROM unnest($2::text[], $3::text[]) AS made"
)
_INSERT = (
    f"INSERT INTO twins (hub, device_id, module_id, {COLUMNS}) SELECT $1, made.* FROM unnest($2::text[], $3::text[], "  # noqa: S608
    "$4::bigint[], $5::bigint[], $6::jsonb[], $7::jsonb[], $8::jsonb[], $9::bigint[], $10::jsonb[], $11::jsonb[], "
    "$12::bigint[], $13::text[]) AS made"
)
_LAST_SESSIONS = (
    "SELECT number, found.epoch FROM unnest($1::text[], $2::text[], $3::text[]) "
    "WITH ORDINALITY AS asked (hub, device_id, module_id, number) CROSS JOIN LATERAL "
    "(SELECT epoch FROM sessions AS kept WHERE kept.hub = asked.hub AND kept.device_id = asked.device_id "
    "AND kept.module_id = asked.module_id FOR SHARE) AS found"
)
_IS_DEVICE = "SELECT 1 FROM identities WHERE hub = $1 AND device_id = $2 AND module_id = ''"


Place = tuple[str, str, str]
"""Hub, device and module of a twin; the empty module id means the device."""


class PostgresTwinStore:
    """``twins.contract.TwinStore`` on a database of ``migrations``; what edits record goes into ``outbox``.

    Raises ``HubError`` as the database does.
    """

    def __init__(self, database: Database, outbox: PostgresOutbox | None = None) -> None:
        self._database = database
        self._outbox = outbox
        self._twins = Lookups(database, "twins", COLUMNS, twin_of)
        self._models = Lookups(database, "twins", "model_id", _model_of)

    async def get(self, hub: str, key: IdentityKey) -> Twin | None:
        """See ``TwinStore``."""
        return await self._twins.find(hub, key)

    async def model_id(self, hub: str, key: IdentityKey) -> str | None:
        """See ``TwinStore``."""
        return await self._models.find(hub, key)

    def edit(
        self,
        hub: str,
        key: IdentityKey,
        change: Change,
        then: Callable[[Twin], None],
        record: Record | None = None,
        *,
        note: Note | None = None,
        epoch: int | None = None,
    ) -> asyncio.Future[Twin]:
        """See ``TwinStore``."""
        future: asyncio.Future[Twin] = asyncio.get_running_loop().create_future()

        def done(outcome: tuple[Twin, bool] | None, error: BaseException | None) -> None:
            twin, recorded = outcome or (EMPTY, False)
            settle(future, twin, error)
            if error is None:
                then(twin)
            if recorded and self._outbox is not None:
                self._outbox.filled()

        edit = _Edit((hub, key.device_id, key.module_id or ""), key, change, record, note, epoch)
        self._database.call_together(f"{hub}/{key.device_id}", self._edit_all, edit, done)
        return future

    async def _edit_all(self, step: Step, edits: Sequence[_Edit]) -> list[tuple[Twin, bool] | Exception]:
        """What each twin is then, and whether something of the edit went into the outbox; or why it was refused."""
        before = await lock_twins(step, sorted({edit.place for edit in edits}))
        epochs = await _epochs(step, edits)
        twins = dict(before)
        entries: list[Entry] = []
        outcomes: list[tuple[Twin, bool] | Exception] = []
        for edit in edits:
            twin = twins.get(edit.place)
            if twin is None:
                outcomes.append(await _missing(step, edit))
                continue
            if edit.epoch is not None and edit.epoch != epochs.get(edit.place):
                outcomes.append(HubError(TAKEN_OVER))
                continue
            try:
                after = edit.change(twin)
                changed = after is not twin
                told = edit.record(twin, after) if changed and edit.record is not None else ()
                if changed and edit.note is not None:
                    step.record((edit.note(twin, after),))
            except Exception as error:  # theirs: nothing here asks the database
                outcomes.append(error)
                continue
            twins[edit.place] = after
            entries += told
            outcomes.append((after, bool(told)))
        await write_twins(step, [(place, twin, twins[place]) for place, twin in before.items()])
        if self._outbox is not None:
            await self._outbox.keep(step, entries)
        return outcomes


class _Edit(NamedTuple):
    """An edit of the twin that stands at ``place``."""

    place: Place
    key: IdentityKey
    change: Change
    record: Record | None
    note: Note | None
    epoch: int | None


async def _epochs(step: Step, edits: Sequence[_Edit]) -> dict[Place, int]:
    """The epochs of the last sessions of those whose sessions ask; they stay so until the transaction ends: who claims
    such an identity meanwhile waits."""
    places = sorted({edit.place for edit in edits if edit.epoch is not None})
    if not places:
        return {}
    rows = await step.fetch(_LAST_SESSIONS, *zip(*places, strict=True))
    return {places[number - 1]: epoch for number, epoch in rows}


async def _missing(step: Step, edit: _Edit) -> HubError:
    hub, device_id, _ = edit.place
    is_device = await step.value(_IS_DEVICE, hub, device_id) is not None
    return not_found(edit.key if is_device else IdentityKey(device_id))


async def lock_twins(step: Step, places: Sequence[Place]) -> dict[Place, Twin]:
    """The twins at ``places`` that are there, as they are until the transaction ends; locked in this order."""
    if len(places) == 1:
        row = await step.row(_LOCK, *places[0])
        return {} if row is None else {places[0]: twin_of(row)}
    rows = await step.fetch(_LOCK_ALL, *zip(*places, strict=True))
    return {places[row[0] - 1]: twin_of(row[1:]) for row in rows}


async def lock_twin(step: Step, hub: str, key: IdentityKey) -> Twin | None:
    """The twin as it is until the transaction ends."""
    row = await step.row(_LOCK, hub, key.device_id, key.module_id or "")
    return None if row is None else twin_of(row)


async def insert_twins(step: Step, hub: str, twins: Sequence[tuple[IdentityKey, Twin]]) -> None:
    """Make the twins of new identities."""
    empty = [key for key, twin in twins if twin is EMPTY]
    if empty:
        await step.write(_INSERT_EMPTY, hub, [key.device_id for key in empty], [key.module_id or "" for key in empty])
    rows = [(key.device_id, key.module_id or "", *_row_of(twin)) for key, twin in twins if twin is not EMPTY]
    if rows:
        await step.write(_INSERT, hub, *zip(*rows, strict=True))


def _row_of(twin: Twin) -> tuple[Any, ...]:
    desired, reported = twin.desired, twin.reported
    return (
        twin.version, twin.revision, spelled_object(twin.tags),
        spelled_object(desired.values), spelled_object(desired.metadata), desired.version,
        spelled_object(reported.values), spelled_object(reported.metadata), reported.version,
        twin.model_id and spelled(twin.model_id),
    )  # fmt: skip


async def write_twins(step: Step, changes: Sequence[tuple[Place, Twin, Twin]]) -> None:
    """Write what of the twins has changed, those of which the same has in one statement."""
    updates: dict[int, list[tuple[Any, ...]]] = {}
    for place, before, after in changes:
        if after is not before:
            parts, values = _changed(before, after)
            updates.setdefault(parts, []).append((*place, *values))
    for parts, rows in updates.items():
        if len(rows) == 1:
            await step.write(_UPDATES[parts], *rows[0])
        else:
            await step.write(_UPDATES_OF_MANY[parts], *zip(*rows, strict=True))


def _changed(before: Twin, after: Twin) -> tuple[int, list[Any]]:
    """Which ``_PARTS`` have changed, and the values of ``_columns`` of these."""
    parts = 0
    values: list[Any] = [after.version, after.revision]
    if after.tags is not before.tags:
        parts = 1
        values.append(spelled_object(after.tags))
    for bit, was, part in ((2, before.desired, after.desired), (4, before.reported, after.reported)):
        if part is not was:
            parts |= bit
            values += spelled_object(part.values), spelled_object(part.metadata), part.version
    if after.model_id != before.model_id:
        parts |= 8
        values.append(after.model_id and spelled(after.model_id))
    return parts, values


_PARTS = (
    (1, {"tags": "jsonb"}),
    (2, {"desired": "jsonb", "desired_metadata": "jsonb", "desired_version": "bigint"}),
    (4, {"reported": "jsonb", "reported_metadata": "jsonb", "reported_version": "bigint"}),
    (8, {"model_id": "text"}),
)


def _columns(parts: int) -> dict[str, str]:
    """What is written when ``parts`` have changed, with the types."""
    columns = {"version": "bigint", "revision": "bigint"}
    for bit, more in _PARTS:
        if parts & bit:
            columns |= more
    return columns


def _update(parts: int) -> str:
    changes = ", ".join(f"{name} = ${number}" for number, name in enumerate(_columns(parts), 4))
    return f"UPDATE twins SET {changes} WHERE hub = $1 AND device_id = $2 AND module_id = $3"  # noqa: S608  constants


def _update_of_many(parts: int) -> str:
    columns = _columns(parts)
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(["text"] * 3 + [*columns.values()], 1))
    return (
        f"UPDATE twins AS kept SET {', '.join(f'{name} = changed.{name}' for name in columns)} "  # noqa: S608  constants
        f"FROM unnest({arrays}) AS changed (hub, device_id, module_id, {', '.join(columns)}) "
        "WHERE kept.hub = changed.hub AND kept.device_id = changed.device_id AND kept.module_id = changed.module_id"
    )


_UPDATES, _UPDATES_OF_MANY = tuple(map(_update, range(16))), tuple(map(_update_of_many, range(16)))


def twin_of(row: asyncpg.Record | tuple[Any, ...]) -> Twin:
    """The twin that a row of ``COLUMNS`` holds."""
    (
        version, revision, tags, desired, desired_metadata, desired_version, reported, reported_metadata,
        reported_version, model_id,
    ) = row  # fmt: skip
    return Twin(
        meant_object(tags),
        Properties(meant_object(desired), meant_object(desired_metadata), desired_version),
        Properties(meant_object(reported), meant_object(reported_metadata), reported_version),
        version,
        revision,
        None if model_id is None else meant(model_id),
    )


def _model_of(row: asyncpg.Record) -> str | None:
    return None if row[0] is None else meant(row[0])
