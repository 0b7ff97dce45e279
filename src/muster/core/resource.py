"""What the management API keeps of a resource, a hub or the provisioning service, that nothing else needs to know."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from muster.core.audit import Note
from muster.core.settings_store import HubSettingsStore

DEFAULT_GROUP, DEFAULT_LOCATION = "muster", "local"
"""Resource group and location of what was not made through the management API."""


@dataclass(frozen=True, slots=True)
class Resource:
    """``version`` counts its changes."""

    group: str = DEFAULT_GROUP
    location: str = DEFAULT_LOCATION
    tags: Mapping[str, str] = field(default_factory=dict)
    version: int = 1


class ResourceRecord:
    """The record of one resource."""

    def __init__(self, resource: Resource, store: HubSettingsStore, name: str) -> None:
        self.resource = resource
        self._store, self._name = store, name
        self._changing = asyncio.Lock()

    async def change(self, note: Note | None = None, **members: Any) -> Resource:
        """Set ``members`` of the resource; on disk when this returns, on record as ``note`` says. Raises ``HubError``
        500001."""
        async with self._changing:
            made = replace(self.resource, **members, version=self.resource.version + 1)
            record = None if note is None else note(asdict(self.resource), asdict(made))
            await self._store.put_settings({self._name: json.dumps(asdict(made)).encode()}, record)
            self.resource = made
            return made

    async def reload(self) -> None:
        """Take what is kept now: another node has changed it. Raises ``HubError`` 500001."""
        async with self._changing:
            self.resource = await _load(self._store, self._name)


async def load_record(store: HubSettingsStore, name: str = "resource") -> ResourceRecord:
    """The record that ``store`` has under ``name``. Raises ``HubError`` 500001."""
    record = ResourceRecord(await _load(store, name), store, name)
    store.follow(name, record.reload)
    return record


async def _load(store: HubSettingsStore, name: str) -> Resource:
    text = await store.get_setting(name)
    return Resource() if text is None else Resource(**json.loads(text))
