"""The hub's settings in ``hub.db``."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import apsw

from muster.core.audit import Draft
from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.core.settings_store import Reload
from muster.stores.sqlite.audit import keep
from muster.stores.sqlite.database import Writer, told_as_refusal

_GET = "SELECT value FROM settings WHERE name = ?"
_PUT = "INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)"


class SqliteHubSettingsStore:
    """``core.settings_store.HubSettingsStore`` on a ``hub.db`` of one process; where several share it, the
    ``core.shared_settings.SharedRows`` of one.

    ``reader`` is used by the loop's thread only. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection) -> None:
        self._writer = writer
        self._reader = reader

    async def get_setting(self, name: str) -> bytes | None:
        with told_as_refusal(self._writer.path):
            value: bytes | None = self._reader.execute(_GET, (name,)).get
            return value

    async def put_settings(
        self,
        values: Mapping[str, bytes],
        draft: Draft | None = None,
        *,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        rows = list(values.items())

        def write(connection: apsw.Connection) -> None:
            for name, value in (expected or {}).items():
                if connection.execute(_GET, (name,)).get != value:
                    raise HubError(PRECONDITION_FAILED)
            connection.executemany(_PUT, rows)
            if draft is not None:
                keep(self._writer, connection, (draft,))

        await self._writer.submit(write)

    def follow(self, _: str, __: Reload) -> Callable[[], None]:
        """See ``HubSettingsStore``: nobody else puts anything."""
        return _nothing

    def announce(self, _: str) -> None:
        """See ``HubSettingsStore``: nobody is there to hear it."""


def _nothing() -> None:
    return None
