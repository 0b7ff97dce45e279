"""The hub's meters put together: a part of the composition root."""

from __future__ import annotations

import asyncio
import logging

from muster.core.daily_use import DailyUse
from muster.core.errors import HubError
from muster.core.meters import Meters
from muster.core.settings_store import HubSettingsStore
from muster.node.foundation import Foundation

log = logging.getLogger("muster.node")

_NAME = "daily-use"


async def open_meters(base: Foundation) -> Meters:
    """The meters of the hub, with what an earlier run has used of the day's quota. Raises ``HubError`` 500001."""
    plan = base.settings.plan
    if plan is None:
        return Meters(base.ambient, principal_rate=base.settings.principal_rate)
    worker = base.settings.worker
    name = _NAME if worker is None else f"{_NAME}-{worker.number}"  # each counts what goes through it
    kept = _Kept(base.kept, name)
    use = DailyUse(plan.quota, await base.kept.get_setting(name), kept.keep)
    base.undo.append(lambda: kept.write(use.state))
    return Meters(base.ambient, plan, use, principal_rate=base.settings.principal_rate)


class _Kept:
    """Writes the use of the day's quota behind."""

    def __init__(self, store: HubSettingsStore, name: str) -> None:
        self._store, self._name = store, name
        self._task: asyncio.Task[None] | None = None

    def keep(self, state: bytes) -> None:
        self._task = asyncio.get_running_loop().create_task(self.write(state))

    async def write(self, state: bytes) -> None:
        try:
            await self._store.put_settings({self._name: state})
        except HubError as error:
            log.error("what was used of the day's messages is not written: %s", error.message)
