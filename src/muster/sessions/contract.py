"""What sessions ask of a store: the MQTT subscriptions that outlive a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from muster.identity.model import IdentityKey


class SubscriptionStore(Protocol):
    """Keeps the topic filters of identities with their QoS, by hub.

    Promises: what ``put`` has done is durable when its future is done, and calls take effect in their order. Deleting
    an identity, or the device of a module, deletes its filters in the same transaction. Does not promise that ``get``
    sees a ``put`` that is not done yet, nor bounds how many filters there are.
    """

    async def get(self, hub: str, key: IdentityKey) -> Mapping[str, int]:
        """The filters of an identity, empty without any. Raises ``HubError`` 500001."""
        ...

    def put(self, hub: str, key: IdentityKey, generation_id: str, filters: Mapping[str, int]) -> asyncio.Future[None]:
        """Keep ``filters`` in the place of those that were; none at all deletes.

        Nothing is kept for an identity that is gone or has another ``generation_id``: it is no error.
        The future raises ``HubError`` 500001.
        """
        ...
