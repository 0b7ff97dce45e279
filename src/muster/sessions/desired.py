"""Desired properties on their way to a session that may be on another node.

The node that has changed a twin asks the one that has the session to send the change. Changes of several nodes, or of
other nodes and this one, need not come in their order: each session gets them in the order of their versions. One that
is older than what the device has is dropped; where one is missing the next waits for it a moment, and then the device
is sent all desired properties as they are now, as after a replacement.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from muster.core.bus import MISSED, TWIN_CHANGED, NoAnswerError, NodeBus
from muster.core.errors import NOT_FOUND, HubError
from muster.core.json_text import decode, encode_ascii
from muster.identity.model import IdentityKey, key_of
from muster.sessions.claims import Claims
from muster.sessions.table import Session, SessionTable
from muster.twins.contract import TwinStore
from muster.twins.document import Content

GAP_SECONDS = 1.0
"""How long a change waits for the one before it."""
_ASK_SECONDS = 5.0
_HELD = 100
"""Changes that wait for one that is missing; with more of them all is read at once."""
_SUBJECT = "twin.desired"
_DONE = b""

log = logging.getLogger("muster.sessions")


class DesiredElsewhere:
    """``twins.contract.DesiredListener`` of a hub on several nodes."""

    def __init__(self, hub: str, table: SessionTable, claims: Claims, store: TwinStore, bus: NodeBus) -> None:
        self._hub, self._table, self._claims, self._store, self._bus = hub, table, claims, store, bus
        self._held: dict[Session, dict[int, Content]] = {}
        self._timers: dict[Session, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Future[None]] = set()
        self._looking = self._again = False
        table.when_ended(self._ended)
        bus.answer(_SUBJECT, self._asked)
        bus.subscribe(TWIN_CHANGED, self._changed_somehow)
        bus.subscribe(MISSED, self._missed)

    def desired_changed(self, key: IdentityKey, patch: Content, version: int) -> None:
        """See ``DesiredListener``."""
        session = self._table.find(key)
        if session is not None:
            self._push(session, patch, version)
        else:
            self._run(self._send(key, patch, version))

    # --- to another node

    async def _send(self, key: IdentityKey, patch: Content, version: int) -> None:
        try:
            node = await self._claims.find(key)
            if node is None:
                return  # it reads its twin when it is back
            told = encode_ascii([key.device_id, key.module_id, version, patch]).encode()
            await self._bus.ask(node, _SUBJECT, told, _ASK_SECONDS)
        except HubError as error:
            if (isinstance(error, NoAnswerError) and error.gone) or error.row is NOT_FOUND:
                return
            log.info("%s: its node cannot be told of desired properties: %s", key, error)
            self._bus.publish(TWIN_CHANGED, str(key))

    async def _asked(self, question: bytes) -> bytes:
        device_id, module_id, version, patch = decode(question.decode())
        session = self._table.find(IdentityKey(device_id, module_id))
        if session is not None:
            self._push(session, patch, version)
        return _DONE

    # --- to a session here

    def _push(self, session: Session, patch: Content, version: int) -> None:
        if version <= session.desired:
            return
        if session.desired < 0 or version == session.desired + 1:
            self._deliver(session, patch, version)
            held = self._held.get(session)
            while held and (following := held.pop(session.desired + 1, None)) is not None:
                self._deliver(session, following, session.desired + 1)
            self._drop(session)
            return
        held = self._held.setdefault(session, {})
        held[version] = patch
        if len(held) > _HELD:
            self._read_anew(session)
        elif session not in self._timers:
            self._timers[session] = asyncio.get_running_loop().call_later(GAP_SECONDS, self._read_anew, session)

    @staticmethod
    def _deliver(session: Session, patch: Content, version: int) -> None:
        session.desired = version
        session.sink.desired_changed(patch, version)

    def _drop(self, session: Session) -> None:
        """Forget what the session has by now, and the wait, if there is nothing left to wait for."""
        held = self._held.get(session, {})
        for version in [version for version in held if version <= session.desired]:
            del held[version]
        if not held:
            self._held.pop(session, None)
            timer = self._timers.pop(session, None)
            if timer is not None:
                timer.cancel()

    def _read_anew(self, session: Session) -> None:
        self._timers.pop(session, None)
        self._run(self._refresh(session))

    async def _refresh(self, session: Session) -> None:
        """Send all desired properties, if they are newer than what the device has."""
        if session.ended:
            return
        try:
            twin = await self._store.get(self._hub, session.key)
        except HubError as error:
            log.warning("%s: its desired properties cannot be read: %s", session.key, error)
            if not session.ended and session not in self._timers:
                self._timers[session] = asyncio.get_running_loop().call_later(GAP_SECONDS, self._read_anew, session)
            return
        if session.ended or twin is None:
            return
        if twin.desired.version > session.desired:
            self._deliver(session, twin.desired.values, twin.desired.version)
        self._drop(session)

    def _ended(self, session: Session) -> None:
        self._held.pop(session, None)
        timer = self._timers.pop(session, None)
        if timer is not None:
            timer.cancel()

    # --- what may have been missed

    def _changed_somehow(self, payload: str) -> None:
        session = self._table.find(key_of(payload))
        if session is not None:
            self._run(self._refresh(session))

    def _missed(self, _: str) -> None:
        self._again = True
        if not self._looking:
            self._looking = True
            self._run(self._look())

    async def _look(self) -> None:
        """Look at the twins of all sessions that have read theirs or were sent something, one after the other."""
        try:
            while self._again:
                self._again = False
                for session in self._table.all():
                    if session.desired >= 0:
                        await self._refresh(session)
        finally:
            self._looking = False

    def _run(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
