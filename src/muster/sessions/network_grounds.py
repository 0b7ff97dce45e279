"""Sessions from addresses that a hub's network rules refuse now: ended when the rules are changed."""

from __future__ import annotations

import asyncio
import logging

from muster.core.errors import DEVICE_UNAUTHORIZED
from muster.identity.network_access import NetworkAccess
from muster.sessions.table import SessionTable

log = logging.getLogger("muster.sessions")

_AT_ONCE = 500  # sessions looked at before others get their turn: some 2 ms


class NetworkGrounds:
    """Looks at all sessions whenever ``network`` was changed; never by itself."""

    def __init__(self, sessions: SessionTable, network: NetworkAccess) -> None:
        self._sessions = sessions
        self._network = network
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        network.when_changed(self._changed)

    def _changed(self) -> None:
        self._again = self._network.watches
        if self._again and self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        try:
            while self._again:
                self._again = False
                for number, session in enumerate(self._sessions.all(), 1):
                    if not session.ended:
                        refused = self._network.refusal(
                            session.transport, session.peer, principal=str(session.key), error=DEVICE_UNAUTHORIZED
                        )
                        if refused is not None:
                            log.info("%s: its session ends: %s", session.key, refused.cause)
                            self._sessions.end(session, DEVICE_UNAUTHORIZED)
                    if number % _AT_ONCE == 0:
                        await asyncio.sleep(0)
        finally:
            self._looking = None
