"""Which kinds of SAS token a hub takes no more, changed while it runs and kept in its settings (service.md 6.6)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from muster.core.audit import Note
from muster.core.errors import INVALID_OPERATION, HubError
from muster.core.listeners import Listener, Listeners
from muster.core.settings_store import HubSettingsStore
from muster.identity.hub import TAKES_ALL, Switches

_SETTING = "switches"


class KeptSwitches:
    """The switches in force: those that the hub's settings ``declared``, and those that were set since."""

    def __init__(self, declared: Switches, kept: Switches, store: HubSettingsStore) -> None:
        self._declared = declared
        self._store = store
        self._changing = asyncio.Lock()
        self._listeners = Listeners()
        self._take(kept)

    def now(self) -> Switches:
        """Those in force."""
        return self._now

    def when_changed(self, listener: Listener) -> None:
        """From now on call ``listener`` after each change, so that nothing counts by what was taken before."""
        self._listeners.add(listener)

    async def set(self, wanted: Mapping[str, bool], note: Note | None = None) -> None:
        """Switch those of the names in ``wanted``; it counts, and is on disk, when this returns.

        Raises ``HubError``: 400003 for one that the settings keep off, 500001 when it cannot be kept.
        """
        for name, off in wanted.items():
            if not off and getattr(self._declared, name):
                flag = name.replace("_", "-")
                raise HubError(INVALID_OPERATION, f"The settings of muster serve say {flag}, take it out there.")
        async with self._changing:
            kept = self._kept._replace(**wanted)
            record = None if note is None else note(self._kept._asdict(), kept._asdict())
            await self._store.put_settings({_SETTING: json.dumps(kept._asdict()).encode()}, record)
            self._take(kept)
            await self._listeners.tell()

    async def reload(self) -> None:
        """Take those that are kept now: another node has set them. Raises ``HubError`` 500001."""
        async with self._changing:
            self._take(await _load(self._store))
            await self._listeners.tell()

    def _take(self, kept: Switches) -> None:
        self._kept = kept
        self._now = Switches(*(any(pair) for pair in zip(self._declared, kept, strict=True)))


async def open_switches(declared: Switches, store: HubSettingsStore) -> KeptSwitches:
    """The switches of a hub whose settings are ``declared``. Raises ``HubError`` 500001."""
    switches = KeptSwitches(declared, await _load(store), store)
    store.follow(_SETTING, switches.reload)
    return switches


async def _load(store: HubSettingsStore) -> Switches:
    return TAKES_ALL._replace(**json.loads(await store.get_setting(_SETTING) or b"{}"))
