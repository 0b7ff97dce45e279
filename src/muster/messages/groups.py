"""The consumer groups of a hub's built-in endpoint: ``$Default``, those of its settings, and those that were added."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.audit import Draft, Note
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.hub_limits import CONSUMER_GROUPS
from muster.core.management_errors import CONSUMER_GROUP_FIXED, RESOURCE_NOT_FOUND, TOO_MANY_GROUPS
from muster.core.settings_store import HubSettingsStore
from muster.identity.mistakes import shown

DEFAULT_GROUP = "$Default"
_SETTING = "consumer-groups"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,48}[A-Za-z0-9])?")


class ConsumerGroup(NamedTuple):
    """One group; ``created`` is in seconds since 1970, ``None`` for one that was always there."""

    name: str
    created: float | None = None


class ConsumerGroups:
    """By name, in any case. What is added or removed counts, and is on disk, when that returns, on record as its
    ``note`` says."""

    def __init__(self, declared: Iterable[str], store: HubSettingsStore, ambient: Ambient) -> None:
        """``declared`` are those of the settings."""
        self._fixed = {name.lower(): ConsumerGroup(name) for name in (DEFAULT_GROUP, *declared)}
        self._added: dict[str, ConsumerGroup] = {}
        self._store, self._ambient = store, ambient
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Take those that were kept, and from now on those that other nodes keep. Raises ``HubError`` 500001."""
        await self._load()
        self._store.follow(_SETTING, self._reload)

    async def _reload(self) -> None:
        async with self._changing:
            await self._load()

    async def _load(self) -> None:
        kept = [ConsumerGroup(*one) for one in json.loads(await self._store.get_setting(_SETTING) or b"[]")]
        self._added = {one.name.lower(): one for one in kept}

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name.lower() in self._fixed or name.lower() in self._added)

    def __iter__(self) -> Iterator[ConsumerGroup]:
        return iter({**self._added, **self._fixed}.values())

    def get(self, name: str) -> ConsumerGroup:
        """One. Raises ``HubError`` 404310."""
        found = self._fixed.get(name.lower()) or self._added.get(name.lower())
        if found is None:
            raise HubError(RESOURCE_NOT_FOUND, f"There is no consumer group {shown(name)}, list those that there are.")
        return found

    async def add(self, name: str, note: Note | None = None) -> ConsumerGroup:
        """Add a group, or find it. Raises ``HubError``: 400004 for a name that cannot be, 403311 for one too many."""
        async with self._changing:
            if name in self:
                return self.get(name)
            if not _NAME.fullmatch(name):
                raise HubError(
                    ARGUMENT_INVALID,
                    f"{shown(name)} cannot be a consumer group, use up to 50 letters, digits, '.', '_' and '-', "
                    "with a letter or digit at either end.",
                )
            if len(self._fixed) + len(self._added) >= CONSUMER_GROUPS.open:
                raise HubError(TOO_MANY_GROUPS)
            made = ConsumerGroup(name, self._ambient.now())
            record = None if note is None else note(None, made._asdict())
            await self._keep({**self._added, name.lower(): made}, record)
            return made

    async def remove(self, name: str, note: Note | None = None) -> None:
        """Remove a group that was added; who reads through it goes on until it comes again.

        Raises ``HubError``: 404310, 409310 for ``$Default`` and those of the settings.
        """
        async with self._changing:
            found = self.get(name)
            if name.lower() in self._fixed:
                where = "always there" if found.name == DEFAULT_GROUP else "in the settings of muster serve"
                raise HubError(CONSUMER_GROUP_FIXED, f"The consumer group {found.name} is {where}, it cannot go.")
            record = None if note is None else note(found._asdict(), None)
            await self._keep({key: one for key, one in self._added.items() if key != name.lower()}, record)

    async def _keep(self, added: dict[str, ConsumerGroup], record: Draft | None) -> None:
        await self._store.put_settings({_SETTING: json.dumps(list(added.values())).encode()}, record)
        self._added = added
