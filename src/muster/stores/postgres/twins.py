"""Twins in PostgreSQL: one row beside each identity's, jsonb, so that queries can look into them and index them.

Rows are made and deleted by ``identities.py``, in the transactions that make and delete the identities. Other nodes
write too: a twin is read, and locked, for each change, and none is remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg

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
_IS_DEVICE = "SELECT 1 FROM identities WHERE hub = $1 AND device_id = $2 AND module_id = ''"


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
    ) -> asyncio.Future[Twin]:
        """See ``TwinStore``."""
        future: asyncio.Future[Twin] = asyncio.get_running_loop().create_future()

        async def work(step: Step) -> tuple[Twin, bool]:
            return await self._edit(step, (hub, key), change, record, note)

        def done(outcome: tuple[Twin, bool] | None, error: BaseException | None) -> None:
            twin, recorded = outcome or (EMPTY, False)
            settle(future, twin, error)
            if error is None:
                then(twin)
            if recorded and self._outbox is not None:
                self._outbox.filled()

        self._database.call(f"{hub}/{key.device_id}", work, done)
        return future

    async def _edit(
        self, step: Step, which: tuple[str, IdentityKey], change: Change, record: Record | None, note: Note | None
    ) -> tuple[Twin, bool]:
        """What the twin is now, and whether something of it went into the outbox."""
        hub, key = which
        before = await lock_twin(step, hub, key)
        if before is None:
            device = IdentityKey(key.device_id)
            raise not_found(key if await step.value(_IS_DEVICE, hub, key.device_id) else device)
        after = change(before)
        if after is before:
            return after, False
        entries = record(before, after) if record is not None else ()
        update, values = _update(before, after)
        await step.write(update, hub, key.device_id, key.module_id or "", *values)
        if note is not None:
            step.record((note(before, after),))
        return after, self._outbox is not None and await self._outbox.keep(step, entries)


async def lock_twin(step: Step, hub: str, key: IdentityKey) -> Twin | None:
    """The twin as it is until the transaction ends."""
    row = await step.row(_LOCK, hub, key.device_id, key.module_id or "")
    return None if row is None else twin_of(row)


def _update(before: Twin, after: Twin) -> tuple[str, list[Any]]:
    """The statement that writes what has changed, and its values from the fourth on."""
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
    return _UPDATES[parts], values


_PARTS = {
    1: ("tags",),
    2: ("desired", "desired_metadata", "desired_version"),
    4: ("reported", "reported_metadata", "reported_version"),
    8: ("model_id",),
}


def _statement(parts: int) -> str:
    columns = ["version", "revision", *(name for bit, names in _PARTS.items() if parts & bit for name in names)]
    changes = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 4))
    return f"UPDATE twins SET {changes} WHERE hub = $1 AND device_id = $2 AND module_id = $3"  # noqa: S608  constants


_UPDATES = tuple(map(_statement, range(16)))


def twin_of(row: asyncpg.Record) -> Twin:
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
