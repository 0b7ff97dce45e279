"""MQTT subscriptions in ``hub.db``: one row for each identity that has any.

A row is read at each MQTT connection and seldom written, so it is small and stands apart from the identity's. Deleting
an identity deletes it, see ``identities.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import apsw

from muster.core.json_text import decode, encode
from muster.identity.model import IdentityKey
from muster.stores.sqlite.database import Writer, store_error

_GET = "SELECT filters FROM subscriptions WHERE hub = ? AND device_id = ? AND module_id = ?"
_PUT = (
    "INSERT OR REPLACE INTO subscriptions (hub, device_id, module_id, filters) "
    "SELECT hub, device_id, module_id, ? FROM identities "
    "WHERE hub = ? AND device_id = ? AND module_id = ? AND generation_id = ?"
)
_DELETE = "DELETE FROM subscriptions WHERE hub = ? AND device_id = ? AND module_id = ?"
_DELETE_DEVICE = "DELETE FROM subscriptions WHERE hub = ? AND device_id = ?"


class SqliteSubscriptionStore:
    """``sessions.contract.SubscriptionStore`` on a ``hub.db``.

    Reads run on the loop, on ``reader``, which nothing but the loop's thread may use.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection) -> None:
        self._writer = writer
        self._reader = reader

    async def get(self, hub: str, key: IdentityKey) -> Mapping[str, int]:
        try:  # every connection comes here, and a context manager would cost half as much again
            text: str | None = self._reader.execute(_GET, (hub, key.device_id, key.module_id or "")).get
        except apsw.Error as error:
            raise store_error(self._writer.path, error) from error
        return {} if text is None else decode(text)

    def put(self, hub: str, key: IdentityKey, generation_id: str, filters: Mapping[str, int]) -> asyncio.Future[None]:
        row = (hub, key.device_id, key.module_id or "")
        text = encode(dict(filters))

        def work(connection: apsw.Connection) -> None:
            if filters:
                connection.execute(_PUT, (text, *row, generation_id))
            else:
                connection.execute(_DELETE, row)

        return self._writer.submit(work)


def forget_subscriptions(connection: apsw.Connection, hub: str, key: IdentityKey) -> None:
    """Part of the transaction that deletes the identity ``key``: a device's modules go with it."""
    if key.module_id is None:
        connection.execute(_DELETE_DEVICE, (hub, key.device_id))
    else:
        connection.execute(_DELETE, (hub, key.device_id, key.module_id))
