"""What a hub keeps about itself: the contract of its store of settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from muster.core.audit import Draft

Reload = Callable[[], Awaitable[None]]
"""Takes what is kept now in place of what is remembered. Raises ``HubError`` when the store fails, and is called
again."""


class SettingsRows(Protocol):
    """A few named values: keys of policies, the id scope, the CA and the like.

    Promises: what ``put_settings`` has written is durable when it returns, all of it or none. Does not promise to
    be fast, to know what a value means, or to keep older values.
    """

    async def get_setting(self, name: str) -> bytes | None:
        """The value of ``name``, ``None`` when it was never written."""
        ...

    async def put_settings(self, values: Mapping[str, bytes], draft: Draft | None = None) -> None:
        """Write ``values`` over what was there; other names stay as they are. ``draft`` is put on record with them."""
        ...


class HubSettingsStore(SettingsRows, Protocol):
    """The values, and word of their changes. Whoever remembers what a value says follows its name, right after it has
    read it for the first time."""

    def follow(self, name: str, reload: Reload) -> Callable[[], None]:
        """From now on ``reload`` is awaited when another node has put ``name``, or may have; the answer ends that.

        It never is after a ``put_settings`` through this object, nor where one process has the store for itself.
        """
        ...

    def announce(self, name: str) -> None:
        """What this deployment keeps elsewhere under ``name``, which is no setting, was changed: others' ``reload``."""
        ...


class SettingsOf:
    """The settings of one of several hubs that share a store: a ``HubSettingsStore`` whose names begin with ``hub``."""

    def __init__(self, store: HubSettingsStore, hub: str) -> None:
        self._store = store
        self._prefix = f"{hub}/"
        self._followed: list[Callable[[], None]] = []

    async def get_setting(self, name: str) -> bytes | None:
        """See ``HubSettingsStore``."""
        return await self._store.get_setting(self._prefix + name)

    async def put_settings(self, values: Mapping[str, bytes], draft: Draft | None = None) -> None:
        """See ``HubSettingsStore``."""
        await self._store.put_settings({self._prefix + name: value for name, value in values.items()}, draft)

    def follow(self, name: str, reload: Reload) -> Callable[[], None]:
        """See ``HubSettingsStore``."""
        leave = self._store.follow(self._prefix + name, reload)
        self._followed.append(leave)
        return leave

    def announce(self, name: str) -> None:
        """See ``HubSettingsStore``."""
        self._store.announce(self._prefix + name)

    def leave(self) -> None:
        """The hub closes: follow nothing any more."""
        while self._followed:
            self._followed.pop()()
