"""File uploads that devices have begun, in ``hub.db``. Deleting a device deletes its rows, see ``identities.py``."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from muster.core.errors import TOO_MANY_UPLOADS, HubError
from muster.identity.changes import not_found
from muster.identity.model import IdentityKey
from muster.messages.upload_contract import Slot
from muster.stores.sqlite.database import Writer, told_as_refusal

_IS_DEVICE = "SELECT 1 FROM identities WHERE hub = ? AND device_id = ? AND module_id = ''"
_ACTIVE = "SELECT count(*) FROM uploads WHERE hub = ? AND device_id = ? AND expires_at > ?"
_PUT = "INSERT INTO uploads (hub, device_id, correlation_id, blob_name, expires_at) VALUES (?, ?, ?, ?, ?)"
_GET = (
    "SELECT correlation_id, device_id, blob_name, expires_at FROM uploads "
    "WHERE hub = ? AND device_id = ? AND correlation_id = ?"
)
_END = "DELETE FROM uploads WHERE hub = ? AND device_id = ? AND correlation_id = ?"
_EXPIRE = (
    "DELETE FROM uploads WHERE hub = ? AND expires_at <= ? RETURNING correlation_id, device_id, blob_name, expires_at"
)
_FIRST = "SELECT min(expires_at) FROM uploads WHERE hub = ?"


class SqliteUploadStore:
    """``messages.upload_contract.UploadStore`` on a ``hub.db``.

    ``reader`` is used by the loop's thread only. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection) -> None:
        self._writer = writer
        self._reader = reader

    async def begin(self, hub: str, slot: Slot, now: float, most: int) -> None:
        def work(connection: apsw.Connection) -> None:
            device_id = slot.device_id
            if connection.execute(_IS_DEVICE, (hub, device_id)).get is None:
                raise not_found(IdentityKey(device_id))
            if connection.execute(_ACTIVE, (hub, device_id, now)).get >= most:
                message = f"Number of active file upload requests cannot exceed {most}, report those that have ended."
                raise HubError(TOO_MANY_UPLOADS, message)
            connection.execute(_PUT, (hub, device_id, slot.correlation_id, slot.blob_name, slot.expires_at))

        await self._writer.submit(work)

    async def get(self, hub: str, device_id: str, correlation_id: str) -> Slot | None:
        with told_as_refusal(self._writer.path):
            row = self._reader.execute(_GET, (hub, device_id, correlation_id)).fetchone()
        return None if row is None else Slot(*row)

    async def end(self, hub: str, device_id: str, correlation_id: str) -> bool:
        return await self._writer.submit(lambda connection: end_upload(connection, hub, device_id, correlation_id))

    async def expire(self, hub: str, now: float) -> Sequence[Slot]:
        return await self._writer.submit(
            lambda connection: [Slot(*row) for row in connection.execute(_EXPIRE, (hub, now))]
        )

    async def next_expiry(self, hub: str) -> float | None:
        with told_as_refusal(self._writer.path):
            first: float | None = self._reader.execute(_FIRST, (hub,)).get
        return first


def end_upload(connection: apsw.Connection, hub: str, device_id: str, correlation_id: str) -> bool:
    """Forget a slot, within a transaction; whether it was there."""
    connection.execute(_END, (hub, device_id, correlation_id))
    return connection.changes() > 0
