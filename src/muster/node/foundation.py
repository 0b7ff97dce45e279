"""What the parts of a hub stand on: its directory, its database, its names and keys, and the list of what to undo."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from muster.access.decision import Decide
from muster.access.issuers import Issuers
from muster.core.ambient import Ambient
from muster.core.bus import Bus
from muster.core.settings_store import HubSettingsStore
from muster.identity.contract import IdentityStore
from muster.identity.hub import Hub
from muster.messages.contract import TelemetryLog
from muster.node.directory import HubFiles
from muster.node.settings import Settings
from muster.sessions.several import Several
from muster.stores.storage import Storage

Undo = list[Callable[[], Awaitable[None] | None]]
"""What ends what was begun, to be called from the last to the first."""

OpenLog = Callable[[str, Path, int, float], Awaitable[TelemetryLog]]
"""Opens the partitions of a hub: its name, the file that they are in if it is a file, how many they are if they are
made now, and when that is, in seconds since 1970. Raises ``HubError``."""


@dataclass(frozen=True, slots=True)
class Foundation:
    """Under one hub. Whoever begins something puts what ends it into ``undo``. ``storage`` is that of all hubs, as are
    ``open_log``, ``several`` (the other nodes, where there may be any), ``watch``, ``issuers``, whose bearer tokens
    count, and ``decide``, which says for what. ``settings``, ``files``, ``bus`` and ``kept`` are the hub's own."""

    settings: Settings
    files: HubFiles
    hub: Hub
    storage: Storage
    open_log: OpenLog
    bus: Bus
    several: Several | None
    watch: Callable[[str, IdentityStore, Bus], None]
    kept: HubSettingsStore
    ambient: Ambient
    undo: Undo
    issuers: Issuers
    decide: Decide

    @property
    def durable(self) -> bool:
        """Whether what is committed survives a power cut."""
        return self.settings.durable
