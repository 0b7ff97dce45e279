"""What a hub keeps about itself: the contract of its store of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from muster.core.audit import Draft


class HubSettingsStore(Protocol):
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


class SettingsOf:
    """The settings of one of several hubs that share a store: a ``HubSettingsStore`` whose names begin with ``hub``."""

    def __init__(self, store: HubSettingsStore, hub: str) -> None:
        self._store = store
        self._prefix = f"{hub}/"

    async def get_setting(self, name: str) -> bytes | None:
        """See ``HubSettingsStore``."""
        return await self._store.get_setting(self._prefix + name)

    async def put_settings(self, values: Mapping[str, bytes], draft: Draft | None = None) -> None:
        """See ``HubSettingsStore``."""
        await self._store.put_settings({self._prefix + name: value for name, value in values.items()}, draft)
