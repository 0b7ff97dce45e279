"""The stores of a ``hub.db`` put together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from os import PathLike

from muster.access.grants import GrantStore
from muster.core.limits import Profile
from muster.core.settings_store import HubSettingsStore
from muster.identity.contract import Presence
from muster.stores.sqlite.audit import SqliteAuditLog
from muster.stores.sqlite.authorities import SqliteAuthorityStore
from muster.stores.sqlite.blobs import SqliteBlobIndex
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.grants import SqliteGrantStore
from muster.stores.sqlite.hub_removal import forget_hub
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.loads import SqliteLoadStore
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.stores.sqlite.provisioning import SqliteProvisioningStore
from muster.stores.sqlite.queries import SqliteQueryStore
from muster.stores.sqlite.queues import SqliteQueueStore
from muster.stores.sqlite.refusals import SqliteRefusalStore
from muster.stores.sqlite.settings import SqliteHubSettingsStore
from muster.stores.sqlite.subscriptions import SqliteSubscriptionStore
from muster.stores.sqlite.timeline import SqliteTimelineStore
from muster.stores.sqlite.turns import Turns
from muster.stores.sqlite.twins import HasSessions, SqliteTwinStore
from muster.stores.sqlite.uploads import SqliteUploadStore
from muster.stores.storage import HubStores
from muster.twins.contract import LifecycleRecorder


class SqliteStorage:
    """``stores.storage.Storage`` on the ``hub.db`` at ``path``, made when missing; on a running loop.

    ``shared``: other processes of this machine have it open too, each as shared. Raises ``HubError`` as ``Writer`` and
    ``Turns`` do.
    """

    def __init__(self, path: str | PathLike[str], *, durable: bool = True, shared: bool = False) -> None:
        self.turns = Turns(path) if shared else None
        """Those of the processes that share."""
        self._writer = Writer(path, MIGRATIONS, asyncio.get_running_loop(), durable=durable, turns=self.turns)
        self._reader = open_connection(path, readonly=True)
        on = self._writer, self._reader
        self.rows = SqliteHubSettingsStore(*on)
        self.settings: HubSettingsStore = self.rows
        """Of ``rows``; set by who knows other processes that share."""
        self.has_sessions: HasSessions | None = None
        """Set by who knows other processes that share, before ``of`` is called."""
        self.audit = SqliteAuditLog(*on)
        self.grants: GrantStore = SqliteGrantStore(*on)
        self.provisioning = SqliteProvisioningStore(*on)

    def of(self, hub: str, recorder: LifecycleRecorder | None = None) -> HubStores:
        """See ``Storage``."""
        on = self._writer, self._reader
        outbox = SqliteOutbox(self._writer, hub)
        identities = SqliteIdentityStore(*on, outbox, recorder)
        return HubStores(
            outbox=outbox,
            identities=identities,
            twins=SqliteTwinStore(*on, outbox, self.has_sessions),
            loads=SqliteLoadStore(*on, identities, outbox, recorder),
            queues=SqliteQueueStore(*on),
            subscriptions=SqliteSubscriptionStore(*on),
            authorities=SqliteAuthorityStore(*on),
            refusals=SqliteRefusalStore(*on, hub),
            uploads=SqliteUploadStore(*on),
            blobs=SqliteBlobIndex(*on, hub),
        )

    def timeline(self, scope: str, profile: Profile) -> SqliteTimelineStore:
        """See ``Storage``."""
        return SqliteTimelineStore(scope, self._writer, self._reader, profile)

    def queries(self, presence: Presence, indexes: Sequence[str]) -> SqliteQueryStore:
        """See ``Storage``."""
        return SqliteQueryStore(self._writer, presence, indexes)

    async def forget_hub(self, hub: str) -> None:
        """See ``Storage``."""
        await forget_hub(self._writer, hub)

    async def close(self) -> None:
        """See ``Storage``."""
        self._reader.close()  # first: the last one to close tidies the write-ahead log up, if it may write
        await self._writer.close()
