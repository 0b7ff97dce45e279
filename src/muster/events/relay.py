"""The relay: brings what waits in the outbox into the partitions, in order, between the messages of the devices.

What is taken out of the outbox is on disk in its partition before; when the hub dies in between it is brought again.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from muster.core.ambient import Ambient
from muster.core.errors import HubError
from muster.core.limits import EVENT_BYTES_RELAYED, EVENTS_RELAYED
from muster.core.outbox import Outbox
from muster.messages.telemetry import Telemetry

RETRY_SECONDS = 1.0
"""Before the disk is tried again that has failed."""

LOOK_SECONDS = 2.0
"""So often one looks for what other processes have put into the outbox."""

log = logging.getLogger("muster.events")


class EventRelay:
    """Drains ``outbox`` into ``telemetry``. What is on its way at a time is bounded; all else waits on disk."""

    def __init__(self, outbox: Outbox, telemetry: Telemetry, ambient: Ambient) -> None:
        self._outbox = outbox
        self._telemetry = telemetry
        self._ambient = ambient
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._last = 0

    def start(self) -> None:
        """Begin, with what an earlier run has left."""
        self._outbox.when_filled(self._news.set)
        self._news.set()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """End once what has been recorded so far is told, or at the first failure: the next start tells the rest."""
        self._closing = True
        self._news.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if self._outbox.shared else None):
                    await self._news.wait()
            self._news.clear()
            closing = self._closing  # what was recorded before is taken below
            try:
                await self._drain()
            except Exception as error:
                log.error("events wait, the disk failed: %s", error.message if isinstance(error, HubError) else error)
                self._ambient.at(self._ambient.now() + RETRY_SECONDS, self._news.set)
            if closing:
                return

    async def _drain(self) -> None:
        while entries := await self._outbox.take(self._last, EVENTS_RELAYED.open, EVENT_BYTES_RELAYED.open):
            telemetry = self._telemetry
            await telemetry.store([(telemetry.partition_of(entry.device_id), entry.record) for _, entry in entries])
            self._last = entries[-1].number
