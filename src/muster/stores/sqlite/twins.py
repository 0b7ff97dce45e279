"""Twins in ``hub.db``: one row beside each identity's, JSON as text, so that queries can index expressions on it.

Rows are made and deleted by ``identities.py``, in the transactions that make and delete the identities.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import apsw

from muster.core.errors import TAKEN_OVER, HubError
from muster.core.json_text import JsonObject, text_of
from muster.core.memory_limits import TWIN_REMEMBERED_TEXT, TWINS_REMEMBERED
from muster.identity.changes import not_found
from muster.identity.model import IdentityKey
from muster.stores.sqlite.audit import keep
from muster.stores.sqlite.database import Writer, settle, store_error, told_as_refusal
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.twins.contract import Change, Note, Record
from muster.twins.document import Properties, Twin

HasSessions = Callable[[], bool]
"""Whether no other process can have taken over this one's sessions; asked in any thread."""

COLUMNS = (
    "version, revision, tags, desired, desired_metadata, desired_version, reported, reported_metadata, "
    "reported_version, model_id"
)
"""The columns that ``twin_of`` takes, in their order."""
_GET = f"SELECT {COLUMNS} FROM twins WHERE hub = ? AND device_id = ? AND module_id = ?"  # noqa: S608  constants
_MODEL_ID = "SELECT model_id FROM twins WHERE hub = ? AND device_id = ? AND module_id = ?"
_IS_DEVICE = "SELECT 1 FROM identities WHERE hub = ? AND device_id = ? AND module_id = ''"


class SqliteTwinStore:
    """``twins.contract.TwinStore`` on a ``hub.db``.

    Reads run on the loop, on ``reader``, which nothing but the loop's thread may use; what edits record goes into
    ``outbox``. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(
        self,
        writer: Writer,
        reader: apsw.Connection,
        outbox: SqliteOutbox | None = None,
        has_sessions: HasSessions | None = None,
    ) -> None:
        """``has_sessions`` is asked where an edit has an epoch."""
        self._has_sessions = has_sessions
        self._writer = writer
        self._reader = reader
        self._outbox = outbox

    async def get(self, hub: str, key: IdentityKey) -> Twin | None:
        with told_as_refusal(self._writer.path):
            return read_twin(self._reader, hub, key)

    async def model_id(self, hub: str, key: IdentityKey) -> str | None:
        try:  # every connection comes here, and a context manager would cost half as much again
            model_id: str | None = self._reader.execute(_MODEL_ID, (hub, key.device_id, key.module_id or "")).get
        except apsw.Error as error:
            raise store_error(self._writer.path, error) from error
        return model_id

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
        future: asyncio.Future[Twin] = asyncio.get_running_loop().create_future()
        if epoch is not None:
            change = partial(self._of_session, change, epoch)
        self._writer.call(partial(self._edit, (hub, key), change, record, note), partial(_done, future, then))
        return future

    def _of_session(self, change: Change, epoch: int, twin: Twin) -> Twin:
        """``change``, unless the session may be another process's by now.

        A session that is alive ends before a newer one begins, and a process that lost its sessions without knowing has
        lost them before it is asked here: nobody else writes until this transaction ends.
        """
        if not epoch or (self._has_sessions is not None and not self._has_sessions()):
            raise HubError(TAKEN_OVER)
        return change(twin)

    def _edit(
        self,
        which: tuple[str, IdentityKey],
        change: Change,
        record: Record | None,
        note: Note | None,
        connection: apsw.Connection,
    ) -> Twin:
        hub, key = which
        kept: dict[tuple[str, IdentityKey], Twin] = self._writer.kept
        known = kept.get(which)
        before = known or read_twin(connection, hub, key)
        if before is None:
            device = IdentityKey(key.device_id)
            raise not_found(key if connection.execute(_IS_DEVICE, (hub, key.device_id)).get else device)
        after = change(before)
        if after is not before:
            update, values, size = _update(before, after)
            self._writer.run(update, (*values, hub, key.device_id, key.module_id or ""))
            if record is not None and self._outbox is not None:
                self._outbox.keep(connection, record(before, after))
            if note is not None:
                keep(self._writer, connection, (note(before, after),))
            if len(kept) >= TWINS_REMEMBERED.open:
                kept.clear()
            if (_characters(after) if known is None else size) <= TWIN_REMEMBERED_TEXT.open:
                kept[which] = after
            else:
                kept.pop(which, None)
        return after


def _done(future: asyncio.Future[Twin], then: Callable[[Twin], None], twin: Twin, error: BaseException | None) -> None:
    settle(future, twin, error)
    if error is None:
        then(twin)


def read_twin(connection: apsw.Connection, hub: str, key: IdentityKey) -> Twin | None:
    """The twin as ``connection`` sees it at this moment."""
    row = connection.execute(_GET, (hub, key.device_id, key.module_id or "")).get
    return None if row is None else twin_of(row)


def _characters(twin: Twin) -> int:
    parts = (twin.tags, twin.desired.values, twin.desired.metadata, twin.reported.values, twin.reported.metadata)
    return sum([len(text_of(part)) for part in parts])


def _update(before: Twin, after: Twin) -> tuple[str, list[Any], int]:
    """The statement that writes what has changed, its values, and the characters in them."""
    parts = size = 0
    values: list[Any] = [after.version, after.revision]
    if after.tags is not before.tags:
        parts = 1
        tags = text_of(after.tags)
        size = len(tags)
        values.append(tags)
    for bit, was, part in ((2, before.desired, after.desired), (4, before.reported, after.reported)):
        if part is not was:
            parts |= bit
            content, metadata = text_of(part.values), text_of(part.metadata)
            size += len(content) + len(metadata)
            values += content, metadata, part.version
    if after.model_id != before.model_id:
        parts |= 8
        values.append(after.model_id)
    return _UPDATES[parts], values, size


_PARTS = {
    1: ", tags = ?",
    2: ", desired = ?, desired_metadata = ?, desired_version = ?",
    4: ", reported = ?, reported_metadata = ?, reported_version = ?",
    8: ", model_id = ?",
}
_UPDATES = tuple(
    f"UPDATE twins SET version = ?, revision = ?{''.join(text for bit, text in _PARTS.items() if parts & bit)} "  # noqa: S608
    "WHERE hub = ? AND device_id = ? AND module_id = ?"
    for parts in range(16)
)


def twin_of(row: tuple[Any, ...]) -> Twin:
    """The twin that a row of ``COLUMNS`` holds."""
    (
        version, revision, tags, desired, desired_metadata, desired_version, reported, reported_metadata,
        reported_version, model_id,
    ) = row  # fmt: skip
    return Twin(
        JsonObject(tags),
        Properties(JsonObject(desired), JsonObject(desired_metadata), desired_version),
        Properties(JsonObject(reported), JsonObject(reported_metadata), reported_version),
        version,
        revision,
        model_id,
    )
