"""What sessions ask of a store: the MQTT subscriptions that outlive a connection; and where a deployment has several
nodes, which of them has whose session, who reads which partition where, and which nodes are alive."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

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


class Claimed(NamedTuple):
    """The session of an identity is this node's as soon as ``holders``, leases of nodes that may still have an older
    one, have ended theirs. ``epoch`` counts an identity's sessions: who has a lower one is the older."""

    epoch: int
    holders: Sequence[str] = ()


class Present(NamedTuple):
    """Whether an identity is connected somewhere, and when that was changed last (seconds since 1970)."""

    connected: bool
    changed: float


class SessionDirectory(Protocol):
    """Which node has the session of an identity, for all nodes of a deployment.

    Promises: of two claims for an identity one is first, gets the lower epoch, and its node is among the holders that
    the other is told of, until it has released or a later one says that it is ``alone``. Calls for an identity take
    effect in the order in which a node made them. Does not promise that a node in the directory lives.
    Everything raises ``HubError`` 500001 or 503001.
    """

    def claim(self, hub: str, key: IdentityKey, generation_id: str, lease: str, at: float) -> asyncio.Future[Claimed]:
        """The identity connects to the node of ``lease``, ``at`` seconds since 1970."""
        ...

    def alone(self, hub: str, key: IdentityKey, epoch: int, lease: str) -> asyncio.Future[None]:
        """All other holders have ended their sessions; nothing happens if ``epoch`` is not the last one any more."""
        ...

    def release(self, hub: str, key: IdentityKey, epoch: int, lease: str, at: float) -> asyncio.Future[None]:
        """The session of ``epoch`` has ended; nothing happens if there is a newer one."""
        ...

    async def find(self, hub: str, key: IdentityKey) -> str | None:
        """The lease of the node that claimed the identity last and has not released it, if that lease is there."""
        ...

    async def present(self, hub: str, keys: Sequence[IdentityKey]) -> Sequence[Present | None]:
        """How it is with each; ``None`` for one that was never connected."""
        ...

    async def forget(self, hub: str, key: IdentityKey, generation_id: str) -> None:
        """The identity of that generation was deleted: a later one of the same id begins anew. Epochs go on."""
        ...


class SeatStore(Protocol):
    """Who reads which partition, for all nodes of a deployment: a text for each place of a hub, empty at first."""

    async def swap(self, hub: str, place: str, old: str, new: str) -> str | None:
        """Put ``new`` in the place of ``old``: ``None`` when that is done, else what is there instead.

        Of several calls with the same ``old`` one is done. Raises ``HubError`` 500001 or 503001; whether it was done is
        not known then.
        """
        ...


class Leased(NamedTuple):
    """A node that has a lease: ``about`` is what it said of itself when it got it, ``since`` when that was (seconds
    since 1970). The lease lasts ``left`` seconds more, fewer than none when it is over and nobody has taken it away.
    ``devices`` are connected to the node, by hub, as it said last."""

    lease: str
    about: Mapping[str, Any]
    since: float
    left: float
    devices: Mapping[str, int]


class LeaseStore(Protocol):
    """Which nodes are alive: each has a lease that it renews. A lease's name is ``node/number``; none is given twice.

    What is said of time is the store's own clock, which is not the domain's.
    """

    async def register(self, node: str, seconds: float, about: Mapping[str, Any]) -> str:
        """A new lease for ``node``, which says ``about`` itself what JSON can hold."""
        ...

    async def renew(self, lease: str, seconds: float, devices: Mapping[str, int]) -> Sequence[str] | None:
        """It lasts ``seconds`` from now on; late is not too late. The leases of all other nodes; ``None`` when this one
        has ``expired``. ``devices`` are connected to the node, by hub."""
        ...

    async def expire(self, lease: str) -> float:
        """Take the lease away if its time is over: 0 when it is gone, else the seconds that it still lasts."""
        ...

    async def give_up(self, lease: str) -> None:
        """The node of this lease has no sessions any more."""
        ...

    async def devices(self, hub: str) -> int:
        """How many devices are connected to all nodes together, as they said last."""
        ...

    async def nodes(self) -> Sequence[Leased]:
        """All that have a lease, those whose time is over too, in the order in which they got it."""
        ...


def node_of(lease: str) -> str:
    """The node that has, or had, the lease: its name on the bus."""
    return lease.rpartition("/")[0]
