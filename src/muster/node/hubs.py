"""The hubs of a node: opened and closed while it runs, and found by the heads under their names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from muster.core.errors import NOT_FOUND, UNAVAILABLE, HubError
from muster.core.settings_store import HubSettingsStore, SettingsOf
from muster.heads.http.audit import AuditOperations
from muster.heads.http.connection import App
from muster.heads.http.meters import Lines
from muster.heads.http.operations import Operation
from muster.heads.hubs import HubDirectory
from muster.identity.hub import Hub
from muster.identity.policies import development_policies
from muster.node.hub import OpenHub, Site, open_hub
from muster.node.material import HubKeys, load_first_keys, load_keys
from muster.node.roster import Roster, check_hub
from muster.node.settings import HubSettings

WhenClosing = Callable[[OpenHub], Awaitable[None] | None]


class Hubs:
    """The open hubs. ``first`` is open as long as the node, and all there is where it has one hub only.

    ``mqtt``, ``amqp``, ``apps``, ``refusals`` and ``named`` are what the heads find them by.
    """

    def __init__(self, site: Site, first: OpenHub) -> None:
        self.first = first
        self.mqtt = HubDirectory(first.devices, first.name, first.facts.hosts)
        self.amqp = HubDirectory(first.amqp, first.name, first.facts.hosts)
        self.refusals = HubDirectory(first.parts.refusals, first.name, first.facts.hosts)
        self.named = HubDirectory(first, first.name, first.facts.hosts)
        self.apps: HubDirectory[App]
        self._site = site
        self._shared: Sequence[Operation] = ()
        self._serving = False
        self._open = {first.name: first}
        self._changing = asyncio.Lock()
        self._kept: dict[str, SettingsOf] = {}
        self._when_opened: list[Callable[[OpenHub], None]] = []
        self._when_closing: list[WhenClosing] = []

    def all(self) -> list[OpenHub]:
        """Those that are open, the first one first."""
        return list(self._open.values())

    def connected(self) -> dict[str, int]:
        """How many devices are connected to this node, by hub."""
        return {hub.name: hub.parts.sessions.connected_count() for hub in self._open.values()}

    @property
    def facts(self) -> list[Hub]:
        """Their names, hosts and policies."""
        return [hub.facts for hub in self._open.values()]

    def check(self, wanted: HubSettings) -> None:
        """Raise ``HubError`` 400004 unless ``wanted`` may be opened beside those that are."""
        check_hub(wanted, [(hub.name, sorted(hub.hosts)) for hub in self.facts])

    def get(self, name: str) -> OpenHub | None:
        """The open hub ``name``."""
        return self._open.get(name)

    def failing(self) -> bool:
        """Whether the disk does not take the messages of one of them."""
        return any(hub.parts.telemetry.failing for hub in self._open.values())

    def when_opened(self, listener: Callable[[OpenHub], None]) -> None:
        """From now on call ``listener`` with every hub that is opened."""
        self._when_opened.append(listener)

    def when_closing(self, listener: WhenClosing) -> None:
        """From now on call ``listener`` with every hub that closes while the node goes on, and wait until it is done:
        nobody finds the hub any more and its sessions have ended, its stores are still there."""
        self._when_closing.append(listener)

    async def open(self, wanted: HubSettings) -> OpenHub:
        """Open another hub; when this returns it serves.

        Raises ``HubError``: 400004 for a name or host that cannot be or is in use, 500001 when a store fails.
        """
        async with self._changing:
            self.check(wanted)
            site = self._site
            kept = SettingsOf(site.kept, wanted.name)
            make = partial(development_policies, wanted.name) if site.settings.data is None else None
            keys = await load_keys(kept, site.ambient, wanted.name, make)
            hub = await open_hub(site, site.settings.of(wanted), keys, kept)
            try:
                if self._serving:
                    await self._serve(hub)
            except BaseException:
                await hub.close()
                kept.leave()
                raise
            self._open[hub.name], self._kept[hub.name] = hub, kept
            for opened in self._when_opened:
                opened(hub)
            return hub

    async def serve(self, shared: Sequence[Operation], first: Sequence[Operation], metrics: Lines = tuple) -> None:
        """Let clients find the hubs, and those that will be opened. All have the operations ``shared`` in their REST
        API, and the first one ``first`` and the lines of ``metrics`` too."""
        self._shared = shared
        deployment = (self._site.engines.examine, self._site.nodes.examine)
        app = await self.first.app([*shared, *first], metrics, deployment)
        self.apps = HubDirectory(app, self.first.name, self.first.facts.hosts)
        for hub in self.all():
            if hub is not self.first:
                await self._serve(hub)
        self._serving = True

    async def _serve(self, hub: OpenHub) -> None:
        name, hosts = hub.name, hub.own_hosts
        own = AuditOperations(self._site.audit, name).table()
        hub.rest = await hub.app([*self._shared, *own])
        self.apps.add(hub.rest, name, hosts)
        self.mqtt.add(hub.devices, name, hosts)
        self.amqp.add(hub.amqp, name, hosts)
        self.refusals.add(hub.parts.refusals, name, hosts)
        self.named.add(hub, name, hosts)

    async def close(self, name: str) -> None:
        """Close a hub other than the first: its sessions and connections end, what it has stays in its stores.

        Raises ``HubError`` 404000 when none is open under that name.
        """
        async with self._changing:
            hub = self._open.get(name)
            if hub is None or hub is self.first:
                raise HubError(NOT_FOUND, f"There is no hub {name[:80]} besides the first.")
            for directory in (self.mqtt, self.amqp, self.apps, self.refusals, self.named):
                directory.remove(name)
            hub.end(UNAVAILABLE)
            for listener in self._when_closing:
                pending = listener(hub)
                if pending is not None:
                    await pending
            del self._open[name]
            await hub.close()
            self._kept.pop(name).leave()

    def end(self) -> None:
        """End the sessions of all, as when the node stops."""
        for hub in self._open.values():
            hub.end(UNAVAILABLE)

    async def close_all(self) -> None:
        """Close the stores of all."""
        async with self._changing:
            await asyncio.gather(*(hub.close() for hub in self._open.values()))


async def open_hubs(site: Site, roster: Roster) -> Hubs:
    """Open the first hub and those of ``roster``; they are not found until they ``serve``.

    Raises as ``Hubs.open``; what was begun is undone.
    """
    settings = site.settings
    keys = await _first_keys(site, site.kept)
    hubs = Hubs(site, await open_hub(site, settings, keys, site.kept, first=True))
    try:
        for wanted in roster:
            await hubs.open(wanted)
    except BaseException:
        await hubs.close_all()
        raise
    return hubs


async def _first_keys(site: Site, kept: HubSettingsStore) -> HubKeys:
    settings = site.settings
    return await load_first_keys(kept, site.ambient, settings.hub_host, development=settings.data is None)
