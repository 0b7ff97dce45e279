"""What the queues of the hub ask of a store: one mechanism for the queues of identities and those of services.

A queue is named by text: an identity's by its key (``d``, ``d/m``), a service's by a name that begins with a slash
(``/feedback``), which no id holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from muster.core.audit import Draft
from muster.messages.queue import Entry, Outcome


class New(NamedTuple):
    """A message to be put: ``head`` and ``body`` as the queue's owner likes; times are seconds since 1970."""

    enqueued: float
    expires: float
    head: str
    body: bytes


class Record(NamedTuple):
    """Kept of a message that ended: by the identity's queue ``queue``, made ``at`` (seconds since 1970)."""

    queue: str
    at: float
    text: str


class Ending(NamedTuple):
    """A change that ends a message. ``record`` is kept in the same transaction, if there is one."""

    outcome: Outcome
    record: Record | None = None


Change = Callable[[str, Entry], Entry | Ending]
"""From queue and entry: what it shall be; the very entry for no change. Pure and quick; what it raises undoes the
whole edit. Runs inside the store's transaction, in any thread."""


class Visible(NamedTuple):
    """Selects the first ``limit`` messages that may be taken at ``now``, with their bodies."""

    now: float
    limit: int


class WithToken(NamedTuple):
    """Selects the message locked by ``token``, if there is one."""

    token: UUID


class HeldBy(NamedTuple):
    """Selects what ``holder`` holds; ``None``: what any holder but the empty one holds."""

    holder: str | None


class Everything(NamedTuple):
    """Selects all that is in the queue."""


class Due(NamedTuple):
    """Selects the first ``limit`` messages, of all queues, whose ``due`` is not after ``now``."""

    now: float
    limit: int


Selection = Visible | WithToken | HeldBy | Everything


class Edited(NamedTuple):
    """One message that was selected, before and after. ``body`` is empty unless ``Visible`` selected it."""

    queue: str
    before: Entry
    after: Entry | Ending
    body: bytes


class Collected(NamedTuple):
    """What a collection of records came to: how many it took, how many are ``left``, and when the oldest of those
    was made (``None``: there is none)."""

    taken: int
    left: int
    oldest: float | None
    entry: Entry | None


Make = Callable[[Sequence[Record]], New]
"""The message that says what these records say, at least one. Pure, as a ``Change``."""


class QueueStore(Protocol):
    """Keeps queues, by hub.

    Promises: a call takes its place among all others when it is made, not when it is awaited; what has returned is
    durable and seen by every later call. ``then`` is called on the loop once it is durable, before the future is
    done, and also when nobody waits for that any more. The identity store of the same database empties an
    identity's queue and forgets its records in the transaction that deletes it. Numbers of a queue never go back
    while it has that identity. Does not promise order between queues. Fails with ``HubError`` 500001 when the disk
    does, and 503001 when the store is closed.
    """

    def put(
        self, hub: str, queue: str, new: New, then: Callable[[Entry], None], *, most: int | None = None,
        generation: str | None = None,
    ) -> asyncio.Future[Entry]:  # fmt: skip
        """Append a message.

        Raises ``HubError`` 403004 when ``most`` are in the queue, and 404001 or 404010 when it is an identity's that
        is not there, or not with this ``generation`` id.
        """
        ...

    def edit(
        self, hub: str, queue: str, which: Selection, change: Change, then: Callable[[list[Edited]], None],
        *, note: Callable[[int], Draft] | None = None,
    ) -> asyncio.Future[list[Edited]]:  # fmt: skip
        """Apply ``change`` to each message selected, in the order of their numbers. What ``note`` makes of how many
        they are is put on record."""
        ...

    def edit_due(
        self, hub: str, due: Due, change: Change, then: Callable[[list[Edited]], None]
    ) -> asyncio.Future[list[Edited]]:
        """Apply ``change`` to each message that is due, the longest overdue first."""
        ...

    def collect(
        self, hub: str, queue: str, limit: int, make: Make, then: Callable[[Collected], None]
    ) -> asyncio.Future[Collected]:
        """Put one message into ``queue`` in the place of the oldest ``limit`` records, if there are any."""
        ...

    def depth(self, hub: str, queue: str) -> int:
        """How many messages are in the queue, locked ones too."""
        ...

    def next_due(self, hub: str) -> float | None:
        """The earliest ``due`` of all messages (seconds since 1970)."""
        ...

    def records(self, hub: str) -> tuple[int, float | None]:
        """How many records there are, and when the oldest was made."""
        ...
