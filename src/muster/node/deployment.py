"""The hubs of a running node, changed: added and removed without a restart, and for the restarts to come."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.core.audit import Note
from muster.core.errors import INVALID_OPERATION, NOT_FOUND, HubError
from muster.dialect.arm_hubs import HubDescription
from muster.dialect.hub_bodies import switches_body
from muster.heads.arm.managed import ManagedHub
from muster.node.certificate import ServerCertificate
from muster.node.directory import DataDirectory
from muster.node.engines import Engines
from muster.node.hub import OpenHub, Site
from muster.node.hubs import Hubs
from muster.node.managed import default_hub, managed_hub
from muster.node.own_certificate import OwnCertificate
from muster.node.roster import Roster
from muster.node.settings import HubSettings


class Deployment:
    """Adds and removes hubs. ``announce`` tells everybody how the hubs can be reached, after each change."""

    def __init__(
        self,
        site: Site,
        hubs: Hubs,
        roster: Roster,
        certificate: ServerCertificate | OwnCertificate,
        announce: Callable[[], Awaitable[None]],
    ) -> None:
        self._site = site
        self._hubs = hubs
        self._roster = roster
        self._certificate = certificate
        self._eraser = Eraser(site.engines, site.directory)
        self._announce = announce
        self._changing = asyncio.Lock()
        roster.follow(self._follow)

    async def reports(self) -> Sequence[Mapping[str, Any]]:
        """What hubs there are, the first one first: names, partitions, how many devices."""
        found = []
        for hub in self._hubs.all():
            counts = await hub.parts.identities.counts(hub.name)
            found.append(
                {
                    "name": hub.name,
                    "hostNames": list(hub.own_hosts),
                    "first": hub is self._hubs.first,
                    "declared": hub is self._hubs.first or self._roster.declares(hub.name),
                    **switches_body(hub.switches.now()),
                    "partitions": hub.parts.telemetry.partitions,
                    "devices": counts.enabled + counts.disabled,
                    "connectedDevices": await hub.parts.sessions.connected_devices(),
                }
            )
        return found

    # --- as the management API sees them

    def managed(self) -> Sequence[ManagedHub]:
        """See ``heads.arm.managed.ManagedNode``."""
        return [self._managed(hub) for hub in self._hubs.all()]

    def find(self, *hosts: str) -> ManagedHub:
        """See there."""
        return self._managed(self._hubs.named.find(*hosts))

    def default(self, name: str) -> HubDescription:
        """See there."""
        return default_hub(name, self._site.settings, self._site.ports)

    def check(self, name: str, members: Mapping[str, Any]) -> None:
        """Raise ``HubError`` 400004 unless the hub ``name`` with ``members`` may be added."""
        self._hubs.check(HubSettings(name=name, **members))

    def removable(self, name: str) -> None:
        """Raise ``HubError`` 400003 for the first hub or one of the settings, 404000 for none that was added."""
        if name == self._hubs.first.name:
            raise HubError(INVALID_OPERATION, f"{name} is the first hub, it is there as long as the deployment is.")
        self._roster.check_added(name)

    def _managed(self, hub: OpenHub) -> ManagedHub:
        return managed_hub(hub, self._site.ports, first=hub is self._hubs.first)

    # --- changed

    async def add(self, name: str, members: Mapping[str, Any], note: Note | None = None) -> None:
        """Open the hub ``name``, now and at every start; ``members`` are those of ``HubSettings``.

        Raises ``HubError``: 400004 for a name or host that cannot be or is in use, 500001 when a store fails.
        """
        wanted = HubSettings(name=name, **members)
        async with self._changing:
            self._hubs.check(wanted)
            if name in self._roster.leaving:
                await self._eraser.erase(name)
                await self._roster.gone(name)
            await self._roster.add(wanted, note)
            try:
                await self._certificate.cover_all()
                await self._hubs.open(wanted)
            except BaseException:
                await self._roster.withdraw(name, note)
                raise
            await self._announce()

    async def switch(self, name: str, wanted: Mapping[str, bool], note: Note | None = None) -> None:
        """Say which kinds of SAS token the hub ``name`` takes no more, by the names of ``identity.hub.Switches``.

        Raises ``HubError`` 404000 for no hub, and as ``KeptSwitches.set``.
        """
        hub = self._hubs.get(name)
        if hub is None:
            raise HubError(NOT_FOUND, f"There is no hub {name[:80]}, see: muster hub list")
        await hub.switches.set(wanted, note)

    async def remove(self, name: str, note: Note | None = None) -> None:
        """End the hub ``name`` and all that it has. It stays among those that leave: what somebody was still writing
        goes at the next start, or before another hub gets the name.

        Raises ``HubError``: 400003 for one of the settings, 404000 for none that was added.
        """
        async with self._changing:
            await self._roster.remove(name, note)
            await self._hubs.close(name)
            await self._announce()
            await self._eraser.erase(name)
            await self._certificate.cover_all()

    async def _follow(self) -> None:
        """Open and close what another node has added and removed; that one erases what is left of it."""
        async with self._changing:
            wanted = {one.name: one for one in self._roster}
            for hub in self._hubs.all():
                if hub is not self._hubs.first and hub.name not in wanted:
                    await self._hubs.close(hub.name)
            await self._certificate.cover_all()
            for name, one in wanted.items():
                if self._hubs.get(name) is None:
                    await self._hubs.open(one)
            await self._announce()


class Eraser:
    """Removes what a hub has that is closed."""

    def __init__(self, engines: Engines, directory: DataDirectory) -> None:
        self._engines = engines
        self._directory = directory

    async def erase(self, name: str) -> None:
        """Remove rows, partitions and files of the hub ``name``; may be repeated. Raises ``HubError``, ``OSError``."""
        await self._engines.storage.forget_hub(name)
        await self._engines.forget_log(name)
        files = self._directory.hub_files(name)
        await asyncio.to_thread(_remove, files.telemetry_database, files.blobs)


async def finish_removals(roster: Roster, eraser: Eraser) -> None:
    """Remove what hubs have left that were being removed when an earlier run ended."""
    for name in sorted(roster.leaving):
        await eraser.erase(name)
        await roster.gone(name)


def _remove(database: Path, blobs: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        database.with_name(database.name + ending).unlink(missing_ok=True)
    if blobs.exists():
        shutil.rmtree(blobs)
