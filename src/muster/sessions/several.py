"""What a hub has of the other nodes of its deployment, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from muster.core.ambient import Ambient
from muster.core.bus import NodeBus
from muster.core.errors import UNAVAILABLE
from muster.identity.model import IdentityKey
from muster.messages.methods import Methods
from muster.messages.methods_elsewhere import MethodsElsewhere
from muster.messages.telemetry import Telemetry
from muster.sessions.claims import Claims
from muster.sessions.contract import SeatStore, SessionDirectory
from muster.sessions.desired import DesiredElsewhere
from muster.sessions.lease import Lease
from muster.sessions.shared_readers import SharedReaders
from muster.sessions.subscriptions import Subscriptions
from muster.sessions.table import SessionTable
from muster.twins.contract import TwinStore
from muster.twins.service import Twins


class Buses(Protocol):
    """Gives the bus of each hub; see ``stores.nats.bus.NatsNode``."""

    def bus(self, hub: str = "") -> NodeBus:
        """That of ``hub``, or that of the deployment."""
        ...

    def forget(self, hub: str) -> None:
        """The hub has closed on this node."""
        ...


class Several(NamedTuple):
    """What a node has of the others: the buses, its own lease, whose sessions are where, and who reads partitions."""

    buses: Buses
    lease: Lease
    directory: SessionDirectory
    seats: SeatStore

    def claims(self, hub: str, ambient: Ambient) -> Claims:
        """The claims of the sessions of ``hub``."""
        return Claims(hub, self.directory, self.lease, self.buses.bus(hub), ambient)

    def readers(self, hub: str) -> SharedReaders:
        """Who reads the partitions of ``hub``."""
        return SharedReaders(hub, self.seats, self.lease, self.buses.bus(hub))

    def desired(self, hub: str, table: SessionTable, store: TwinStore) -> DesiredElsewhere:
        """Who hears of desired properties, in place of ``table``, which has claims."""
        assert table.claims is not None, "the table is one of several"
        return DesiredElsewhere(hub, table, table.claims, store, self.buses.bus(hub))

    def connect(self, hub: str, table: SessionTable, methods: Methods) -> Callable[[], Awaitable[None]]:
        """Methods of devices on other nodes are called there; sessions end when this node loses its lease. What this
        returns ends it all, when the hub closes and its sessions have ended."""
        claims = table.claims
        assert claims is not None, "the table is one of several"
        MethodsElsewhere(methods, table, self.buses.bus(hub), claims.find)
        self.lease.counts[hub] = table.connected_count
        leave = self.lease.when_lost(lambda: table.end_present(UNAVAILABLE))

        async def close() -> None:
            leave()
            await claims.close()
            self.lease.counts.pop(hub, None)
            self.buses.forget(hub)

        return close


def drain(table: SessionTable, telemetry: Telemetry, subscriptions: Subscriptions, twins: Twins) -> None:
    """An older session has left nothing undone when a newer one on another node begins."""
    assert table.claims is not None, "the table is one of several"

    async def stored(_: Sequence[IdentityKey]) -> None:
        await telemetry.settled()

    table.claims.drains += [stored, subscriptions.settled, twins.settled]
