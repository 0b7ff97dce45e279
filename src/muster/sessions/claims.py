"""Sessions of a deployment of several nodes: before one goes on here, an older one elsewhere has ended.

A session claims its identity in the directory, which tells what other nodes may still have an older one. Each of those
is asked to end it. It answers when that is done and all that the session has begun there is stored, so nothing of it
can come behind what the new one does. A node that does not answer is waited for until its lease is over: it has ended
its sessions by then (``sessions.lease``). Only then the device hears that it is in.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from muster.core.ambient import Ambient
from muster.core.bus import NodeBus
from muster.core.errors import TAKEN_OVER, UNAVAILABLE, HubError
from muster.identity.model import IdentityKey
from muster.sessions.contract import SessionDirectory, node_of
from muster.sessions.lease import Lease

if TYPE_CHECKING:
    from muster.sessions.table import Session, SessionTable

CLAIM_SECONDS = 15.0
"""How long a device waits at most for the end of its session elsewhere before it is refused; it comes again."""
_ASK_SECONDS = 5.0
_AGAIN_SECONDS = 0.5
_AT_ONCE = 500
"""Sessions that one question asks to end."""
_SUBJECT = "session.end"

log = logging.getLogger("muster.sessions")


class Claim:
    """That a session is the one of its identity; wait for ``granted`` before the device hears of it."""

    __slots__ = ("epoch", "known", "lease", "task")

    def __init__(self, lease: str) -> None:
        self.lease = lease
        self.epoch = 0
        self.known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when ``epoch`` is known, or never will be."""
        self.task: asyncio.Task[None]

    async def granted(self) -> None:
        """Return when no other node has a session of the identity any more.

        Raises ``HubError`` when that could not be brought about, or a newer session has begun meanwhile.
        """
        await asyncio.shield(self.task)


class _Ending(NamedTuple):
    key: IdentityKey
    epoch: int
    done: asyncio.Future[bool]


