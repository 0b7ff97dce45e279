"""A data directory whose hubs do not run, opened by a command: the registry, refusals and names of one of them.

The command owns the directory meanwhile, so there is never a second writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from muster.core.ambient import Ambient, SystemAmbient
from muster.core.bus import LocalBus
from muster.core.errors import INVALID_OPERATION, HubError
from muster.core.settings_store import HubSettingsStore, SettingsOf
from muster.identity.hub import Hub, make_hub
from muster.identity.model import NEVER, IdentityKey
from muster.identity.network_access import HUB_SETTING, NetworkAccess
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.node.directory import DataDirectory
from muster.node.facts import Reach, Service, facts_of, last_reach
from muster.node.material import load_first_keys, load_keys, load_material, load_provisioning_policies
from muster.stores.sqlite.storage import SqliteStorage


@dataclass(frozen=True, slots=True)
class OfflineHub:
    """What a command may use. ``facts`` are those of the last run, of all hubs; ``host`` is this one's."""

    registry: Registry
    refusals: Refusals
    network: NetworkAccess
    host: str
    facts: dict[str, Any]


class Nobody:
    """``identity.contract.Presence`` of a hub that does not run: nobody is connected."""

    shared = False

    def activity(self, _: IdentityKey) -> tuple[bool, float, float]:
        return False, NEVER, NEVER

    async def activities(self, keys: Sequence[IdentityKey]) -> list[tuple[bool, float, float]]:
        return [self.activity(key) for key in keys]

    async def connected_devices(self) -> int:
        return 0


@asynccontextmanager
async def open_offline(directory: DataDirectory, name: str = "") -> AsyncIterator[OfflineHub]:
    """Open the hub ``name`` of ``directory``, or the first one. The caller owns the directory and releases it.

    Raises ``HubError``: 400003 when no hub ever ran there or none of that name, 500001 when the database cannot be
    opened.
    """
    if not directory.hub_database.exists():
        raise HubError(INVALID_OPERATION, f"{directory.path} holds no hub; start one there: muster serve")
    loop = asyncio.get_running_loop()
    ambient = SystemAmbient(loop)
    async with AsyncExitStack() as stack:
        storage = SqliteStorage(directory.hub_database)
        stack.push_async_callback(storage.close)
        settings = storage.settings
        reach = await last_reach(settings)
        if reach is None:
            raise HubError(INVALID_OPERATION, f"no hub has got ready in {directory.path} yet; run: muster serve")
        hubs = await _hubs(settings, ambient, reach)
        hub = next((one for one in hubs if name in ("", one.name)), None)
        if hub is None:
            names = ", ".join(one.name for one in hubs)
            raise HubError(INVALID_OPERATION, f"{directory.path} has no hub {name[:80]}, it has {names}.")
        hosts = [*reach.hostnames, *(host for hosts in reach.hubs.values() for host in hosts)]
        material = await load_material(settings, ambient, hosts, development=False)
        policies = await load_provisioning_policies(settings, ambient, development=False)
        service = Service(material.id_scope, policies)
        stores = storage.of(hub.name)
        registry = Registry(hub.name, stores.identities, Nobody(), LocalBus(), ambient)
        refusals = Refusals(ambient, store=stores.refusals)
        network = NetworkAccess(
            settings if hub is hubs[0] else SettingsOf(settings, hub.name), HUB_SETTING, refusals, ambient
        )
        await network.load()
        yield OfflineHub(registry, refusals, network, hub.host, facts_of(hubs, service, directory, reach))


async def _hubs(settings: HubSettingsStore, ambient: Ambient, reach: Reach) -> list[Hub]:
    """The hubs of the last run, the first one first."""
    keys = await load_first_keys(settings, ambient, reach.hostnames[0], development=False)
    hubs = [make_hub(reach.hostnames, keys.policies, name=keys.name)]
    for name, hosts in reach.hubs.items():
        keys = await load_keys(SettingsOf(settings, name), ambient, name)
        hubs.append(make_hub(hosts, keys.policies, name=keys.name))
    return hubs
