"""The settings of a deployment in PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping

from muster.core.audit import Draft
from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.stores.postgres.database import Database, Step

_PLACE = "/settings"
_GET = "SELECT value FROM settings WHERE name = $1"
_PUT = "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_TURN = "SELECT pg_advisory_xact_lock(7665)"
_FOUND = "SELECT name, value FROM settings WHERE name = ANY($1::text[])"


class PostgresHubSettingsStore:
    """``core.shared_settings.SharedRows`` on a database of ``migrations``. Raises ``HubError`` as that does. A node has
    them as ``SharedSettings``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_setting(self, name: str) -> bytes | None:
        """See ``SettingsRows``."""
        value: bytes | None = await self._database.value(_GET, name)
        return value

    async def put_settings(
        self,
        values: Mapping[str, bytes],
        draft: Draft | None = None,
        *,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """See ``SharedRows``."""
        rows = sorted(values.items())  # locked in one order, whoever puts them

        async def write(step: Step) -> None:
            if expected:
                await step.fetch(_TURN)  # a row that is not there cannot be locked
                found = dict.fromkeys(expected)
                for name, value in await step.fetch(_FOUND, list(expected)):
                    found[name] = value
                if found != expected:
                    raise HubError(PRECONDITION_FAILED)
            await step.write_many(_PUT, rows)
            if draft is not None:
                step.record((draft,))

        await self._database.submit(_PLACE, write)
