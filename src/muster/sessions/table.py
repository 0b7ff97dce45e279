"""The session table: one live session for each identity, on whatever transport.

A newer session takes over: the older one is ended before the newer is told that it is in. A change in the
registry ends the sessions that it takes the ground from. Connection state, as the registry and the
statistics show it, is read from here and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from muster.core.ambient import Ambient
from muster.core.bus import IDENTITY_CHANGED, MISSED, Bus
from muster.core.errors import (
    DEVICE_DISABLED,
    DEVICE_NOT_FOUND,
    DEVICE_UNAUTHORIZED,
    TAKEN_OVER,
    ErrorRow,
    HubError,
)
from muster.identity.contract import IdentityStore
from muster.identity.model import NEVER, Identity, IdentityKey, Status, key_of
from muster.identity.verdict import Verdict
from muster.messages.methods import MethodRequest
from muster.sessions.claims import Claim, Claims
from muster.sessions.commands import CommandFlow, CommandSink, CommandSource

log = logging.getLogger("muster.sessions")

RECHECKS_AT_ONCE = 16
"""Identities that are read at once when all sessions have to be looked at: others wait for the store meanwhile."""

_NO_FILTERS: Mapping[str, int] = {}


class Sink(CommandSink, Protocol):
    """The head's end of a session: what the hub may do to the connection."""

    def end(self, error: ErrorRow) -> None:
        """Close the connection because of ``error``, as the protocol can say it. Called once, on the loop."""
        ...

    def quiet_seconds(self) -> float:
        """How long ago the client last sent a message; infinite when it sent none on this connection."""
        ...

    def desired_changed(self, patch: Mapping[str, Any], version: int) -> None:
        """Send the change that made ``version`` of the desired properties, if the device has asked for such; see
        ``twins.contract.DesiredListener``. Called on the loop."""
        ...

    def invoke(self, request: MethodRequest) -> None:
        """Send the device a method request; see ``messages.methods.MethodSession``. Called only while the session
        takes that method."""
        ...


class Session:
    """One authenticated connection of the identity ``key``, over ``transport`` from ``peer``.

    There may be very many, so it keeps of the identity only what tells whether the session may go on: of its
    credentials the hash, of a certificate's chain the proof, whose issuers sessions share, and ``ground``, what its
    token counts by, unless its connection looks after that.

    ``desired`` is the last version of the desired properties that the device has read or was sent on this connection,
    as far as anybody asks (``sessions.desired``), else -1. ``claim`` is ``None`` where there is one node; else its head
    waits until it is granted before the client hears that it is in. ``filters`` are the MQTT topic filters in force
    with their QoS, ``lasting`` whether they outlive the session: see ``sessions.subscriptions``.
    """

    __slots__ = (
        "certificate_ends", "claim", "commands", "credentials", "desired", "ended", "filters", "generation_id",
        "ground", "key", "lasting", "peer", "proof", "sink", "takes", "thumbprint", "transport",
    )  # fmt: skip

    def __init__(self, identity: Identity, verdict: Verdict, sink: Sink) -> None:
        self.key = identity.key
        self.generation_id = identity.generation_id
        self.credentials = hash(identity.authentication)
        self.transport, self.peer = verdict.transport, verdict.peer
        self.proof, self.ground = verdict.proof, verdict.ground
        self.thumbprint = verdict.thumbprint
        self.certificate_ends = verdict.expires_at if verdict.by_certificate else None
        self.sink = sink
        self.ended = False
        self.takes: Callable[[str], bool] | None = None
        self.commands: CommandFlow | None = None
        self.filters: Mapping[str, int] = _NO_FILTERS
        self.lasting = False
        self.claim: Claim | None = None
        self.desired = -1

    def invoke(self, request: MethodRequest) -> None:
        """See ``messages.methods.MethodSession``."""
        self.sink.invoke(request)


class _Change(NamedTuple):
    """When an identity last connected, disconnected or called, and which it was of those that had the id in turn."""

    at: float
    generation_id: str


