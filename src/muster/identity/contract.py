"""What the identity room asks of others: a store, and word of who is connected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from muster.core.audit import Draft
from muster.identity.model import Identity, IdentityKey


class Standing(NamedTuple):
    """How things stand when a change is made: the identity (``None``: absent) and, when it is a module, its
    device, which is never absent then, and how many modules that device has."""

    identity: Identity | None
    device: Identity | None = None
    modules: int = 0


Change = Callable[[Standing], Identity | None]
"""Returns what the identity shall be (``None``: deleted, or still absent). Pure and quick; raises ``HubError`` to
refuse. Runs inside the store's transaction and may run again if that is retried, so it must have no effects of
its own."""


Note = Callable[[Identity | None, Identity | None], Draft]
"""The audit record of an identity that was the first and is the second (``None``: not there). Pure and quick."""


class Edit(NamedTuple):
    """A change to one identity. For a module whose device is missing the store answers 404001 by itself, with
    the device's id as the message. What ``note`` makes of the change, and of each module that goes with its device, is
    put on record in the same transaction."""

    key: IdentityKey
    change: Change
    note: Note | None = None


class Counts(NamedTuple):
    """Devices (modules not counted) by status."""

    enabled: int
    disabled: int


class IdentityStore(Protocol):
    """Keeps identities, by hub.

    Promises: an ``edit`` that returned is durable and seen by every later read. Deleting a device deletes
    its modules. An empty twin is made with each identity and deleted with it, in the same transaction, and what a
    ``twins.contract.LifecycleRecorder``, if the store was given one, makes of that is kept there too. Does not
    promise: any order between edits made at the same time, or that a listing made while edits run shows all of
    them or none.
    """

    async def get(self, hub: str, key: IdentityKey) -> Identity | None:
        """The identity, or ``None``."""
        ...

    async def devices(self, hub: str, limit: int) -> Sequence[Identity]:
        """Up to ``limit`` devices in the order of their ids."""
        ...

    async def modules(self, hub: str, device_id: str) -> Sequence[Identity]:
        """The device's modules in the order of their ids; empty too when the device is unknown."""
        ...

    async def counts(self, hub: str) -> Counts:
        """How many devices there are."""
        ...

    async def edit(self, hub: str, edits: Sequence[Edit]) -> list[Identity | Exception | None]:
        """Apply each edit by itself, in order; one that raises leaves its identity as it was.

        Returns, for each, what the identity is now, or the exception its change raised, or the ``HubError`` why the
        store could not do it, where it does them one by one.
        """
        ...


class Depths(Protocol):
    """How many messages are in queues, locked ones too; answered by ``messages.queues``. Raises ``HubError`` 500001."""

    def waiting(self, queue: str) -> int | None:
        """How many are in one; ``None`` when that cannot be told at once."""
        ...

    async def depths(self, queues: Sequence[str]) -> Sequence[int]:
        """How many are in each. Raises ``HubError`` 503001 too."""
        ...


class Presence(Protocol):
    """Who is connected; answered by the session table.

    What is asked of one identity may be asked from any thread, as queries do while they go through the rows; where
    there are several nodes that is what this one knows.
    """

    @property
    def shared(self) -> bool:
        """Whether there may be other nodes, of which ``activity`` knows nothing."""
        ...

    def activity(self, key: IdentityKey) -> tuple[bool, float, float]:
        """Whether a live session of this identity exists; when it last connected or disconnected (seconds since 1970),
        ``NEVER`` when not since the hub's start; when it last did that or sent something, ``NEVER`` likewise."""
        ...

    async def activities(self, keys: Sequence[IdentityKey]) -> list[tuple[bool, float, float]]:
        """As ``activity`` of each, on all nodes together. Raises ``HubError`` when these cannot be asked about."""
        ...

    async def connected_devices(self) -> int:
        """How many devices (modules not counted) are connected, on all nodes together."""
        ...
