"""Identities in PostgreSQL.

One row for each identity. What goes with it comes and goes in the same transaction: its twin (``twins.py``), its queue
(``queues.py``), its MQTT subscriptions, a device's file uploads. Every change of a device or of one of its modules
locks the device's row, so several nodes take turns; two that make the same device find out by its key, and the second
looks again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import asyncpg

from muster.core.errors import DEVICE_NOT_FOUND, UNAVAILABLE, HubError
from muster.core.memory_limits import IDENTITIES_REMEMBERED
from muster.core.outbox import Entry
from muster.identity.contract import Counts, Edit, Standing
from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey, Status
from muster.stores.postgres.database import Database, Step, settle
from muster.stores.postgres.lookups import Lookups
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.queues import forget_queues
from muster.stores.postgres.texts import meant, meant_json, spelled, spelled_json
from muster.stores.postgres.twins import lock_twin
from muster.twins.contract import LifecycleRecorder
from muster.twins.document import EMPTY

COLUMNS = (
    "device_id, module_id, generation_id, version, authentication, primary_key, secondary_key, primary_thumbprint, "
    "secondary_thumbprint, status, status_reason, status_updated, iot_edge, device_scope, parent_scopes, managed_by"
)
"""The columns that ``identity_of`` takes, in their order."""
_WIDTH = COLUMNS.count(",") + 1
# Only the fixed list of columns goes into these texts; every value is bound.
_LOCK = f"SELECT {COLUMNS} FROM identities WHERE hub = $1 AND device_id = $2 AND module_id = '' FOR UPDATE"  # noqa: S608
_DEVICES = (
    f"SELECT {COLUMNS} FROM identities WHERE hub = $1 AND device_id > $2 AND module_id = '' "  # noqa: S608
    "ORDER BY device_id LIMIT $3"
)
_MODULES = (
    f"SELECT {COLUMNS} FROM identities WHERE hub = $1 AND device_id = $2 AND module_id > '' "  # noqa: S608
    "ORDER BY module_id"
)
_CREATE = (
    f"WITH made AS (INSERT INTO identities (hub, {COLUMNS}) "  # noqa: S608
    f"VALUES ($1, {', '.join(f'${number}' for number in range(2, _WIDTH + 2))}) "
    "ON CONFLICT DO NOTHING RETURNING hub, device_id, module_id) "
    "INSERT INTO twins (hub, device_id, module_id) SELECT * FROM made"  # its columns' defaults are the empty twin
)
_CHANGE = (
    "UPDATE identities SET "  # noqa: S608
    f"{', '.join(f'{name} = ${number}' for number, name in enumerate(COLUMNS.split(', ')[2:], 4))} "
    "WHERE hub = $1 AND device_id = $2 AND module_id = $3"
)
_DELETE = tuple(
    f"DELETE FROM {table} WHERE hub = $1 AND device_id = $2 AND module_id = $3"  # noqa: S608
    for table in ("identities", "twins", "subscriptions")
)
_DELETE_DEVICE = tuple(
    f"DELETE FROM {table} WHERE hub = $1 AND device_id = $2"  # noqa: S608
    for table in ("identities", "twins", "subscriptions", "uploads")
)
_COUNTS = "SELECT status, sum(devices)::bigint AS devices FROM identity_counts WHERE hub = $1 GROUP BY status"

_PAGE = 200
"""Devices that a listing reads at a time."""
_TRIES = 5
"""How often a change looks again that came too late to make something."""
_STATUS = {status.value: status for status in Status}
_AUTHENTICATION = {kind.value: kind for kind in AuthenticationType}

_Outcome = Identity | Exception | None
_Place = tuple[str, str]


class PostgresIdentityStore:
    """``identity.contract.IdentityStore`` on a database of ``migrations``.

    Identities that were read are remembered until they are changed by this process, or ``forget`` says that another one
    has. What ``recorder`` makes of identities that come and go is put into ``outbox``. The edits of a call are made
    device by device: when the database fails meanwhile, some may be done and the outcome of others is its ``HubError``.
    """

    def __init__(
        self, database: Database, outbox: PostgresOutbox | None = None, recorder: LifecycleRecorder | None = None
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._recorder = recorder
        self._rows = Lookups(database, "identities", COLUMNS, identity_of)
        self._remembered: dict[_Place, dict[str | None, Identity]] = {}
        """By hub and device: it and its modules, as they were last read."""
        self._reading: dict[_Place, dict[str | None, Identity]] = {}
        """What will be remembered; whoever forgets it meanwhile leaves the reader with a copy that nobody else has."""

    async def get(self, hub: str, key: IdentityKey) -> Identity | None:
        """See ``IdentityStore``."""
        place, module_id = (hub, key.device_id), key.module_id
        known = self._remembered.get(place)
        if known is not None and module_id in known:
            return known[module_id]
        if known is None:
            known = self._reading.setdefault(place, {})
        try:
            identity = await self._rows.find(hub, key)
            if identity is not None:
                known[module_id] = identity
                if self._reading.get(place) is known:
                    self._remember(place, known)
        finally:
            if self._reading.get(place) is known:
                del self._reading[place]
        return identity

    def forget(self, hub: str, device_id: str) -> None:
        """A device or one of its modules is about to be read anew: another node has changed it."""
        self._remembered.pop((hub, device_id), None)
        self._reading.pop((hub, device_id), None)

    def forget_all(self) -> None:
        """All are to be read anew: what other nodes have told may have been missed."""
        self._remembered.clear()
        self._reading.clear()

    async def devices(self, hub: str, limit: int) -> Sequence[Identity]:
        """See ``IdentityStore``."""
        found: list[Identity] = []
        after = ""
        while len(found) < limit:
            asked = min(_PAGE, limit - len(found))
            page = await self._read(_DEVICES, hub, after, asked)
            found += page
            if len(page) < asked:
                break
            after = page[-1].device_id
        return found

    async def modules(self, hub: str, device_id: str) -> Sequence[Identity]:
        """See ``IdentityStore``."""
        return await self._read(_MODULES, hub, device_id)

    async def counts(self, hub: str) -> Counts:
        """See ``IdentityStore``."""
        by_status = {row["status"]: row["devices"] for row in await self._database.fetch(_COUNTS, hub)}
        return Counts(by_status.get(Status.ENABLED, 0), by_status.get(Status.DISABLED, 0))

    async def edit(self, hub: str, edits: Sequence[Edit]) -> list[_Outcome]:
        """See ``IdentityStore``."""
        by_device: dict[str, list[int]] = {}
        for position, edit in enumerate(edits):
            by_device.setdefault(edit.key.device_id, []).append(position)
        futures = [
            self._edit_device(hub, device_id, [edits[position] for position in positions])
            for device_id, positions in by_device.items()
        ]
        outcomes: list[_Outcome] = [None] * len(edits)
        ended = await asyncio.gather(*futures, return_exceptions=True)
        for positions, found in zip(by_device.values(), ended, strict=True):
            if isinstance(found, BaseException) and not isinstance(found, HubError):
                raise found
            of_device = [found] * len(positions) if isinstance(found, HubError) else found
            for position, outcome in zip(positions, of_device, strict=True):
                outcomes[position] = outcome
        return outcomes

    def _edit_device(self, hub: str, device_id: str, edits: Sequence[Edit]) -> asyncio.Future[list[_Outcome]]:
        """Edits of one device and its modules, in one transaction."""
        future: asyncio.Future[list[_Outcome]] = asyncio.get_running_loop().create_future()

        async def work(step: Step) -> list[tuple[_Outcome, bool]]:
            return [await self._edit(step, hub, edit) for edit in edits]

        def done(ended: list[tuple[_Outcome, bool]] | None, error: BaseException | None) -> None:
            self.forget(hub, device_id)
            settle(future, [outcome for outcome, _ in ended or ()], error)
            if self._outbox is not None and any(recorded for _, recorded in ended or ()):
                self._outbox.filled()

        self._database.call(f"{hub}/{device_id}", work, done)
        return future

    async def _edit(self, step: Step, hub: str, edit: Edit) -> tuple[_Outcome, bool]:
        """One edit, and whether something of it went into the outbox. Refused is before anything is written."""
        for _ in range(_TRIES):
            try:
                standing = await _standing(step, hub, edit.key)
                wanted = edit.change(standing)
            except HubError as error:
                return error, False
            before = standing.identity
            if wanted is before:
                return before, False
            if before is not None and wanted is not None:
                await step.write(_CHANGE, hub, *_row(wanted))
                _account(step, hub, edit, [(before, wanted)])
                return wanted, False
            if before is not None:
                return None, await self._delete(step, hub, edit, before)
            assert wanted is not None
            if await step.write(_CREATE, hub, *_row(wanted)):  # else another node has just made it
                _account(step, hub, edit, [(None, wanted)])
                return wanted, await self._keep(step, hub, (wanted,), created=True)
        return HubError(UNAVAILABLE, f"{edit.key} is made and deleted by others all the time; try again"), False

    async def _delete(self, step: Step, hub: str, edit: Edit, before: Identity) -> bool:
        device_id, module_id = edit.key
        going = [before]
        if module_id is None and (edit.note is not None or self._recorder is not None):
            going = [*(identity_of(row) for row in await step.fetch(_MODULES, hub, device_id)), before]
        recorded = await self._keep(step, hub, going, created=False)
        for statement in _DELETE_DEVICE if module_id is None else _DELETE:
            await step.write(statement, hub, device_id, *([] if module_id is None else [module_id]))
        await forget_queues(step, hub, edit.key)
        _account(step, hub, edit, [(one, None) for one in going])
        return recorded

    async def _keep(self, step: Step, hub: str, identities: Sequence[Identity], *, created: bool) -> bool:
        """Put into the outbox what is to be told of identities that have come, or are about to go."""
        if self._recorder is None or self._outbox is None:
            return False
        entries: list[Entry] = []
        for identity in identities:
            twin = EMPTY if created else await lock_twin(step, hub, identity.key) or EMPTY
            entries += self._recorder.identity_changed(identity, twin, created=created)
        return await self._outbox.keep(step, entries)

    def _remember(self, place: _Place, known: dict[str | None, Identity]) -> None:
        if len(self._remembered) >= IDENTITIES_REMEMBERED.open:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[place] = known

    async def _read(self, query: str, *values: Any) -> list[Identity]:
        return [identity_of(row) for row in await self._database.fetch(query, *values)]


async def _standing(step: Step, hub: str, key: IdentityKey) -> Standing:
    """How things stand, until the transaction ends. A device's modules are read in a statement of their own, begun when
    the device's row is locked: one begun before does not see what others did while it waited."""
    row = await step.row(_LOCK, hub, key.device_id)
    device = None if row is None else identity_of(row)
    if key.module_id is None:
        return Standing(device)
    if device is None:
        raise HubError(DEVICE_NOT_FOUND, key.device_id)
    modules = [identity_of(row) for row in await step.fetch(_MODULES, hub, key.device_id)]
    return Standing(next((one for one in modules if one.key == key), None), device, len(modules))


