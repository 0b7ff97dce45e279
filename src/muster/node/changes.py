"""What of a hub's settings is changed while it runs, and kept: it counts before what the next starts say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from muster.core.audit import Note
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.settings_store import HubSettingsStore
from muster.core.throttles import Tier
from muster.node.parts import Parts
from muster.node.settings import Settings

_SETTING = "changes"
CHANGEABLE = frozenset({"retention_seconds", "command_ttl_seconds", "command_deliveries", "tier", "units"})
"""Fields of ``node.settings.Settings``."""


async def with_changes(settings: Settings, kept: HubSettingsStore) -> Settings:
    """``settings`` with what was changed in an earlier run. Raises ``HubError`` 500001."""
    return replace(settings, **_read(await kept.get_setting(_SETTING)))


class HubChanges:
    """Changes an open hub. ``settings`` are those in force."""

    def __init__(self, settings: Settings, kept: HubSettingsStore, parts: Parts) -> None:
        self.settings = settings
        self._kept = kept
        self._parts = parts
        self._changing = asyncio.Lock()
        kept.follow(_SETTING, self._reload)

    async def make(self, wanted: Mapping[str, Any], note: Note | None = None) -> None:
        """Change what ``wanted`` has, some of ``CHANGEABLE``: it counts, and is on disk, when this returns,
        on record as ``note`` says.

        Raises ``HubError``: 400004 for more units of the free tier than its one, 500001.
        """
        async with self._changing:
            members = dict(wanted)
            if members.get("tier") is Tier.F1:
                members.setdefault("units", 1)
            made = replace(self.settings, **members)
            if made.tier is Tier.F1 and made.units > 1:
                raise HubError(ARGUMENT_INVALID, "sku.capacity must be 1, the free tier F1 has a single unit.")
            earlier = _read(await self._kept.get_setting(_SETTING))
            record = None
            if note is not None:
                record = note({name: getattr(self.settings, name) for name in members}, members)
            await self._kept.put_settings({_SETTING: json.dumps({**earlier, **members}).encode()}, record)
            self.settings = made
            self._apply(made)

    async def _reload(self) -> None:
        """Another node has changed something; nothing is ever put back to what the start said."""
        async with self._changing:
            self.settings = await with_changes(self.settings, self._kept)
            self._apply(self.settings)

    def _apply(self, made: Settings) -> None:
        parts = self._parts
        parts.telemetry.retain(made.retention_seconds)
        parts.messaging.commands.rule(made.command_ttl_seconds, made.command_deliveries)
        if made.plan is not None:
            parts.meters.replan(made.plan)


def _read(text: bytes | None) -> dict[str, Any]:
    members: dict[str, Any] = json.loads(text or b"{}")
    return {**members, "tier": Tier(members["tier"])} if "tier" in members else members
