"""Twins in ``hub.db``: one row beside each identity's, JSON as text, so that queries can index expressions on it.

Rows are made and deleted by ``identities.py``, in the transactions that make and delete the identities.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import apsw

from muster.identity.changes import not_found
from muster.identity.model import IdentityKey
from muster.stores.sqlite.database import Writer, store_error, told_as_refusal
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.twins.contract import Change, Record
from muster.twins.document import Content, Properties, Twin

COLUMNS = (
    "version, revision, tags, desired, desired_metadata, desired_version, reported, reported_metadata, "
    "reported_version, model_id"
)
"""The columns that ``twin_of`` takes, in their order."""
_GET = f"SELECT {COLUMNS} FROM twins WHERE hub = ? AND device_id = ? AND module_id = ?"  # noqa: S608  constants
_MODEL_ID = "SELECT model_id FROM twins WHERE hub = ? AND device_id = ? AND module_id = ?"
_PUT = (
    "UPDATE twins SET version = ?, revision = ?, tags = ?, desired = ?, desired_metadata = ?, desired_version = ?, "
    "reported = ?, reported_metadata = ?, reported_version = ?, model_id = ? "
    "WHERE hub = ? AND device_id = ? AND module_id = ?"
)
_IS_DEVICE = "SELECT 1 FROM identities WHERE hub = ? AND device_id = ? AND module_id = ''"

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class SqliteTwinStore:
    """``twins.contract.TwinStore`` on a ``hub.db``.

    Reads run on the loop, on ``reader``, which nothing but the loop's thread may use; what edits record goes into
    ``outbox``. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection, outbox: SqliteOutbox | None = None) -> None:
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

    async def edit(
        self,
        hub: str,
        key: IdentityKey,
        change: Change,
        then: Callable[[Twin], None],
        record: Record | None = None,
    ) -> Twin:
        future: asyncio.Future[Twin] = asyncio.get_running_loop().create_future()

        def done(twin: Twin, error: BaseException | None) -> None:
            if not future.done():
                if error is None:
                    future.set_result(twin)
                else:
                    future.set_exception(error)
            if error is None:
                then(twin)

        self._writer.call(lambda connection: self._edit(connection, hub, key, change, record), done)
        return await future

    def _edit(
        self, connection: apsw.Connection, hub: str, key: IdentityKey, change: Change, record: Record | None
    ) -> Twin:
        before = read_twin(connection, hub, key)
        if before is None:
            device = IdentityKey(key.device_id)
            raise not_found(key if connection.execute(_IS_DEVICE, (hub, key.device_id)).get else device)
        after = change(before)
        if after is not before:
            connection.execute(_PUT, (*_row(after), hub, key.device_id, key.module_id or ""))
            if record is not None and self._outbox is not None:
                self._outbox.keep(connection, record(before, after))
        return after


def read_twin(connection: apsw.Connection, hub: str, key: IdentityKey) -> Twin | None:
    """The twin as ``connection`` sees it at this moment."""
    row = connection.execute(_GET, (hub, key.device_id, key.module_id or "")).get
    return None if row is None else twin_of(row)


def _row(twin: Twin) -> tuple[Any, ...]:
    desired, reported = twin.desired, twin.reported
    return (
        twin.version,
        twin.revision,
        _text(twin.tags),
        _text(desired.values),
        _text(desired.metadata),
        desired.version,
        _text(reported.values),
        _text(reported.metadata),
        reported.version,
        twin.model_id,
    )


def _text(content: Content) -> str:
    return _encoder.encode(content)


def twin_of(row: tuple[Any, ...]) -> Twin:
    """The twin that a row of ``COLUMNS`` holds."""
    (
        version, revision, tags, desired, desired_metadata, desired_version, reported, reported_metadata,
        reported_version, model_id,
    ) = row  # fmt: skip
    return Twin(
        tags=json.loads(tags),
        desired=Properties(json.loads(desired), json.loads(desired_metadata), desired_version),
        reported=Properties(json.loads(reported), json.loads(reported_metadata), reported_version),
        version=version,
        revision=revision,
        model_id=model_id,
    )
