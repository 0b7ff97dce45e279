"""The outbox in PostgreSQL: written in the transactions of the changes that it tells of.

Numbers are given when an entry is written and seen when its transaction has committed, so of different devices a
higher number may be seen first. Of one device that cannot be: who changes it holds its row. So what is taken out is
what was handed out, and not all that has lower numbers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import groupby

from muster.core.errors import HubError
from muster.core.outbox import Entry, Numbered
from muster.stores.postgres.database import Database, Step

_PUT = "INSERT INTO outbox (hub, device_id, record) VALUES ($1, $2, $3)"
_REMOVE = (  # the bounds keep the search short, whatever the server believes of a table that is filled and emptied
    "DELETE FROM outbox WHERE hub = $1 AND number BETWEEN $2 AND $3 AND number = ANY($4::bigint[])"
)
_NEXT = """
    SELECT number, device_id, record FROM (
        SELECT *, sum(octet_length(record)) OVER (ORDER BY number) - octet_length(record) AS before FROM (
            SELECT number, device_id, record FROM outbox WHERE hub = $1 ORDER BY number LIMIT $2
        ) AS first
    ) AS measured WHERE before < $3 ORDER BY number
"""

_TURN = "SELECT pg_try_advisory_lock(hashtextextended($1, 0))"
"""The lock is the connection's, on which all work of this place runs: it goes when the connection does."""

log = logging.getLogger(__name__)


class PostgresOutbox:
    """``core.outbox.Outbox`` of ``hub``. Numbers are in the order of the changes of each device.

    The first process that takes is the one that does, as long as its connection lasts: others are given nothing.
    ``when_filled`` tells of what this process has kept; what others keep is seen by the next ``take``.
    """

    shared = True

    def __init__(self, database: Database, hub: str) -> None:
        self._database = database
        self._hub = hub
        self._listeners: list[Callable[[], None]] = []
        self._handed_out: list[int] = []
        self._telling = False
        self._putting: set[asyncio.Future[None]] = set()

    async def keep(self, step: Step, entries: Sequence[Entry]) -> bool:
        """Write ``entries`` in the transaction of ``step``; whether there are any. Then call ``filled`` behind it."""
        if entries:
            await step.write_many(_PUT, [(self._hub, *entry) for entry in entries])
        return bool(entries)

    def filled(self) -> None:
        """Entries are durable: the listeners hear of it in the next round of the loop, once for many."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def put(self, entries: Sequence[Entry]) -> None:
        """See ``Outbox.put``; behind the changes of the same devices."""
        for device_id, group in groupby(entries, lambda entry: entry.device_id):
            self._put_all(device_id, list(group))

    async def take(self, told: int, limit: int, limit_bytes: int) -> Sequence[Numbered]:
        """See ``Outbox.take``; what was put before is among it."""
        if self._putting:
            await asyncio.wait(self._putting)
        place = f"~outbox/{self._hub}"
        done = [number for number in self._handed_out if number <= told]

        async def work(step: Step) -> list[Numbered]:
            if done:
                await step.write(_REMOVE, self._hub, done[0], done[-1], done)
            if not await step.value(_TURN, place):
                return []
            rows = await step.fetch(_NEXT, self._hub, limit, limit_bytes)
            return [Numbered(number, Entry(device_id, record)) for number, device_id, record in rows]

        found = await self._database.submit(place, work)
        self._handed_out = [number for number, _ in found]
        return found

    def _put_all(self, device_id: str, entries: Sequence[Entry]) -> None:
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def work(step: Step) -> None:
            await self.keep(step, entries)

        def done(_: None, error: BaseException | None) -> None:
            self._putting.discard(ended)
            ended.set_result(None)
            if error is None:
                self.filled()
            else:
                log.error("events are lost: %s", error.message if isinstance(error, HubError) else error)

        self._database.call(f"{self._hub}/{device_id}", work, done)
        self._putting.add(ended)

    def _tell(self) -> None:
        self._telling = False
        for listener in self._listeners:
            listener()

    def when_filled(self, listener: Callable[[], None]) -> None:
        """See ``Outbox.when_filled``."""
        self._listeners.append(listener)