class SessionTable:
    """All live sessions of one hub on this node.

    Implements ``identity.contract.Presence``, ``twins.contract.DesiredListener`` and
    ``messages.methods.MethodSessions``.
    """

    def __init__(
        self, hub: str, store: IdentityStore, bus: Bus, ambient: Ambient, claims: Claims | None = None
    ) -> None:
        """``claims`` sees to it that an identity has one session on all nodes together."""
        self._hub = hub
        self.claims = claims
        self._store = store
        self._ambient = ambient
        self._sessions: dict[IdentityKey, Session] = {}
        self._modules: dict[str, set[IdentityKey]] = {}
        """The modules of a device that are in ``_changes`` or ``_calls``."""
        self._changes: dict[IdentityKey, _Change] = {}
        self._calls: dict[IdentityKey, _Change] = {}
        self._devices = 0
        self._unsure: dict[IdentityKey, None] = {}
        self._checking = 0
        self._rechecks: set[asyncio.Task[None]] = set()
        self._when_taken: list[Callable[[IdentityKey], None]] = []
        self._when_opened: list[Callable[[Session], None]] = []
        self._when_ended: list[Callable[[Session], None]] = []
        self._closed_by: ErrorRow | None = None
        self.takeovers = 0
        bus.subscribe(IDENTITY_CHANGED, self._identity_changed)
        bus.subscribe(MISSED, self._recheck_all)
        if claims is not None:
            claims.serve(self)

    # --- for heads

    def check_open(self) -> None:
        """Raise ``HubError`` 503001 when no session can begin on this node now, whoever asks for it."""
        if self.claims is not None:
            self.claims.check()

    def open(self, verdict: Verdict, sink: Sink) -> Session:
        """Begin the session that ``verdict`` allows; a session that this identity already has is ended first."""
        identity = verdict.identity
        assert identity is not None, "a session needs a verdict that allows an identity"
        older = self._sessions.get(identity.key)
        if older is not None:
            self.takeovers += 1
            log.info(
                "%s: the connection from %s (%s) takes over from %s (%s)", identity.key, verdict.peer,
                verdict.transport, older.peer, older.transport,
            )  # fmt: skip
            self._end(older, TAKEN_OVER)
        session = Session(identity, verdict, sink)
        self._sessions[identity.key] = session
        if self.claims is not None:
            session.claim = self.claims.begin(session)
        self._note(session)
        if identity.module_id is None:
            self._devices += 1
        else:
            self._modules.setdefault(identity.device_id, set()).add(identity.key)
        for listener in self._when_opened:
            listener(session)
        if self._closed_by is not None:  # it was judged before, and opens after all others have ended
            asyncio.get_running_loop().call_soon(self.end, session, self._closed_by)
        return session

    def called(self, identity: Identity) -> None:
        """``identity`` sent or asked for messages without a session, as over HTTPS: that is activity and nothing more.

        In the cloud too connection state is that of MQTT and AMQP; a device that only calls counts as disconnected.
        """
        self._calls[identity.key] = _Change(self._ambient.now(), identity.generation_id)
        if identity.module_id is not None:
            self._modules.setdefault(identity.device_id, set()).add(identity.key)

    def _note(self, session: Session) -> None:
        self._changes[session.key] = _Change(self._ambient.now(), session.generation_id)

    def close(self, session: Session) -> None:
        """The connection is gone, by whosever wish; harmless when the session has ended already."""
        if session.ended:
            return
        session.ended = True
        key = session.key
        del self._sessions[key]
        self._note(session)
        if key.module_id is None:
            self._devices -= 1
        if session.commands is not None:
            session.commands.end()
        for listener in self._when_ended:
            listener(session)
        if self.claims is not None:
            self.claims.release(session)

    def when_opened(self, listener: Callable[[Session], None]) -> None:
        """From now on call ``listener`` with every session that has begun."""
        self._when_opened.append(listener)

    def when_ended(self, listener: Callable[[Session], None]) -> None:
        """From now on call ``listener`` with every session that has ended, before another one of its identity opens."""
        self._when_ended.append(listener)

    def _end(self, session: Session, error: ErrorRow) -> None:
        self.close(session)
        session.sink.end(error)

    def all(self) -> list[Session]:
        """The live sessions."""
        return list(self._sessions.values())

    def end(self, session: Session, error: ErrorRow) -> None:
        """End a session that has lost its ground; harmless when it has ended already."""
        if not session.ended:
            self._end(session, error)

    def find(self, key: IdentityKey) -> Session | None:
        """The live session of ``key`` on this node."""
        return self._sessions.get(key)

    def epoch_of(self, key: IdentityKey) -> int:
        """The epoch of the live session of ``key`` on this node, 0 without one; see ``sessions.contract``."""
        session = self._sessions.get(key)
        return 0 if session is None or session.claim is None else session.claim.epoch

    def take_over(self, session: Session) -> None:
        """A newer session of the identity has begun on another node."""
        self.takeovers += 1
        log.info(
            "%s: a connection to another node takes over from %s (%s)", session.key, session.peer, session.transport
        )
        self._end(session, TAKEN_OVER)

    def end_present(self, error: ErrorRow) -> None:
        """End every session that there is now."""
        for session in list(self._sessions.values()):
            self._end(session, error)

    def end_all(self, error: ErrorRow) -> None:
        """End every session, and those that begin from now on, as when the hub stops."""
        self._closed_by = error
        self.end_present(error)

    # --- what services send to devices

    def desired_changed(self, key: IdentityKey, patch: Mapping[str, Any], version: int) -> None:
        """See ``twins.contract.DesiredListener``; an identity that is not connected reads its twin later."""
        session = self._sessions.get(key)
        if session is not None:
            session.sink.desired_changed(patch, version)

    def twin_read(self, key: IdentityKey, version: int) -> None:
        """The device has read its twin, whose desired properties had ``version``."""
        session = self._sessions.get(key)
        if session is not None and session.desired < version:
            session.desired = version

    def take_methods(self, session: Session, takes: Callable[[str], bool] | None) -> None:
        """From now on ``session`` takes the methods of whose name ``takes`` is true; ``None`` for none."""
        session.takes = takes
        if takes is not None and not session.ended:
            for listener in self._when_taken:
                listener(session.key)

    def take_commands(self, session: Session, source: CommandSource, *, can_abandon: bool = False) -> None:
        """``session`` takes commands from ``source``, from now on or again: as many as its sink has room for.

        ``can_abandon``: see ``CommandFlow``.
        """
        if session.ended:
            return
        if session.commands is None:
            session.commands = CommandFlow(source, session.key, session.sink, self._ambient, can_abandon=can_abandon)
        else:
            session.commands.pull()

    def leave_commands(self, session: Session) -> None:
        """``session`` takes no commands any more; what it has in hand goes back."""
        if session.commands is not None:
            session.commands.end()
            session.commands = None

    def taker(self, key: IdentityKey, name: str) -> Session | None:
        """See ``messages.methods.MethodSessions``."""
        session = self._sessions.get(key)
        if session is None or session.takes is None or not session.takes(name):
            return None
        return session

    def when_methods_taken(self, listener: Callable[[IdentityKey], None]) -> None:
        """See ``messages.methods.MethodSessions``."""
        self._when_taken.append(listener)

    # --- presence

    def is_connected(self, key: IdentityKey) -> bool:
        return key in self._sessions

    @property
    def shared(self) -> bool:
        return self.claims is not None

    def activity(self, key: IdentityKey) -> tuple[bool, float, float]:
        session, change, call = self._sessions.get(key), self._changes.get(key), self._calls.get(key)
        changed = last = NEVER if change is None else change.at
        if call is not None and call.at > last:
            last = call.at
        if session is None:
            return False, changed, last
        heard = self._ambient.now() - session.sink.quiet_seconds()
        return True, changed, heard if heard > last else last

    async def activities(self, keys: Sequence[IdentityKey]) -> list[tuple[bool, float, float]]:
        known = [self.activity(key) for key in keys]
        return known if self.claims is None else await self.claims.activities(keys, known)

    async def connected_devices(self) -> int:
        return self._devices if self.claims is None else await self.claims.connected_devices()

    def connected_count(self) -> int:
        """How many devices are connected to this node."""
        return self._devices

    # --- changes in the registry

    def _identity_changed(self, payload: str) -> None:
        key = key_of(payload)
        keys = {key}
        if key.module_id is None:
            keys |= self._modules.get(key.device_id, set())
        for key in keys:
            if key not in self._changes and key not in self._calls:
                continue
            self._check(self._recheck(key))

    def _check(self, look: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(look)
        self._rechecks.add(task)
        task.add_done_callback(self._rechecks.discard)

    def _recheck_all(self, _: str) -> None:
        """Look at every session anew, and at those that are looked at only now once more."""
        self._unsure.update(dict.fromkeys(self._sessions))
        for _number in range(RECHECKS_AT_ONCE - self._checking):
            self._checking += 1
            self._check(self._recheck_unsure())

    async def _recheck_unsure(self) -> None:
        try:
            while self._unsure:
                key = next(iter(self._unsure))
                del self._unsure[key]
                await self._recheck(key)
        finally:
            self._checking -= 1

    async def _recheck(self, key: IdentityKey) -> None:
        session = self._sessions.get(key)
        try:
            present = await self._store.get(self._hub, key)
            error = None if session is None else await self._ground_lost(session, present)
        except HubError as problem:
            log.error("%s was changed and cannot be read: %s", key, problem)
            if session is not None and not session.ended:  # whether it may go on is judged when it is back
                self._end(session, problem.row)
            return
        if session is not None and error is not None and not session.ended:
            log.info("%s: its session ends: %s", key, error.cause)
            self._end(session, error)
        if key in self._sessions:
            return
        known = [of[key].generation_id for of in (self._changes, self._calls) if key in of]
        if present is None or any(generation != present.generation_id for generation in known):
            self._forget_identity(key)
            if self.claims is not None:
                for generation in dict.fromkeys(known):
                    self.claims.forget(key, generation)

    async def _ground_lost(self, session: Session, now: Identity | None) -> ErrorRow | None:
        """Why ``session`` cannot go on with what its identity is ``now``, or ``None``."""
        if now is None or now.generation_id != session.generation_id:
            return DEVICE_NOT_FOUND
        if now.status is Status.DISABLED:
            return DEVICE_DISABLED
        held = now.authentication
        if hash(held) != session.credentials:
            rolling_over = session.thumbprint in {held.primary_thumbprint, held.secondary_thumbprint}
            if not (session.thumbprint and rolling_over):
                return DEVICE_UNAUTHORIZED
        if session.key.module_id is not None:
            device = await self._store.get(self._hub, IdentityKey(session.key.device_id))
            if device is not None and device.status is Status.DISABLED:
                return DEVICE_DISABLED
        return None

    def _forget_identity(self, key: IdentityKey) -> None:
        """The identity was deleted: a later one of the same id begins anew."""
        self._changes.pop(key, None)
        self._calls.pop(key, None)
        if key.module_id is not None:
            modules = self._modules.get(key.device_id, set())
            modules.discard(key)
            if not modules:
                self._modules.pop(key.device_id, None)
