"""This node's word that it is alive. Its sessions hang on it: without it others may take them over unasked.

A lease lasts ``LEASE_SECONDS`` by the store's clock and is renewed every ``RENEW_SECONDS``. A node that cannot renew it
ends its sessions ``MARGIN_SECONDS`` before it is over for the others, counted from before the last renewal was asked
for, so that clocks need not agree. One thing is excepted: when the store is down for all others that can be asked on
the bus, nobody can take anything over, and sessions go on. A late renewal counts as long as nobody has taken the lease
away. A node that is not on the bus, while others are, gives its lease up after ``CUT_OFF_SECONDS``: it hears of nothing
that they change, and cannot be asked to end a session. Who finds a lease that stays over, while its own is renewed all
the time, takes it away: else devices of a node that never came back would count as connected for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from muster.core.ambient import SystemAmbient
from muster.core.bus import NodeBus
from muster.core.errors import NOT_FOUND, HubError
from muster.sessions.contract import Leased, LeaseStore, node_of

LEASE_SECONDS, RENEW_SECONDS, MARGIN_SECONDS = 5.0, 1.0, 1.0
_LOOK_SECONDS, GONE_SECONDS = 10.0, 30.0
"""How often a node looks for leases that are over, and how long it must have seen that until it takes them away."""
CUT_OFF_SECONDS = 8.0
"""For so long a node is on no bus while others are, until that counts: when the bus fails for all they notice it, and
are back, within some seconds of each other."""
_STORE_SECONDS = 1.5
"""Within which the store must answer: two such silences leave time to ask the others."""
_ASK_SECONDS = 0.5
"""Within which another node says whether it reaches the store."""
_GONE_KEPT = 1000
_REACHED, _NOT_REACHED = b"+", b"-"
_SUBJECT = "lease.store"
_BEGUN = "lease.begun"
"""Payload: a lease that a node has now."""

log = logging.getLogger("muster.nodes")


class Lease:
    """The lease of a node, from ``start`` to ``stop``. ``name`` is another one after each loss."""

    def __init__(
        self, store: LeaseStore, bus: NodeBus, about: Mapping[str, Any] | None = None,
        cut_off: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:  # fmt: skip
        """``bus`` is that of the deployment; ``about`` is what the node says of itself. ``cut_off`` tells, by the name
        of this node's lease, whether others are on the bus and this node is not."""
        self.name = ""
        self.held = False
        """Whether sessions may begin and go on."""
        self.counts: dict[str, Callable[[], int]] = {}
        """Tell how many devices of each hub are connected to this node."""
        self._store, self._bus, self._about = store, bus, about or {}
        self._cut_off = cut_off or _never
        self._cut_since: float | None = None
        self._renewed = 0.0
        self._failing = False
        self._others: Sequence[str] = ()
        self._over: dict[str, float] = {}
        """Leases that are over, and since when this node sees it."""
        self._gone: dict[str, None] = {}
        """Leases that are known to be over; no name is given again."""
        self._when_lost: dict[object, Callable[[], None]] = {}
        self._task: asyncio.Task[None] | None = None
        bus.answer(_SUBJECT, self._reached)
        bus.subscribe(_BEGUN, self._begun)

    def when_lost(self, listener: Callable[[], None]) -> Callable[[], None]:
        """From now on call ``listener`` when the lease is lost: all sessions must have ended when it returns. What this
        returns ends that."""
        token = object()
        self._when_lost[token] = listener

        def leave() -> None:
            self._when_lost.pop(token, None)

        return leave

    async def start(self) -> None:
        """Get a lease, and renew it from now on. Raises ``HubError`` when the store fails."""
        await self._register()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Give the lease up: others need not wait for its end."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.name and self.held:
            self.held = False
            with suppress(HubError):
                await self._store.give_up(self.name)

    def lose(self, why: str) -> None:
        """Others can take the sessions over from now on, as this node has heard: end them."""
        if self.held:
            self._lose(why)

    def sure(self) -> bool:
        """Whether no other node can have taken the lease away, by this node's clock. May be asked in any thread."""
        return self.held and SystemAmbient.monotonic() < self._renewed + LEASE_SECONDS

    async def expire(self, lease: str) -> float:
        """See ``LeaseStore.expire``."""
        return await self._store.expire(lease)

    async def answer_of(
        self, holder: str, bus: NodeBus, subject: str, question: bytes, *, seconds: float
    ) -> bytes | None:
        """What the node of the lease ``holder`` answers on ``bus``, a hub's. Empty when it has not opened the hub, or
        its lease is over and taken away: nothing that hung on it goes on. ``None`` when neither came about, within
        ``seconds`` and some."""
        if holder in self._gone:
            return b""
        try:
            return await bus.ask(node_of(holder), subject, question, seconds)
        except HubError as error:
            if error.row is NOT_FOUND:
                return b""
            log.info("%s: an answer of %s is waited for: %s", subject, holder, error)
        try:
            if await self.expire(holder) > 0:
                return None
        except HubError as error:
            log.warning("whether %s is alive cannot be read: %s", holder, error)
            return None
        self._gone[holder] = None
        if len(self._gone) > _GONE_KEPT:
            del self._gone[next(iter(self._gone))]
        return b""

    async def devices(self, hub: str) -> int:
        """See ``LeaseStore.devices``."""
        return await self._store.devices(hub)

    async def nodes(self) -> Sequence[Leased]:
        """See ``LeaseStore.nodes``."""
        return await self._store.nodes()

    async def _register(self) -> None:
        began = asyncio.get_running_loop().time()
        self.name = await self._store.register(self._bus.node, LEASE_SECONDS, self._about)
        self._renewed, self._failing, self.held = began, False, True
        self._bus.publish(_BEGUN, self.name)

    def _begun(self, lease: str) -> None:
        """Another node has one: to be asked also if the store should be gone before the next renewal tells of it."""
        if lease != self.name:
            self._others = [*self._others, lease]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep())
            group.create_task(self._look())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                async with asyncio.timeout(_STORE_SECONDS):
                    if self.held:
                        await self._renew()
                        await self._look_around()
                    elif not await self._cut_off(self.name):
                        await self._register()
                        log.warning("this node takes sessions again, its lease is %s", self.name)
            except (HubError, TimeoutError) as error:
                self._failing = True
                await self._failed(error)

    async def _renew(self) -> None:
        began = asyncio.get_running_loop().time()
        others = await self._store.renew(self.name, LEASE_SECONDS, {hub: count() for hub, count in self.counts.items()})
        if others is None:
            self._lose("others took it away, as it was not renewed in time")
        else:
            self._renewed, self._failing, self._others = began, False, others

    async def _look(self) -> None:
        """Apart from the renewals, which must not wait for this."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                if self.held and not self._failing:
                    await self._take_away()
                else:
                    self._over.clear()
            except (HubError, TimeoutError):
                self._over.clear()

    async def _take_away(self) -> None:
        now = asyncio.get_running_loop().time()
        over = [one.lease for one in await self._store.nodes() if one.left < 0]
        self._over = {lease: self._over.get(lease, now) for lease in over}
        for lease, since in self._over.items():
            if now >= since + GONE_SECONDS and not await self._store.expire(lease):
                log.warning("%s is gone without a word, its lease is taken away", node_of(lease))

    async def _look_around(self) -> None:
        if not await self._cut_off(self.name):
            self._cut_since = None
            return
        now = asyncio.get_running_loop().time()
        if self._cut_since is None:
            self._cut_since = now
        elif now >= self._cut_since + CUT_OFF_SECONDS and self.held:
            self._cut_since = None
            self._lose("other nodes are on the bus, and it is not")
            await self._store.give_up(self.name)

    async def _failed(self, error: Exception) -> None:
        """The store was not reached. Is it for this node alone?"""
        left = self._renewed + LEASE_SECONDS - MARGIN_SECONDS - asyncio.get_running_loop().time()
        if not self.held or left > RENEW_SECONDS + _ASK_SECONDS:
            return
        nodes = dict.fromkeys(node_of(other) for other in self._others)
        answers = await asyncio.gather(*(self._ask(node) for node in nodes))
        heard = [answer for answer in answers if answer]
        if _REACHED in heard or (nodes and not heard):
            self._lose(f"it cannot be renewed: {error}")
        else:
            log.warning("the store is down for all nodes that answer, sessions go on: %s", error)

    async def _ask(self, node: str) -> bytes:
        try:
            return await self._bus.ask(node, _SUBJECT, b"", _ASK_SECONDS)
        except HubError:
            return b""

    async def _reached(self, _: bytes) -> bytes:
        return _NOT_REACHED if self._failing else _REACHED

    def _lose(self, why: str) -> None:
        log.error("this node has lost its lease, its sessions end: %s", why)
        self.held = False
        for listener in tuple(self._when_lost.values()):
            listener()


async def _never(_: str) -> bool:
    return False
