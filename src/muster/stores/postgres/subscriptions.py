"""MQTT subscriptions in PostgreSQL: one row for each identity that has any.

Deleting an identity deletes its row, see ``identities.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import asyncpg

from muster.core.json_text import decode, encode
from muster.identity.model import IdentityKey
from muster.stores.postgres.database import Database, Step
from muster.stores.postgres.lookups import Lookups

_PUT = (
    "INSERT INTO subscriptions (hub, device_id, module_id, filters) "
    "SELECT hub, device_id, module_id, $5 FROM identities "
    "WHERE hub = $1 AND device_id = $2 AND module_id = $3 AND generation_id = $4 "
    "FOR KEY SHARE "  # who deletes it waits, so that no row stays behind
    "ON CONFLICT (hub, device_id, module_id) DO UPDATE SET filters = excluded.filters"
)
_DELETE = "DELETE FROM subscriptions WHERE hub = $1 AND device_id = $2 AND module_id = $3"


class PostgresSubscriptionStore:
    """``sessions.contract.SubscriptionStore`` on a database of ``migrations``. Raises ``HubError`` as that does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = Lookups(database, "subscriptions", "filters", _filters_of)

    async def get(self, hub: str, key: IdentityKey) -> Mapping[str, int]:
        """See ``SubscriptionStore``."""
        return await self._rows.find(hub, key) or {}

    def put(self, hub: str, key: IdentityKey, generation_id: str, filters: Mapping[str, int]) -> asyncio.Future[None]:
        """See ``SubscriptionStore``."""
        row = (hub, key.device_id, key.module_id or "")
        text = encode(dict(filters))

        async def work(step: Step) -> None:
            if filters:
                await step.write(_PUT, *row, generation_id, text)
            else:
                await step.write(_DELETE, *row)

        return self._database.submit(f"{hub}/{key.device_id}", work)


def _filters_of(row: asyncpg.Record) -> Mapping[str, int]:
    filters: Mapping[str, int] = decode(row[0])
    return filters