def _account(step: Step, hub: str, edit: Edit, changes: Sequence[tuple[Identity | None, Identity | None]]) -> None:
    """Count devices, and put on record what the edit has done."""
    for before, after in changes:
        for identity, by in ((before, -1), (after, 1)):
            if identity is not None and identity.module_id is None:
                step.count(hub, identity.status, by)
        if edit.note is not None:
            step.record((edit.note(before, after),))


def _row(identity: Identity) -> tuple[Any, ...]:
    authentication = identity.authentication
    return (
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
        _spelled(identity.status_reason),
        identity.status_updated,
        identity.iot_edge,
        _spelled(identity.device_scope),
        spelled_json(json.dumps(identity.parent_scopes)) if identity.parent_scopes else None,
        _spelled(identity.managed_by),
    )


def identity_of(row: asyncpg.Record) -> Identity:
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
        status_reason=_meant(reason),
        status_updated=updated,
        iot_edge=iot_edge,
        device_scope=_meant(device_scope),
        parent_scopes=tuple(meant_json(parent_scopes)) if parent_scopes else (),
        managed_by=_meant(managed_by),
    )


def _spelled(text: str | None) -> str | None:
    return None if text is None else spelled(text)


def _meant(text: str | None) -> str | None:
    return None if text is None else meant(text)
