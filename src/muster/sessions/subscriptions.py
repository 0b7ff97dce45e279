"""What identities have subscribed to over MQTT: it lasts between connections, and when the hub is started again
(device.md 3.3).

Clients count on that: Node's and Python's, which connect with clean session 0, subscribe once in their life and never
again. Of a session that is live the filters are in memory, with the session; all others are in the store only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial

from muster.core.limits import MQTT_SUBSCRIPTIONS
from muster.identity.model import IdentityKey
from muster.sessions.contract import SubscriptionStore
from muster.sessions.table import Session


class Subscriptions:
    """The subscriptions of the identities of ``hub``. Only a session that is live may change its identity's."""

    def __init__(self, hub: str, store: SubscriptionStore) -> None:
        self._hub = hub
        self._store = store
        self._writes: dict[IdentityKey, asyncio.Future[None]] = {}
        """What is not on disk yet; it may be of a session that has ended meanwhile."""

    async def resume(self, session: Session, *, clean: bool) -> bool:
        """Whether subscriptions of an earlier connection go on in ``session``, which has just begun.

        With ``clean`` they are forgotten instead, and those to come end with the session. What is answered is durable.
        Raises ``HubError`` 500001.
        """
        earlier = self._writes.get(session.key)
        if earlier is not None:
            await asyncio.wait([earlier])
        filters = await self._store.get(self._hub, session.key)
        if session.ended:
            return False
        session.lasting = not clean
        if clean and filters:
            filters = {}
            await asyncio.shield(self._write(session, filters))
        session.filters = filters
        return bool(filters)

    def subscribe(self, session: Session, granted: Mapping[str, int]) -> asyncio.Future[None] | None:
        """Add filters with their QoS to ``session.filters``, as far as there is room.

        The future, which raises ``HubError`` 500001, is done when that is durable; ``None`` when nothing has to be
        written, for a device subscribes to the same again and again.
        """
        filters = dict(session.filters)
        for name, qos in granted.items():
            if name in filters or len(filters) < MQTT_SUBSCRIPTIONS.open:
                filters[name] = qos
        return self._change(session, filters)

    def unsubscribe(self, session: Session, names: Iterable[str]) -> asyncio.Future[None] | None:
        """Take filters out of ``session.filters``. See ``subscribe``."""
        gone = set(names)
        return self._change(session, {name: qos for name, qos in session.filters.items() if name not in gone})

    async def settled(self, keys: Iterable[IdentityKey]) -> None:
        """Return when all that sessions of ``keys`` have changed so far is on disk, or has failed."""
        writes = [self._writes[key] for key in keys if key in self._writes]
        if writes:
            await asyncio.wait(writes)

    def _change(self, session: Session, filters: Mapping[str, int]) -> asyncio.Future[None] | None:
        if session.ended or filters == session.filters:
            return None
        session.filters = filters
        return self._write(session, filters) if session.lasting else None

    def _write(self, session: Session, filters: Mapping[str, int]) -> asyncio.Future[None]:
        key = session.key
        write = self._store.put(self._hub, key, session.generation_id, filters)
        self._writes[key] = write
        write.add_done_callback(partial(self._written, key))
        return write

    def _written(self, key: IdentityKey, write: asyncio.Future[None]) -> None:
        if self._writes.get(key) is write:
            del self._writes[key]
        if not write.cancelled():
            write.exception()  # who waited for it may be gone
