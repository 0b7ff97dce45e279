"""The stores of a PostgreSQL put together."""

from __future__ import annotations

from collections.abc import Sequence

from muster.access.grants import GrantStore
from muster.core.limits import Profile
from muster.core.settings_store import HubSettingsStore
from muster.identity.contract import Presence
from muster.stores.postgres.audit import PostgresAuditLog
from muster.stores.postgres.authorities import PostgresAuthorityStore
from muster.stores.postgres.blobs import PostgresBlobIndex
from muster.stores.postgres.database import Database
from muster.stores.postgres.grants import PostgresGrantStore
from muster.stores.postgres.hub_removal import forget_hub
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.loads import PostgresLoadStore
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.provisioning import PostgresProvisioningStore
from muster.stores.postgres.queries import PostgresQueryStore
from muster.stores.postgres.queues import PostgresQueueStore
from muster.stores.postgres.refusals import PostgresRefusalStore
from muster.stores.postgres.settings import PostgresHubSettingsStore
from muster.stores.postgres.subscriptions import PostgresSubscriptionStore
from muster.stores.postgres.timeline import PostgresTimelineStore
from muster.stores.postgres.twins import PostgresTwinStore
from muster.stores.postgres.uploads import PostgresUploadStore
from muster.stores.storage import HubStores
from muster.twins.contract import LifecycleRecorder


class PostgresStorage:
    """``stores.storage.Storage`` on a ``database`` that is open and up to date (``schema.migrate``)."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.rows = PostgresHubSettingsStore(database)
        self.settings: HubSettingsStore
        """Of ``rows``; set by who knows the other nodes."""
        self.audit = PostgresAuditLog(database)
        self.grants: GrantStore = PostgresGrantStore(database)
        self.provisioning = PostgresProvisioningStore(database)

    def of(self, hub: str, recorder: LifecycleRecorder | None = None) -> HubStores:
        """See ``Storage``."""
        database = self._database
        outbox = PostgresOutbox(database, hub)
        identities = PostgresIdentityStore(database, outbox, recorder)
        return HubStores(
            outbox=outbox,
            identities=identities,
            loads=PostgresLoadStore(database, identities, outbox, recorder),
            twins=PostgresTwinStore(database, outbox),
            queues=PostgresQueueStore(database),
            subscriptions=PostgresSubscriptionStore(database),
            authorities=PostgresAuthorityStore(database),
            refusals=PostgresRefusalStore(database, hub),
            uploads=PostgresUploadStore(database),
            blobs=PostgresBlobIndex(database, hub),
        )

    def timeline(self, scope: str, profile: Profile) -> PostgresTimelineStore:
        """See ``Storage``."""
        return PostgresTimelineStore(scope, self._database, profile)

    def queries(self, presence: Presence, indexes: Sequence[str]) -> PostgresQueryStore:
        """See ``Storage``."""
        return PostgresQueryStore(self._database, presence, indexes)

    async def forget_hub(self, hub: str) -> None:
        """See ``Storage``."""
        await forget_hub(self._database, hub)

    async def close(self) -> None:
        """See ``Storage``."""
        await self._database.close()
