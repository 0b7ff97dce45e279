"""The hub's meters put together: a part of the composition root."""

from __future__ import annotations

import asyncio
import logging

from muster.core.ambient import Ambient, Timer
from muster.core.daily_use import DailyUse
from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.core.meters import Meters
from muster.core.settings_store import HubSettingsStore
from muster.core.throttle_limits import QUOTA_UNWRITTEN
from muster.core.throttles import Quota
from muster.node.foundation import Foundation

log = logging.getLogger("muster.node")

_NAME = "messages-today"


async def open_meters(base: Foundation) -> Meters:
    """The meters of the hub, with what others and an earlier run have used of the day's quota. Raises ``HubError``
    500001."""
    plan = base.settings.plan
    if plan is None:
        return Meters(base.ambient, principal_rate=base.settings.principal_rate)
    node = "" if base.several is None else base.several.buses.bus(base.hub.name).node
    kept = await KeptUse.open(base.kept, base.ambient, plan.quota, node)
    base.undo.append(kept.close)
    return Meters(base.ambient, plan, kept.use, principal_rate=base.settings.principal_rate)


class KeptUse:
    """The use of the day's quota, written behind: what it knows of other nodes is at most as old as that takes."""

    def __init__(
        self, store: HubSettingsStore, ambient: Ambient, quota: Quota, kept: bytes | None, *, node: str
    ) -> None:
        """See ``open``; ``kept`` is what ``store`` has."""
        self.use = DailyUse(quota, kept, self._write_soon, node=node)
        self._store, self._ambient = store, ambient
        self._written_at = float("-inf")
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, store: HubSettingsStore, ambient: Ambient, quota: Quota, node: str) -> KeptUse:
        """As it is kept in ``store``, ``node`` being this one's name. Raises ``HubError`` when the store fails."""
        made = cls(store, ambient, quota, await store.get_setting(_NAME), node=node)
        store.follow(_NAME, made._learn)
        return made

    async def close(self) -> None:
        """Write what was used."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task
        await self._write()

    def _write_soon(self) -> None:
        now = self._ambient.now()
        self._timer = self._ambient.at(max(now, self._written_at + QUOTA_UNWRITTEN.open), self._due)

    def _due(self) -> None:
        self._written_at = self._ambient.now()
        self._task = asyncio.get_running_loop().create_task(self._write())

    async def _learn(self) -> None:
        self.use.learn(await self._store.get_setting(_NAME))

    async def _write(self) -> None:
        try:
            while not await self._put():
                pass  # another node was first, so each round is the last one of some node
        except HubError as error:
            log.error("what was used of the day's messages is not written: %s", error.message)

    async def _put(self) -> bool:
        """Whether it is written: not when another node has written meanwhile."""
        kept = await self._store.get_setting(_NAME)
        try:
            await self._store.put_settings({_NAME: self.use.joined(kept)})
        except HubError as error:
            if error.row is PRECONDITION_FAILED:
                return False
            raise
        return True
