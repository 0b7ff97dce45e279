"""Sessions that were opened with a certificate of an authority: ended when the authority or its word is withdrawn."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from muster.core.ambient import Ambient
from muster.core.errors import DEVICE_UNAUTHORIZED
from muster.identity.breaches import breach
from muster.identity.refusals import Refusals
from muster.identity.trust import ChainProof, Trust
from muster.sessions.table import Session, SessionTable

log = logging.getLogger("muster.sessions")

_AT_ONCE = 500  # sessions looked at before others get their turn: some 2 ms


class CertificateGrounds:
    """Looks at all sessions with a proof whenever ``trust`` says that some may be lost; never by itself."""

    def __init__(self, sessions: SessionTable, trust: Trust, refusals: Refusals, ambient: Ambient) -> None:
        self._sessions = sessions
        self._trust = trust
        self._refusals = refusals
        self._ambient = ambient
        self._looking: asyncio.Task[None] | None = None
        self._again = False
        trust.when_changed(self._changed)

    def _changed(self) -> None:
        self._again = True
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        try:
            while self._again:
                self._again = False
                for number, session in enumerate(self._sessions.all(), 1):
                    if session.proof is not None and not session.ended:
                        self._check(session, session.proof)
                    if number % _AT_ONCE == 0:
                        await asyncio.sleep(0)
        finally:
            self._looking = None

    def _check(self, session: Session, proof: ChainProof) -> None:
        cause, seen = self._trust.lost(proof)
        if not cause:
            return
        log.info("%s: its session ends: %s", session.key, cause)
        verdict = breach(
            self._ambient, cause, DEVICE_UNAUTHORIZED, transport=session.transport, peer=session.peer,
            expected="a certificate that still counts", seen=seen, principal=str(session.key),
        )  # fmt: skip
        self._refusals.add(verdict)
        self._sessions.end(session, DEVICE_UNAUTHORIZED)

    def proofs(self) -> Iterator[ChainProof]:
        """Those of the sessions that are live now."""
        return (session.proof for session in self._sessions.all() if session.proof is not None)
