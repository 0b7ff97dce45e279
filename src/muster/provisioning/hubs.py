"""The hubs that are linked to a provisioning service at this moment, and how devices are spread over them: both change
while it runs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from muster.core.audit import Draft, Note
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.settings_store import HubSettingsStore
from muster.identity.mistakes import shown
from muster.provisioning.contract import LinkedHub
from muster.provisioning.model import AllocationKind

log = logging.getLogger("muster.provisioning")

MOST_WEIGHT = 1000
_SETTING = "provisioning-allocation"


class LinkedHubs(Mapping[str, LinkedHub]):
    """By host name, in the order in which they were linked.

    ``default`` is the allocation policy of enrollments that name none.
    """

    def __init__(self, hubs: Iterable[LinkedHub] = ()) -> None:
        self._hubs = {hub.host: hub for hub in hubs}
        self._weights: dict[str, int] = {}
        self.default = AllocationKind.HASHED
        self._changing = asyncio.Lock()

    def link(self, hub: LinkedHub) -> None:
        """From now on devices may be assigned to ``hub``, in the place of one of the same host name."""
        self._hubs[hub.host] = hub

    async def unlink(self, host: str, store: HubSettingsStore) -> None:
        """No more devices are assigned to this hub; those that it has stay there, and get another hub when they
        register again. Its weight goes too: a later hub of this host name begins with 1.

        A hub that is only left out at a start is not unlinked and finds its weight again.
        """
        self._hubs.pop(host, None)
        async with self._changing:
            if self._weights.pop(host, None) is None:
                return
            try:
                await self._keep(store, self.default, self._weights)
            except HubError as error:  # the hub is gone all the same
                log.warning("the weight of %s, which is linked no more, was not forgotten: %s", host, error)

    def weight(self, host: str) -> int:
        """The share of a hub under hashed allocation, against the others' weights; 0 for one that only devices get
        whose enrollment names it."""
        return self._weights.get(host, 1)

    async def load(self, store: HubSettingsStore) -> None:
        """Take the allocation that was kept, and from now on what other nodes keep. Raises ``HubError`` 500001."""
        await self._load(store)
        store.follow(_SETTING, partial(self._reload, store))

    async def _reload(self, store: HubSettingsStore) -> None:
        async with self._changing:
            await self._load(store)

    async def _load(self, store: HubSettingsStore) -> None:
        text = await store.get_setting(_SETTING)
        if text is not None:
            kept = json.loads(text)
            self.default, self._weights = AllocationKind(kept["policy"]), kept["weights"]

    async def allocate(
        self,
        policy: AllocationKind | None,
        weights: Mapping[str, int],
        store: HubSettingsStore,
        note: Note | None = None,
    ) -> None:
        """Change the default policy (``None``: as it is) and the weights of the hubs named, and keep it in ``store``.

        Devices that are assigned already move when they register again. Raises ``HubError`` 400004 for a hub that is
        not linked, a weight that is not 0 to 1,000, or the policy ``custom``, which an enrollment has with its webhook.
        """
        if policy is AllocationKind.CUSTOM:
            raise HubError(ARGUMENT_INVALID, "allocationPolicy custom is no default, an enrollment has it.")
        for host, weight in weights.items():
            if host not in self:
                raise HubError(ARGUMENT_INVALID, f"{shown(host)} is not linked, linked are: {', '.join(self)}.")
            if not 0 <= weight <= MOST_WEIGHT:
                raise HubError(ARGUMENT_INVALID, f"The weight of {host} is not 0 to {MOST_WEIGHT}.")
        async with self._changing:
            wanted, merged = policy or self.default, {**self._weights, **weights}
            record = None
            if note is not None:
                record = note(_told(self.default, self._weights), _told(wanted, merged))
            await self._keep(store, wanted, merged, record)
            self.default, self._weights = wanted, merged

    @staticmethod
    async def _keep(
        store: HubSettingsStore, policy: AllocationKind, weights: Mapping[str, int], record: Draft | None = None
    ) -> None:
        await store.put_settings({_SETTING: json.dumps(_told(policy, weights)).encode()}, record)

    def __getitem__(self, host: str) -> LinkedHub:
        return self._hubs[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hubs)

    def __len__(self) -> int:
        return len(self._hubs)


def _told(policy: AllocationKind, weights: Mapping[str, int]) -> dict[str, Any]:
    return {"policy": policy.value, "weights": dict(weights)}
