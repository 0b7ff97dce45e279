"""File uploads that devices have begun, in PostgreSQL. Deleting a device deletes its rows, see ``identities.py``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import asyncpg

from muster.core.errors import TOO_MANY_UPLOADS, HubError
from muster.identity.changes import not_found
from muster.identity.model import IdentityKey
from muster.messages.upload_contract import Slot
from muster.stores.postgres.database import Database, Step
from muster.stores.postgres.texts import meant, spelled

_LOCK_DEVICE = "SELECT 1 FROM identities WHERE hub = $1 AND device_id = $2 AND module_id = '' FOR UPDATE"
_ACTIVE = "SELECT count(*) FROM uploads WHERE hub = $1 AND device_id = $2 AND expires_at > $3"
_PUT = "INSERT INTO uploads (hub, device_id, correlation_id, blob_name, expires_at) VALUES ($1, $2, $3, $4, $5)"
_GET = (
    "SELECT correlation_id, device_id, blob_name, expires_at FROM uploads "
    "WHERE hub = $1 AND device_id = $2 AND correlation_id = $3"
)
_END = "DELETE FROM uploads WHERE hub = $1 AND device_id = $2 AND correlation_id = $3"
_EXPIRE = (  # passes over what somebody is about to end, and so waits for nobody
    "DELETE FROM uploads WHERE (hub, device_id, correlation_id) IN "
    "(SELECT hub, device_id, correlation_id FROM uploads WHERE hub = $1 AND expires_at <= $2 FOR UPDATE SKIP LOCKED) "
    "RETURNING correlation_id, device_id, blob_name, expires_at"
)
_FIRST = "SELECT min(expires_at) FROM uploads WHERE hub = $1"


class PostgresUploadStore:
    """``messages.upload_contract.UploadStore`` on a database of ``migrations``. Raises ``HubError`` as that does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, hub: str, slot: Slot, now: float, most: int) -> None:
        """See ``UploadStore``."""
        device_id = slot.device_id

        async def work(step: Step) -> None:
            if await step.value(_LOCK_DEVICE, hub, device_id) is None:  # counted by one node at a time
                raise not_found(IdentityKey(device_id))
            if await step.value(_ACTIVE, hub, device_id, now) >= most:
                message = f"Number of active file upload requests cannot exceed {most}, report those that have ended."
                raise HubError(TOO_MANY_UPLOADS, message)
            await step.write(_PUT, hub, device_id, slot.correlation_id, spelled(slot.blob_name), slot.expires_at)

        await self._database.submit(f"{hub}/{device_id}", work)

    async def get(self, hub: str, device_id: str, correlation_id: str) -> Slot | None:
        """See ``UploadStore``."""
        row = await self._database.row(_GET, hub, device_id, spelled(correlation_id))
        return None if row is None else _slot_of(row)

    async def end(self, hub: str, device_id: str, correlation_id: str) -> bool:
        """See ``UploadStore``."""
        work = partial(end_upload, hub=hub, device_id=device_id, correlation_id=correlation_id)
        return await self._database.submit(f"{hub}/{device_id}", work)

    async def expire(self, hub: str, now: float) -> Sequence[Slot]:
        """See ``UploadStore``; of several nodes that do this one returns each slot."""

        async def work(step: Step) -> list[Slot]:
            return [_slot_of(row) for row in await step.returning(_EXPIRE, hub, now)]

        return await self._database.submit(f"~uploads/{hub}", work)

    async def next_expiry(self, hub: str) -> float | None:
        """See ``UploadStore``."""
        first: float | None = await self._database.value(_FIRST, hub)
        return first


async def end_upload(step: Step, hub: str, device_id: str, correlation_id: str) -> bool:
    """Forget a slot, within a transaction; whether it was there."""
    return await step.write(_END, hub, device_id, spelled(correlation_id)) > 0


def _slot_of(row: asyncpg.Record) -> Slot:
    correlation_id, device_id, blob_name, expires_at = row
    return Slot(meant(correlation_id), device_id, meant(blob_name), expires_at)
