"""Sessions from addresses that a hub's network rules refuse now: ended when the rules are changed."""

from __future__ import annotations

import logging

from muster.core.errors import DEVICE_UNAUTHORIZED
from muster.identity.network_access import NetworkAccess
from muster.sessions.grounds import Sweep
from muster.sessions.table import Session, SessionTable

log = logging.getLogger("muster.sessions")


class NetworkGrounds(Sweep):
    """Sessions by what ``network`` says."""

    def __init__(self, sessions: SessionTable, network: NetworkAccess) -> None:
        super().__init__(sessions)
        self._network = network
        network.when_changed(self._changed)

    def _changed(self) -> None:
        if self._network.watches:
            self.changed()

    def _check(self, session: Session) -> None:
        refused = self._network.refusal(
            session.transport, session.peer, principal=str(session.key), error=DEVICE_UNAUTHORIZED
        )
        if refused is not None:
            log.info("%s: its session ends: %s", session.key, refused.cause)
            self._sessions.end(session, DEVICE_UNAUTHORIZED)
