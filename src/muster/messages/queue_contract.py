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


class EndedUpload(NamedTuple):
    """A slot of ``messages.upload_contract.UploadStore`` of the same database and hub."""

    device_id: str
    correlation_id: str


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


class Dealt(NamedTuple):
    """What was due, and the earliest ``due`` of all that is left (seconds since 1970; ``None``: nothing is)."""

    edited: list[Edited]
    next: float | None


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

    Promises: a call takes its place among all others for its queue when it is made, not when it is awaited; what has
    returned is durable and seen by every later call. ``then`` is called on the loop once it is durable, before the
    future is done, and also when nobody waits for that any more. The identity store of the same database empties an
    identity's queue and forgets its records in the transaction that deletes it. Numbers of a queue never go back
    while it has that identity. Two changes of one message never happen at once, whoever makes them. Does not promise
    order between queues, nor between ``edit_due`` or ``collect`` and the others. Fails with ``HubError`` 500001 when
    the disk does, and 503001 when the store is closed or cannot be reached.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes change these queues too, whose deadlines and records one has to look for."""
        ...

    def put(
        self, hub: str, queue: str, new: New, then: Callable[[Entry], None], *, most: int | None = None,
        generation: str | None = None, ends: EndedUpload | None = None,
    ) -> asyncio.Future[Entry]:  # fmt: skip
        """Append a message; ``ends``: and give that upload's slot up, in the same transaction.

        Raises ``HubError`` 400015 when there is no such slot (any more), 403004 when ``most`` are in the queue, and
        404001 or 404010 when it is an identity's that is not there, or not with this ``generation`` id.
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
    ) -> asyncio.Future[Dealt]:
        """Apply ``change`` to each message that is due, the longest overdue first. Passes over queues that another
        process is changing right now: what is due there stays due."""
        ...

    def collect(
        self, hub: str, queue: str, limit: int, make: Make, then: Callable[[Collected], None]
    ) -> asyncio.Future[Collected]:
        """Put one message into ``queue`` in the place of the oldest ``limit`` records, if there are any. Passes over
        those that another process is collecting."""
        ...

    def waiting(self, hub: str, queue: str) -> int | None:
        """How many messages are in the queue, locked ones too, where that can be told at once; ``None`` where one has
        to ask. Then to take what there is costs no more than to ask first."""
        ...

    async def depths(self, hub: str, queues: Sequence[str]) -> list[int]:
        """How many messages are in each of the queues, locked ones too."""
        ...

    async def records(self, hub: str) -> tuple[int, float | None]:
        """How many records there are, and when the oldest was made."""
        ...
