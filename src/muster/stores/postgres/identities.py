"""Identities in PostgreSQL.

One row for each identity. What goes with it comes and goes in the same transaction: its twin (``twins.py``), its queue
(``queues.py``), its MQTT subscriptions, a device's file uploads. Every change of a device or of one of its modules
locks the device's row, so several nodes take turns; two that make the same device find out by its key, and the second
looks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from muster.core.errors import HubError
from muster.core.memory_limits import IDENTITIES_REMEMBERED
from muster.identity.contract import Counts, Edit
from muster.identity.model import Identity, IdentityKey, Status
from muster.stores.postgres.database import Database, Step, settle
from muster.stores.postgres.identity_batch import IdentityBatch
from muster.stores.postgres.identity_rows import COLUMNS, identity_of
from muster.stores.postgres.lookups import Lookups
from muster.stores.postgres.outbox import PostgresOutbox
from muster.twins.contract import LifecycleRecorder

__all__ = ["COLUMNS", "PostgresIdentityStore", "identity_of"]

# Only the fixed list of columns goes into these texts; every value is bound.
_DEVICES = (
    f"SELECT {COLUMNS} FROM identities WHERE hub = $1 AND device_id > $2 AND module_id = '' "  # noqa: S608
    "ORDER BY device_id LIMIT $3"
)
_MODULES = (
    f"SELECT {COLUMNS} FROM identities WHERE hub = $1 AND device_id = $2 AND module_id > '' "  # noqa: S608
    "ORDER BY module_id"
)
_COUNTS = "SELECT status, sum(devices)::bigint AS devices FROM identity_counts WHERE hub = $1 GROUP BY status"

_PAGE = 200
"""Devices that a listing reads at a time."""

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

        def done(ended: list[tuple[_Outcome, bool]] | None, error: BaseException | None) -> None:
            self.forget(hub, device_id)
            settle(future, [outcome for outcome, _ in ended or ()], error)
            if self._outbox is not None and any(recorded for _, recorded in ended or ()):
                self._outbox.filled()

        asked = _Edits(hub, device_id, edits)
        self._database.call_together(f"{hub}/{device_id}", self._edit_all, asked, done)
        return future

    async def _edit_all(self, step: Step, asked: Sequence[_Edits]) -> list[list[tuple[_Outcome, bool]]]:
        """What became of each edit, and whether something of it went into the outbox."""
        batches: dict[str, IdentityBatch] = {}
        for hub in dict.fromkeys(one.hub for one in asked):
            here = [one for one in asked if one.hub == hub]
            batch = batches[hub] = IdentityBatch(step, hub, self._outbox, self._recorder)
            of_modules = {one.device_id for one in here if any(edit.key.module_id is not None for edit in one.edits)}
            await batch.open({one.device_id for one in here}, of_modules)
        ended = [[await _edit(step, batches[one.hub], edit) for edit in one.edits] for one in asked]
        for batch in batches.values():
            await batch.write()
        return ended

    def _remember(self, place: _Place, known: dict[str | None, Identity]) -> None:
        if len(self._remembered) >= IDENTITIES_REMEMBERED.open:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[place] = known

    async def _read(self, query: str, *values: Any) -> list[Identity]:
        return [identity_of(row) for row in await self._database.fetch(query, *values)]


class _Edits(NamedTuple):
    """Edits of one device and its modules."""

    hub: str
    device_id: str
    edits: Sequence[Edit]


async def _edit(step: Step, batch: IdentityBatch, edit: Edit) -> tuple[_Outcome, bool]:
    try:
        standing = batch.standing(edit.key)
        wanted = edit.change(standing)
    except HubError as error:
        return error, False
    before = standing.identity
    if wanted is before:
        return before, False
    if wanted is not None:
        if edit.note is not None:
            step.record((edit.note(before, wanted),))
        return wanted, batch.put(before, wanted)
    assert before is not None
    gone, told = await batch.delete(before, whole=edit.note is not None)
    if edit.note is not None:
        step.record([edit.note(one, None) for one in gone])
    return None, told
