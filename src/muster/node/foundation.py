"""What the parts of a hub stand on: its directory, its database, its names and keys, and the list of what to undo."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import apsw

from muster.access.decision import Decide
from muster.access.issuers import Issuers
from muster.core.ambient import Ambient
from muster.core.settings_store import HubSettingsStore
from muster.identity.hub import Hub
from muster.node.directory import HubFiles
from muster.node.settings import Settings
from muster.stores.sqlite.database import Writer

Undo = list[Callable[[], Awaitable[None] | None]]
"""What ends what was begun, to be called from the last to the first."""


@dataclass(frozen=True, slots=True)
class Foundation:
    """Under one hub. Whoever begins something puts what ends it into ``undo``. ``writer`` and ``reader`` are those of
    all hubs, as are ``issuers``, whose bearer tokens count, and ``decide``, which says for what. ``settings``,
    ``files`` and ``kept`` are the hub's own."""

    settings: Settings
    files: HubFiles
    hub: Hub
    writer: Writer
    reader: apsw.Connection
    kept: HubSettingsStore
    ambient: Ambient
    undo: Undo
    issuers: Issuers
    decide: Decide

    @property
    def durable(self) -> bool:
        """Whether what is committed survives a power cut."""
        return self.settings.durable
