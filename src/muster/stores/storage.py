"""What a node keeps, whatever keeps it: the contract between the composition root and a folder of stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from muster.access.grants import GrantStore
from muster.audit.contract import AuditLog
from muster.core.limits import Profile
from muster.core.outbox import Outbox
from muster.core.settings_store import HubSettingsStore
from muster.identity.authority_contract import AuthorityStore
from muster.identity.contract import IdentityStore, Presence
from muster.identity.refusals import RefusalStore
from muster.jobs.contract import LoadStore
from muster.messages.blob_contract import BlobIndex
from muster.messages.queue_contract import QueueStore
from muster.messages.upload_contract import UploadStore
from muster.provisioning.contract import ProvisioningStore, TimelineStore
from muster.sessions.contract import SubscriptionStore
from muster.twins.contract import LifecycleRecorder, TwinStore
from muster.twins.query.contract import QueryStore


class QueryEngine(QueryStore, Protocol):
    """A ``QueryStore`` that has something to begin and to end."""

    async def prepare(self) -> None:
        """Make what queries need; may take long the first time. Raises ``HubError``."""
        ...

    async def close(self) -> None:
        """End the queries that run."""
        ...


class HubStores(NamedTuple):
    """Of one hub. Changes of ``identities``, ``twins`` and ``loads`` leave what they record in ``outbox``."""

    outbox: Outbox
    identities: IdentityStore
    twins: TwinStore
    loads: LoadStore
    queues: QueueStore
    subscriptions: SubscriptionStore
    authorities: AuthorityStore
    refusals: RefusalStore
    uploads: UploadStore
    blobs: BlobIndex


class Storage(Protocol):
    """All that the hubs of a node keep. Everything raises ``HubError``: 500001 when a store fails, 503001 when it
    cannot be reached. To be closed after all that was made of it."""

    @property
    def settings(self) -> HubSettingsStore:
        """Of the deployment, and of its first hub."""
        ...

    @property
    def audit(self) -> AuditLog:
        """The audit log of all hubs."""
        ...

    @property
    def grants(self) -> GrantStore:
        """Roles and grants of the operator."""
        ...

    @property
    def provisioning(self) -> ProvisioningStore:
        """Enrollments and registrations."""
        ...

    def of(self, hub: str, recorder: LifecycleRecorder | None) -> HubStores:
        """The stores of ``hub``; what ``recorder`` makes of identities that come and go is put into its outbox."""
        ...

    def timeline(self, scope: str, profile: Profile) -> TimelineStore:
        """The timeline of the provisioning service ``scope``."""
        ...

    def queries(self, presence: Presence, indexes: Sequence[str]) -> QueryEngine:
        """What answers queries; properties of ``indexes`` are found fast."""
        ...

    async def forget_hub(self, hub: str) -> None:
        """Delete all that ``hub`` has but its telemetry and its files' bytes; may be repeated."""
        ...

    async def close(self) -> None:
        """End after what was handed in so far. Harmless when repeated."""
        ...