class Claims:
    """The claims of one hub on this node. ``serve`` them for a table."""

    def __init__(self, hub: str, directory: SessionDirectory, lease: Lease, bus: NodeBus, ambient: Ambient) -> None:
        self._hub, self._directory, self._lease = hub, directory, lease
        self._bus, self._ambient = bus, ambient
        self._table: SessionTable | None = None
        self._endings: dict[str, list[_Ending]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.drains: list[Callable[[Sequence[IdentityKey]], Awaitable[object]]] = []
        """Each waits until what ended sessions of the identities have begun is stored, or has failed."""
        bus.answer(_SUBJECT, self._end_here)

    def serve(self, table: SessionTable) -> None:
        """Sessions that others claim are ended in ``table``."""
        self._table = table

    def check(self) -> None:
        """Raise ``HubError`` 503001 when nothing that is claimed now would be granted."""
        if not self._lease.held:
            raise HubError(UNAVAILABLE, "this node has lost its lease and takes no sessions now; try again")

    def begin(self, session: Session) -> Claim:
        """``session`` is in the table; claim its identity."""
        claim = Claim(self._lease.name)
        claim.task = asyncio.get_running_loop().create_task(self._claim(session, claim))
        claim.task.add_done_callback(_seen)
        return claim

    def release(self, session: Session) -> None:
        """``session`` has ended, and is out of the table."""
        claim = session.claim
        if claim is not None:
            self._run(self._release(session.key, claim))

    def forget(self, key: IdentityKey, generation_id: str) -> None:
        """The identity is gone."""
        self._run(self._forget(key, generation_id))

    async def find(self, key: IdentityKey) -> str | None:
        """The other node, by its name on the bus, that has the session of ``key``; ``None``: none has."""
        lease = await self._directory.find(self._hub, key)
        return None if lease is None or lease == self._lease.name else node_of(lease)

    async def activities(
        self, keys: Sequence[IdentityKey], here: Sequence[tuple[bool, float, float]]
    ) -> list[tuple[bool, float, float]]:
        """What ``SessionTable.activities`` says of ``keys``, of which this node knows what is ``here``."""
        away = [key for key, (connected, _, _) in zip(keys, here, strict=True) if not connected]
        present = dict(zip(away, await self._directory.present(self._hub, away), strict=True)) if away else {}
        told = []
        for key, known in zip(keys, here, strict=True):
            found = present.get(key)
            told.append(known if found is None else (found.connected, found.changed, max(found.changed, known[2])))
        return told

    async def connected_devices(self) -> int:
        """How many devices are connected to all nodes, as they said a moment ago."""
        return await self._lease.devices(self._hub)

    async def close(self) -> None:
        """Return when the directory knows of all sessions that have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- claiming

    async def _claim(self, session: Session, claim: Claim) -> None:
        try:
            self.check()
            made = self._directory.claim(
                self._hub, session.key, session.generation_id, claim.lease, self._ambient.now()
            )
            claimed = await made
            claim.epoch = claimed.epoch
        finally:
            claim.known.set_result(None)
        others = [holder for holder in claimed.holders if holder != claim.lease]
        if others:
            try:
                async with asyncio.timeout(CLAIM_SECONDS):
                    await asyncio.gather(*(self._end_there(holder, session.key, claim.epoch) for holder in others))
            except TimeoutError:
                message = f"an older session of {session.key} on {node_of(others[0])} has not ended in time; try again"
                raise HubError(UNAVAILABLE, message) from None
            await self._directory.alone(self._hub, session.key, claim.epoch, claim.lease)
        if session.ended:
            raise HubError(TAKEN_OVER)
        self.check()
        if claim.lease != self._lease.name:
            raise HubError(UNAVAILABLE, "this node had lost its lease meanwhile; try again")

    async def _end_there(self, holder: str, key: IdentityKey, epoch: int) -> None:
        """Return when the node of the lease ``holder`` has ended its session of ``key``, or all of its sessions."""
        while True:
            waiting = self._endings.get(holder)
            if waiting is None:
                waiting = self._endings[holder] = []
                self._run(self._ask(holder))
            done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            waiting.append(_Ending(key, epoch, done))
            if await done:
                return
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _ask(self, holder: str) -> None:
        """Ask the node once for all sessions that this round of the loop wants of it."""
        await asyncio.sleep(0)
        waiting = self._endings.pop(holder)
        for at in range(0, len(waiting), _AT_ONCE):
            some = waiting[at : at + _AT_ONCE]
            told = [[one.key.device_id, one.key.module_id or "", one.epoch] for one in some]
            ended = await self._ended(holder, json.dumps([holder, told]).encode())
            for one in some:
                if not one.done.done():
                    one.done.set_result(ended)

    async def _ended(self, holder: str, question: bytes) -> bool:
        """Whether the node has ended the sessions, or has no lease any more."""
        answer = await self._lease.answer_of(holder, self._bus, _SUBJECT, question, seconds=_ASK_SECONDS)
        return answer is not None

    # --- claimed by others

    async def _end_here(self, question: bytes) -> bytes:
        holder, told = json.loads(question)
        if holder != self._lease.name or self._table is None:
            return b""  # the sessions of an earlier lease have ended with it
        keys = [IdentityKey(device_id, module_id or None) for device_id, module_id, _ in told]
        for key, (_, _, epoch) in zip(keys, told, strict=True):
            session = self._table.find(key)
            if session is None or session.claim is None:
                continue
            await asyncio.shield(session.claim.known)
            if session.claim.epoch < epoch and not session.ended:
                self._table.take_over(session)
        await asyncio.sleep(0)  # transports that were closed tell of it: a will goes to the partitions
        await asyncio.gather(*(drain(keys) for drain in self.drains))
        return b""

    # --- the end

    async def _release(self, key: IdentityKey, claim: Claim) -> None:
        await asyncio.shield(claim.known)
        if not claim.epoch:
            return
        try:
            await self._directory.release(self._hub, key, claim.epoch, claim.lease, self._ambient.now())
        except HubError as error:  # the next claim asks this node, which says that there is no session
            log.info("%s: that its session has ended is not in the directory: %s", key, error)

    async def _forget(self, key: IdentityKey, generation_id: str) -> None:
        try:
            await self._directory.forget(self._hub, key, generation_id)
        except HubError as error:
            log.info("%s: that it is gone is not in the directory: %s", key, error)

    def _run(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _seen(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # the head that waited may be gone
