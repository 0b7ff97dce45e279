"""Identities in ``hub.db``.

One row for each identity, clustered on (hub, device, module), where the empty module id means the device
itself. Measured with 10^6 devices: a point read costs 11 to 13 microseconds with and without a rowid; without,
the file is a sixth smaller, a listing reads pages in order, and a device stands beside its modules. Devices
are counted as they are written: counting 10^6 rows at every call would not do. The row of an identity's twin comes
and goes with it, in the same transaction; what stands in it is the affair of ``twins.py``. Its queue (``queues.py``)
and its MQTT subscriptions (``subscriptions.py``) go with it too, and a device's file uploads (``uploads.py``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from muster.core.errors import DEVICE_NOT_FOUND, HubError
from muster.core.memory_limits import IDENTITIES_REMEMBERED
from muster.core.outbox import Entry
from muster.identity.contract import Counts, Edit, Standing
from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey, Status
from muster.stores.sqlite.audit import keep
from muster.stores.sqlite.database import Writer, settle, store_error
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.stores.sqlite.queues import forget_queues
from muster.stores.sqlite.subscriptions import forget_subscriptions
from muster.stores.sqlite.twins import read_twin
from muster.twins.contract import LifecycleRecorder
from muster.twins.document import EMPTY

COLUMNS = (
    "device_id, module_id, generation_id, version, authentication, primary_key, secondary_key, primary_thumbprint, "
    "secondary_thumbprint, status, status_reason, status_updated, iot_edge, device_scope, parent_scopes, managed_by"
)
"""The columns that ``identity_of`` takes, in their order."""
# Only the fixed list of columns goes into these texts; every value is bound.
_GET = f"SELECT {COLUMNS} FROM identities WHERE hub = ? AND device_id = ? AND module_id = ?"  # noqa: S608
_DEVICES = (
    f"SELECT {COLUMNS} FROM identities WHERE hub = ? AND device_id > ? AND module_id = '' "  # noqa: S608
    "ORDER BY device_id LIMIT ?"
)
_MODULES = (
    f"SELECT {COLUMNS} FROM identities WHERE hub = ? AND device_id = ? AND module_id > '' "  # noqa: S608
    "ORDER BY module_id"
)
_COUNT_MODULES = "SELECT count(*) FROM identities WHERE hub = ? AND device_id = ? AND module_id > ''"
PUT = f"INSERT OR REPLACE INTO identities (hub, {COLUMNS}) VALUES (?{', ?' * 16})"  # noqa: S608
"""Writes what ``row_of`` makes."""
_DELETE = "DELETE FROM identities WHERE hub = ? AND device_id = ? AND module_id = ?"
_DELETE_DEVICE = "DELETE FROM identities WHERE hub = ? AND device_id = ?"
_PUT_TWIN = "INSERT INTO twins (hub, device_id, module_id) VALUES (?, ?, ?)"  # its columns' defaults are the empty twin
_DELETE_TWIN = "DELETE FROM twins WHERE hub = ? AND device_id = ? AND module_id = ?"
_DELETE_TWINS = "DELETE FROM twins WHERE hub = ? AND device_id = ?"
_DELETE_UPLOADS = "DELETE FROM uploads WHERE hub = ? AND device_id = ?"
_COUNTS = "SELECT status, devices FROM identity_counts WHERE hub = ?"
_ADD_COUNT = (
    "INSERT INTO identity_counts (hub, status, devices) VALUES (?, ?, ?) "
    "ON CONFLICT (hub, status) DO UPDATE SET devices = devices + excluded.devices"
)

_PAGE = 200
"""Devices that a listing reads at a time; between pages the loop goes on and no transaction is open."""
_STATUS = {status.value: status for status in Status}
_AUTHENTICATION = {kind.value: kind for kind in AuthenticationType}


class SqliteIdentityStore:
    """``identity.contract.IdentityStore`` on a ``hub.db``.

    Reads run on the loop, on ``reader``, which nothing but the loop's thread may use: a point read costs less
    than handing it to another thread would. What ``recorder`` makes of identities that come and go is put into
    ``outbox``. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(
        self,
        writer: Writer,
        reader: apsw.Connection,
        outbox: SqliteOutbox | None = None,
        recorder: LifecycleRecorder | None = None,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._outbox = outbox
        self._recorder = recorder
        self._remembered: dict[tuple[str, str], dict[str | None, Identity]] = {}
        """By hub and device: it and its modules, as they were last read."""

    async def get(self, hub: str, key: IdentityKey) -> Identity | None:
        """See ``IdentityStore``. A device that is remembered is forgotten when a change of it or of a module is told
        of, before the one who asked for that hears of it."""
        device_id, module_id = key
        known = self._remembered.get((hub, device_id))
        if known is not None and module_id in known:
            return known[module_id]
        try:
            identity = _get(self._reader, hub, key)
        except apsw.Error as error:
            raise store_error(self._writer.path, error) from error
        if identity is not None:
            if known is None:
                if len(self._remembered) >= IDENTITIES_REMEMBERED.open:
                    del self._remembered[next(iter(self._remembered))]
                known = self._remembered[hub, device_id] = {}
            known[module_id] = identity
        return identity

    async def devices(self, hub: str, limit: int) -> Sequence[Identity]:
        found: list[Identity] = []
        after = ""
        while len(found) < limit:
            page = self._read(_DEVICES, (hub, after, min(_PAGE, limit - len(found))))
            found += page
            if len(page) < _PAGE:
                break
            after = page[-1].device_id
            await asyncio.sleep(0)
        return found

    async def modules(self, hub: str, device_id: str) -> Sequence[Identity]:
        return self._read(_MODULES, (hub, device_id))

    async def counts(self, hub: str) -> Counts:
        try:
            by_status: dict[str, int] = dict(self._reader.execute(_COUNTS, (hub,)))
        except apsw.Error as error:
            raise store_error(self._writer.path, error) from error
        return Counts(by_status.get(Status.ENABLED, 0), by_status.get(Status.DISABLED, 0))

    async def edit(self, hub: str, edits: Sequence[Edit]) -> list[Identity | Exception | None]:
        if not edits:
            return []
        future: asyncio.Future[list[Identity | Exception | None]] = asyncio.get_running_loop().create_future()

        def done(outcomes: list[Identity | Exception | None], error: BaseException | None) -> None:
            for edit in edits:
                self.forget(hub, edit.key.device_id)
            settle(future, outcomes, error)

        self._writer.call(lambda connection: [self.edit_within(connection, hub, edit) for edit in edits], done)
        return await future

    def forget(self, hub: str, device_id: str) -> None:
        """Read the device and its modules anew: they may have changed, here or in another process.

        Nothing is remembered later that was read before, for a read neither waits nor leaves the loop's thread.
        """
        self._remembered.pop((hub, device_id), None)

    def forget_all(self) -> None:
        """Read all anew: what other processes have told may have been missed."""
        self._remembered.clear()

    def edit_within(self, connection: apsw.Connection, hub: str, edit: Edit) -> Identity | Exception | None:
        """One edit within a transaction of the writer. What refuses is raised before anything is written."""
        try:
            standing = _standing(connection, hub, edit.key)
            wanted = edit.change(standing)
        except HubError as error:
            return error
        before = standing.identity
        if wanted is before:
            return before
        if self._recorder is not None and self._outbox is not None and (wanted is None or before is None):
            self._outbox.keep(connection, _recorded(self._recorder, connection, hub, before, wanted))
        going = [] if before is None else _going(connection, hub, before, wanted)
        if wanted is None or before is None:
            self._writer.kept.clear()  # twins begin and end with their identities
        _write(connection, hub, edit.key, before, wanted)
        if edit.note is not None:
            changed = [edit.note(one, None) for one in going] or [edit.note(before, wanted)]
            keep(self._writer, connection, changed)
        return wanted

    def _read(self, query: str, bindings: tuple[Any, ...]) -> list[Identity]:
        try:
            return [identity_of(row) for row in self._reader.execute(query, bindings)]
        except apsw.Error as error:
            raise store_error(self._writer.path, error) from error


def _get(connection: apsw.Connection, hub: str, key: IdentityKey) -> Identity | None:
    row = connection.execute(_GET, (hub, key.device_id, key.module_id or "")).get
    return None if row is None else identity_of(row)


def _going(connection: apsw.Connection, hub: str, before: Identity, wanted: Identity | None) -> list[Identity]:
    """What is deleted when ``before`` becomes ``wanted``: a device's modules first; nothing when it is only changed."""
    if wanted is not None:
        return []
    if before.module_id is not None:
        return [before]
    modules = connection.execute(_MODULES, (hub, before.device_id))
    return [*(identity_of(row) for row in modules), before]


def _recorded(
    recorder: LifecycleRecorder, connection: apsw.Connection, hub: str, before: Identity | None, wanted: Identity | None
) -> list[Entry]:
    """What is to be told of an identity that comes, or of one that is about to go, its modules first."""
    if wanted is not None:
        return list(recorder.identity_changed(wanted, EMPTY, created=True))
    assert before is not None
    entries: list[Entry] = []
    for identity in _going(connection, hub, before, None):
        twin = read_twin(connection, hub, identity.key)
        entries += recorder.identity_changed(identity, twin or EMPTY, created=False)
    return entries


def _write(
    connection: apsw.Connection, hub: str, key: IdentityKey, before: Identity | None, wanted: Identity | None
) -> None:
    device_id, module_id = key
    if wanted is not None:
        connection.execute(PUT, row_of(hub, wanted))
        if before is None:
            connection.execute(_PUT_TWIN, (hub, device_id, module_id or ""))
    elif module_id is not None:
        connection.execute(_DELETE, (hub, device_id, module_id))
        connection.execute(_DELETE_TWIN, (hub, device_id, module_id))
    else:
        connection.execute(_DELETE_DEVICE, (hub, device_id))
        connection.execute(_DELETE_TWINS, (hub, device_id))
        connection.execute(_DELETE_UPLOADS, (hub, device_id))
    if wanted is None:
        forget_queues(connection, hub, key)
        forget_subscriptions(connection, hub, key)
    if module_id is None:
        _recount(connection, hub, before, wanted)


def _standing(connection: apsw.Connection, hub: str, key: IdentityKey) -> Standing:
    identity = _get(connection, hub, key)
    if key.module_id is None:
        return Standing(identity)
    device = _get(connection, hub, IdentityKey(key.device_id))
    if device is None:
        raise HubError(DEVICE_NOT_FOUND, key.device_id)
    modules = connection.execute(_COUNT_MODULES, (hub, key.device_id)).get
    return Standing(identity, device, modules)


def _recount(connection: apsw.Connection, hub: str, before: Identity | None, after: Identity | None) -> None:
    if before is None or after is None or before.status is not after.status:
        changed: dict[str, int] = {one.status: more for one, more in ((before, -1), (after, 1)) if one is not None}
        add_counts(connection, hub, changed)


def add_counts(connection: apsw.Connection, hub: str, more: Mapping[str, int]) -> None:
    """Count so many devices more, or less, by status."""
    for status, devices in more.items():
        connection.execute(_ADD_COUNT, (hub, status, devices))


def row_of(hub: str, identity: Identity) -> tuple[Any, ...]:
    """The row of ``identity``."""
    authentication = identity.authentication
    return (
        hub,
        identity.key.device_id,
        identity.key.module_id or "",
        identity.generation_id,
        identity.version,
        authentication.type,
        authentication.primary_key,
        authentication.secondary_key,
        authentication.primary_thumbprint,
        authentication.secondary_thumbprint,
        identity.status,
        identity.status_reason,
        identity.status_updated,
        identity.iot_edge,
        identity.device_scope,
        json.dumps(identity.parent_scopes) if identity.parent_scopes else None,
        identity.managed_by,
    )


def identity_of(row: tuple[Any, ...]) -> Identity:
    """The identity that a row of ``COLUMNS`` holds."""
    (
        device_id, module_id, generation_id, version, kind, primary_key, secondary_key, primary_thumbprint,
        secondary_thumbprint, status, reason, updated, iot_edge, device_scope, parent_scopes, managed_by,
    ) = row  # fmt: skip
    return Identity(
        key=IdentityKey(device_id, module_id or None),
        generation_id=generation_id,
        version=version,
        authentication=Authentication(
            _AUTHENTICATION[kind], primary_key, secondary_key, primary_thumbprint, secondary_thumbprint
        ),
        status=_STATUS[status],
        status_reason=reason,
        status_updated=updated,
        iot_edge=bool(iot_edge),
        device_scope=device_scope,
        parent_scopes=tuple(json.loads(parent_scopes)) if parent_scopes else (),
        managed_by=managed_by,
    )
