"""What a hub has of the other nodes of its deployment, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.bus import NodeBus
from muster.core.errors import UNAVAILABLE
from muster.identity.model import IdentityKey
from muster.messages.methods import Methods
from muster.messages.methods_elsewhere import MethodsElsewhere
from muster.messages.telemetry import Telemetry
from muster.sessions.claims import Claims
from muster.sessions.contract import SessionDirectory
from muster.sessions.desired import DesiredElsewhere
from muster.sessions.lease import Lease
from muster.sessions.subscriptions import Subscriptions
from muster.sessions.table import SessionTable
from muster.twins.contract import TwinStore
from muster.twins.service import Twins


class Several(NamedTuple):
    """What a node has of the others: the bus of each hub by its name, its own lease, and whose sessions are where."""

    bus_of: Callable[[str], NodeBus]
    lease: Lease
    directory: SessionDirectory

    def claims(self, hub: str, ambient: Ambient) -> Claims:
        """The claims of the sessions of ``hub``."""
        return Claims(hub, self.directory, self.lease, self.bus_of(hub), ambient)

    def desired(self, hub: str, table: SessionTable, store: TwinStore) -> DesiredElsewhere:
        """Who hears of desired properties, in place of ``table``, which has claims."""
        assert table.claims is not None, "the table is one of several"
        return DesiredElsewhere(hub, table, table.claims, store, self.bus_of(hub))

    def connect(self, hub: str, table: SessionTable, methods: Methods) -> None:
        """Methods of devices on other nodes are called there; sessions end when this node loses its lease."""
        assert table.claims is not None, "the table is one of several"
        MethodsElsewhere(methods, table, self.bus_of(hub), table.claims.find)
        self.lease.when_lost(lambda: table.end_present(UNAVAILABLE))


def drain(claims: Claims, telemetry: Telemetry, subscriptions: Subscriptions, twins: Twins) -> None:
    """An older session has left nothing undone when a newer one on another node begins."""

    async def stored(_: Sequence[IdentityKey]) -> None:
        await telemetry.settled()

    claims.drains += [stored, subscriptions.settled, twins.settled]
