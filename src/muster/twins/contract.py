"""What the twins room asks of others: a store, and somebody to tell about desired properties."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from muster.core.audit import Draft
from muster.core.outbox import Entry
from muster.identity.model import Identity, IdentityKey
from muster.twins.document import EMPTY, Content, Twin

Change = Callable[[Twin], Twin]
"""Returns what the twin shall be; the very twin it got for no change. Pure and quick; raises ``HubError`` to refuse.
Runs inside the store's transaction and may run again if that is retried."""

Record = Callable[[Twin, Twin], Sequence[Entry]]
"""What is to be told of a change, made from the twin before and after it. Runs inside the store's transaction, too."""


Note = Callable[[Twin, Twin], Draft]
"""The audit record of a change, made as ``Record`` is."""


class TwinUpdate(NamedTuple):
    """What was merged into a twin at ``at`` (seconds since 1970), null for what was removed; empty: that part is
    as it was."""

    at: float
    tags: Content = EMPTY.tags
    desired: Content = EMPTY.desired.values
    reported: Content = EMPTY.reported.values


class TwinStore(Protocol):
    """Keeps twins, by hub.

    The identity store of the same database makes an empty twin with each identity and removes it with it, in the
    same transaction, so that there is a twin exactly where there is an identity. Promises: an ``edit`` that returned
    is durable and seen by every later read; edits of a twin are made in the order they were asked for. Does not
    promise any order between different twins.
    """

    async def get(self, hub: str, key: IdentityKey) -> Twin | None:
        """The twin; ``None`` when there is no such identity."""
        ...

    async def model_id(self, hub: str, key: IdentityKey) -> str | None:
        """The twin's model id, ``None`` without one or without a twin. Cheap: every connection asks."""
        ...

    def edit(
        self,
        hub: str,
        key: IdentityKey,
        change: Change,
        then: Callable[[Twin], None],
        record: Record | None = None,
        *,
        note: Note | None = None,
        epoch: int | None = None,
    ) -> Awaitable[Twin]:
        """Apply ``change``; returns what the twin is now.

        ``then`` is called with it on the loop, once it is durable and before this returns: in the order of the
        edits, and also when the caller does not wait any more. Raises what ``change`` raises, and ``HubError``
        404001 or 404010 when there is no such identity; then nothing is changed and ``then`` not called. What
        ``record`` makes of a change is put into the outbox of the database in the same transaction, and on record what
        ``note`` makes of it. ``epoch`` (see ``sessions.contract.SessionDirectory``) is that of the session that asks:
        when a directory in the same database has a newer one, nothing is changed, and the error is ``TAKEN_OVER``.
        """
        ...


class TwinRecorder(Protocol):
    """Makes of changes what is to be told of them; called inside a store's transaction, on whatever thread."""

    def twin_updated(self, key: IdentityKey, before: Twin, after: Twin, update: TwinUpdate) -> Sequence[Entry]:
        """Something was merged into the twin."""
        ...

    def twin_replaced(self, key: IdentityKey, before: Twin, after: Twin, at: float) -> Sequence[Entry]:
        """A service has put tags and desired properties in the place of what was there, ``at`` seconds since 1970."""
        ...

    def model_announced(self, key: IdentityKey, before: Twin, after: Twin, at: float) -> Sequence[Entry]:
        """The device has announced another model, or none where there was one."""
        ...


class LifecycleRecorder(Protocol):
    """Makes of the begin and end of identities what is to be told of them; called as ``TwinRecorder``."""

    def identity_changed(self, identity: Identity, twin: Twin, *, created: bool) -> Sequence[Entry]:
        """``identity`` was created, or deleted, with the ``twin`` that it has or had."""
        ...


class DesiredListener(Protocol):
    """Hears of desired properties; answered by the session table."""

    def desired_changed(self, key: IdentityKey, patch: Content, version: int) -> None:
        """The desired properties of ``key`` now have ``version``, made by ``patch``, nulls included; when they were
        replaced as a whole, ``patch`` is that whole. Called in the order of the versions."""
        ...
