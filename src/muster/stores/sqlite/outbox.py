"""The outbox in ``hub.db``: written in the transactions of the changes that it tells of."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

import apsw

from muster.core.errors import HubError
from muster.core.outbox import Entry, Numbered
from muster.stores.sqlite.database import Writer

_PUT = "INSERT INTO outbox (hub, device_id, record) VALUES (?, ?, ?)"
_REMOVE = "DELETE FROM outbox WHERE hub = ? AND number <= ?"
_NEXT = "SELECT number, device_id, record FROM outbox WHERE hub = ? ORDER BY number LIMIT ?"

log = logging.getLogger(__name__)


class SqliteOutbox:
    """``core.outbox.Outbox`` of ``hub`` on the ``hub.db`` of ``writer``; to be made on a running loop.

    Where several processes share it, the first one that takes is the one that does, until it ends.
    """

    def __init__(self, writer: Writer, hub: str) -> None:
        self.shared = writer.turns is not None
        self._writer = writer
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._listeners: list[Callable[[], None]] = []
        self._told = True

    def keep(self, connection: apsw.Connection, entries: Sequence[Entry]) -> None:
        """Write ``entries`` in the transaction that is open on ``connection``, in the writer's thread.

        The listeners are called before that transaction ends; what they have the writer do comes after it.
        """
        if not entries:
            return
        connection.executemany(_PUT, [(self._hub, *entry) for entry in entries])
        if self._told:
            self._told = False
            with contextlib.suppress(RuntimeError):  # the loop is gone; the next start finds the entries
                self._loop.call_soon_threadsafe(self._filled)

    def put(self, entries: Sequence[Entry]) -> None:
        """See ``Outbox.put``."""
        self._writer.call(lambda connection: self.keep(connection, entries), _note)

    async def take(self, told: int, limit: int, limit_bytes: int) -> Sequence[Numbered]:
        """See ``Outbox.take``."""
        turns = self._writer.turns
        if turns is not None and not turns.is_mine(f"outbox/{self._hub}"):
            return []

        def work(connection: apsw.Connection) -> list[Numbered]:
            connection.execute(_REMOVE, (self._hub, told))
            found: list[Numbered] = []
            left = limit_bytes
            for number, device_id, record in connection.execute(_NEXT, (self._hub, limit)):
                found.append(Numbered(number, Entry(device_id, record)))
                left -= len(record)
                if left <= 0:
                    break
            return found

        return await self._writer.submit(work)

    def when_filled(self, listener: Callable[[], None]) -> None:
        """See ``Outbox.when_filled``."""
        self._listeners.append(listener)

    def _filled(self) -> None:
        self._told = True
        for listener in self._listeners:
            listener()


def _note(_: None, error: BaseException | None) -> None:
    if error is not None:
        log.error("events are lost: %s", error.message if isinstance(error, HubError) else error)
