"""Sessions that lose their ground: ended when the authority of their certificate, or its word, is withdrawn, when the
policy that let them in is gone or has another key, when their kind of token is switched off."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from muster.core.ambient import Ambient
from muster.core.errors import DEVICE_UNAUTHORIZED
from muster.identity.breaches import breach
from muster.identity.hub import Hub
from muster.identity.refusals import Refusals
from muster.identity.trust import ChainProof, Trust
from muster.identity.verdict import Right
from muster.sessions.table import Session, SessionTable

log = logging.getLogger("muster.sessions")

_AT_ONCE = 500  # sessions looked at before others get their turn: some 2 ms


class Sweep:
    """Looks at all sessions whenever something has changed that may end some; never by itself."""

    def __init__(self, sessions: SessionTable) -> None:
        self._sessions = sessions
        self._looking: asyncio.Task[None] | None = None
        self._again = False

    def changed(self) -> None:
        """Look, soon."""
        self._again = True
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        try:
            while self._again:
                self._again = False
                for number, session in enumerate(self._sessions.all(), 1):
                    if not session.ended:
                        self._check(session)
                    if number % _AT_ONCE == 0:
                        await asyncio.sleep(0)
        finally:
            self._looking = None

    def _check(self, session: Session) -> None:
        """End ``session`` if it cannot go on."""
        raise NotImplementedError


class _Grounds(Sweep):
    """Sessions that may have lost their ground."""

    expected = ""

    def __init__(self, sessions: SessionTable, refusals: Refusals, ambient: Ambient) -> None:
        super().__init__(sessions)
        self._refusals = refusals
        self._ambient = ambient

    def _check(self, session: Session) -> None:
        cause, seen = self.lost(session)
        if not cause:
            return
        log.info("%s: its session ends: %s", session.key, cause)
        verdict = breach(
            self._ambient, cause, DEVICE_UNAUTHORIZED, transport=session.transport, peer=session.peer,
            expected=self.expected, seen=seen, principal=str(session.key),
        )  # fmt: skip
        self._refusals.add(verdict)
        self._sessions.end(session, DEVICE_UNAUTHORIZED)

    def lost(self, session: Session) -> tuple[str, str]:
        """Why ``session`` cannot go on, a name in ``identity.causes``, and what is seen; both empty while it can."""
        raise NotImplementedError


class CertificateGrounds(_Grounds):
    """Sessions that were opened with a certificate of an authority, by what ``trust`` says."""

    expected = "a certificate that still counts"

    def __init__(self, sessions: SessionTable, trust: Trust, refusals: Refusals, ambient: Ambient) -> None:
        super().__init__(sessions, refusals, ambient)
        self._trust = trust
        trust.when_changed(self.changed)

    def lost(self, session: Session) -> tuple[str, str]:
        return ("", "") if session.proof is None else self._trust.lost(session.proof)

    def proofs(self) -> Iterator[ChainProof]:
        """Those of the sessions that are live now."""
        return (session.proof for session in self._sessions.all() if session.proof is not None)


class TokenGrounds(_Grounds):
    """Sessions that were opened with a SAS token which cannot be renewed while they last."""

    expected = "a token that still counts"

    def __init__(self, sessions: SessionTable, hub: Hub, refusals: Refusals, ambient: Ambient) -> None:
        super().__init__(sessions, refusals, ambient)
        self._hub = hub

    def lost(self, session: Session) -> tuple[str, str]:
        return ("", "") if session.ground is None else session.ground.lost(self._hub, Right.DEVICE_CONNECT)
