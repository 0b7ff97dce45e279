"""Settings that several nodes have in common: what one puts, the others take, within a moment of the bus."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from muster.core.audit import Draft
from muster.core.bus import MISSED, Bus
from muster.core.errors import PRECONDITION_FAILED, UNAVAILABLE, HubError
from muster.core.settings_store import Reload, SettingsRows

SETTINGS_CHANGED = "settings.changed"
"""Payload: the name of a setting. Another node has put it."""

RETRY_SECONDS = 1.0
"""After a value could not be loaded anew."""

log = logging.getLogger("muster.settings")


class SharedRows(SettingsRows, Protocol):
    """Settings that others put too."""

    async def put_settings(
        self,
        values: Mapping[str, bytes],
        draft: Draft | None = None,
        *,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        """See ``SettingsRows``. ``expected`` are values that must be there now (``None``: none), under other names or
        the same.

        Raises ``HubError`` 412001 when others are; then nothing is written.
        """
        ...


class SharedSettings:
    """A ``HubSettingsStore`` on rows that other nodes put too.

    Who remembers a value writes what he has made of it over it, and would undo what another node has made meanwhile.
    So a followed name is only put over what this node has read or put last: else the call is refused, and the value
    taken.
    """

    def __init__(self, rows: SharedRows, bus: Bus) -> None:
        """``bus`` is the deployment's own."""
        self._rows = rows
        self._bus = bus
        self._reloads: dict[str, list[Reload]] = {}
        self._read: dict[str, bytes | None] = {}
        self._due: dict[str, None] = {}
        self._reloading: asyncio.Task[None] | None = None
        self._own = False
        bus.subscribe(SETTINGS_CHANGED, self._heard)
        bus.subscribe(MISSED, lambda _: self._reload_soon(self._reloads))

    async def get_setting(self, name: str) -> bytes | None:
        """See ``HubSettingsStore``."""
        value = self._read[name] = await self._rows.get_setting(name)
        return value

    async def put_settings(self, values: Mapping[str, bytes], draft: Draft | None = None) -> None:
        """See ``HubSettingsStore``. Raises ``HubError`` 412001 when another node was first."""
        expected = {name: self._read[name] for name in values if name in self._reloads and name in self._read}
        try:
            await self._rows.put_settings(values, draft, expected=expected)
        except HubError as error:
            if error.row is PRECONDITION_FAILED:
                self._reload_soon(expected)
                message = "This was changed through another node at the same time, look at it and try again."
                raise HubError(PRECONDITION_FAILED, message) from None
            if error.row is UNAVAILABLE:  # it may have been written: everybody looks
                self._tell(values)
                self._reload_soon(values)
            raise
        self._read.update(values)
        self._tell(values)

    def follow(self, name: str, reload: Reload) -> Callable[[], None]:
        """See ``HubSettingsStore``."""
        present = self._reloads.setdefault(name, [])
        present.append(reload)

        def leave() -> None:
            if reload in present:
                present.remove(reload)
            if not present and self._reloads.get(name) is present:
                del self._reloads[name]
                self._read.pop(name, None)

        return leave

    def announce(self, name: str) -> None:
        """See ``HubSettingsStore``."""
        self._tell((name,))

    async def settled(self) -> None:
        """Wait until what was told of so far is in force on this node."""
        while self._reloading is not None:
            await asyncio.shield(self._reloading)

    def close(self) -> None:
        """Take nothing anew any more."""
        self._reloads.clear()
        if self._reloading is not None:
            self._reloading.cancel()

    # --- within

    def _tell(self, names: Mapping[str, object] | tuple[str, ...]) -> None:
        self._own = True  # the own listeners hear at once
        try:
            for name in names:
                self._bus.publish(SETTINGS_CHANGED, name)
        finally:
            self._own = False

    def _heard(self, name: str) -> None:
        if not self._own:
            self._reload_soon((name,))

    def _reload_soon(self, names: Mapping[str, object] | tuple[str, ...]) -> None:
        self._due.update((name, None) for name in names if name in self._reloads)
        if self._due and self._reloading is None:
            self._reloading = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        try:
            while self._due:
                name = next(iter(self._due))
                del self._due[name]
                for reload in tuple(self._reloads.get(name, ())):
                    await self._once(name, reload)
        finally:
            self._reloading = None

    async def _once(self, name: str, reload: Reload) -> None:
        try:
            await reload()
        except HubError as error:
            log.error("the setting %s was changed by another node and cannot be taken yet: %s", name, error)
            self._due[name] = None
            await asyncio.sleep(RETRY_SECONDS)
        except Exception:
            log.exception("the setting %s was changed by another node and cannot be taken", name)
