"""The settings of a deployment in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping

from muster.core.audit import Draft
from muster.stores.postgres.database import Database, Step

_PLACE = "/settings"
_GET = "SELECT value FROM settings WHERE name = $1"
_PUT = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class PostgresHubSettingsStore:
    """``core.settings_store.HubSettingsStore`` on a database of ``migrations``. Raises ``HubError`` as that does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_setting(self, name: str) -> bytes | None:
        """See ``HubSettingsStore``."""
        value: bytes | None = await self._database.value(_GET, name)
        return value

    async def put_settings(self, values: Mapping[str, bytes], draft: Draft | None = None) -> None:
        """See ``HubSettingsStore``."""
        rows = sorted(values.items())  # locked in one order, whoever puts them

        async def write(step: Step) -> None:
            await step.write_many(_PUT, rows)
            if draft is not None:
                step.record((draft,))

        await self._database.submit(_PLACE, write)
