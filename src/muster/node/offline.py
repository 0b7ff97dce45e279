"""A data directory whose hub does not run, opened by a command: its registry, refusals and names.

The command owns the directory meanwhile, so there is never a second writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from muster.core.ambient import SystemAmbient
from muster.core.bus import LocalBus
from muster.core.errors import INVALID_OPERATION, HubError
from muster.identity.model import NEVER, IdentityKey
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.node.directory import DataDirectory
from muster.node.facts import facts_of, hub_of, last_reach
from muster.node.material import load_material
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.refusals import SqliteRefusalStore
from muster.stores.sqlite.settings import SqliteHubSettingsStore


@dataclass(frozen=True, slots=True)
class OfflineHub:
    """What a command may use. ``facts`` are those of the last run."""

    registry: Registry
    refusals: Refusals
    facts: dict[str, Any]


class _Nobody:
    """``identity.contract.Presence`` of a hub that does not run: nobody is connected."""

    def is_connected(self, _: IdentityKey) -> bool:
        return False

    def connection_changed(self, _: IdentityKey) -> float:
        return NEVER

    def last_activity(self, _: IdentityKey) -> float:
        return NEVER

    def connected_count(self) -> int:
        return 0


@asynccontextmanager
async def open_offline(directory: DataDirectory) -> AsyncIterator[OfflineHub]:
    """Open the hub of ``directory``, which the caller owns and releases.

    Raises ``HubError``: 400003 when no hub ever ran there, 500001 when its database cannot be opened.
    """
    if not directory.hub_database.exists():
        raise HubError(INVALID_OPERATION, f"{directory.path} holds no hub; start one there: muster serve")
    loop = asyncio.get_running_loop()
    ambient = SystemAmbient(loop)
    async with AsyncExitStack() as stack:
        writer = Writer(directory.hub_database, MIGRATIONS, loop)
        stack.push_async_callback(writer.close)
        reader = open_connection(directory.hub_database, readonly=True)
        stack.callback(reader.close)
        settings = SqliteHubSettingsStore(writer, reader)
        reach = await last_reach(settings)
        if reach is None:
            raise HubError(INVALID_OPERATION, f"no hub has got ready in {directory.path} yet; run: muster serve")
        material = await load_material(settings, ambient, reach.hostnames, development=False)
        hub = hub_of(material, reach)
        registry = Registry(hub.name, SqliteIdentityStore(writer, reader), _Nobody(), LocalBus(), ambient)
        refusals = Refusals(ambient, store=SqliteRefusalStore(writer, reader, hub.name))
        yield OfflineHub(registry, refusals, facts_of(hub, material, directory, reach))
