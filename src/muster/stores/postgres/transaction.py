"""Works that share a transaction.

Each is done by itself, one statement after the other. Some are of a kind that can be done together: the changes of
many twins are one statement that reads and locks them and one that writes, which takes a fifth of the time of as many
exchanges with the server. So what comes first at its place and is of such a kind is done with all the others that are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import asyncpg

from muster.core.audit import Draft
from muster.stores.postgres.failures import ends_all, store_error
from muster.stores.postgres.pending import text_of

T = TypeVar("T")

_BUCKETS = 64
"""Rows at most in which a number of devices is kept, so that who counts does not wait for others who do."""
_COUNT = (
    "INSERT INTO identity_counts AS kept (hub, status, bucket, devices) "
    "SELECT hub, status, $1, devices FROM unnest($2::text[], $3::text[], $4::bigint[]) AS more (hub, status, devices) "
    "ON CONFLICT (hub, status, bucket) DO UPDATE SET devices = kept.devices + excluded.devices"
)
_KEEP = "INSERT INTO audit_pending (scope, draft) SELECT * FROM unnest($1::text[], $2::text[])"


class Step:
    """What a work may do in the transaction that it shares. Reads and writes are told apart because a work that raised
    before it wrote anything needs no undoing."""

    __slots__ = ("_connection", "counted", "drafts", "written")

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.written = False
        self.drafts: list[Draft] = []
        self.counted: Counter[tuple[str, str]] = Counter()

    async def fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """The rows of a SELECT, ``FOR UPDATE`` if they are to be changed."""
        return await self._connection.fetch(query, *values)

    async def row(self, query: str, *values: Any) -> asyncpg.Record | None:
        """The first row of a SELECT, or ``None``."""
        return await self._connection.fetchrow(query, *values)

    async def value(self, query: str, *values: Any) -> Any:
        """The first column of the first row of a SELECT, or ``None``."""
        return await self._connection.fetchval(query, *values)

    async def write(self, query: str, *values: Any) -> int:
        """Run what changes rows; how many they were."""
        self.written = True
        status: str = await self._connection.execute(query, *values)
        return int(status.rpartition(" ")[2])

    async def write_many(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """As ``write`` with each of ``rows``, in one exchange."""
        self.written = True
        await self._connection.executemany(query, rows)

    async def returning(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """As ``write``, with the rows that its RETURNING gives."""
        self.written = True
        return await self._connection.fetch(query, *values)

    def record(self, drafts: Iterable[Draft]) -> None:
        """Put ``drafts`` on record with what is changed here."""
        self.drafts += drafts

    def count(self, hub: str, status: str, by: int) -> None:
        """Have ``by`` more devices of ``hub`` with ``status``. Written at the end of the transaction: rows that others
        want too are locked last, in one order, and briefly."""
        self.counted[hub, status] += by


Work = Callable[[Step], Awaitable[T]]
"""Reads and writes through the step it is given, in a transaction that the lane ends. Runs again when what it did had
to be undone because of other work, so it must have no effects of its own."""

Done = Callable[[Any, BaseException | None], None]

Together = Callable[[Step, Sequence[Any]], Awaitable[Sequence[Any]]]
"""Does several works of a kind: is given what each is about, and returns what each came to, an exception where it
refuses; a work that refuses must have written nothing. Otherwise as ``Work``."""


class Item(NamedTuple):
    """A work, where, and whom to tell. With ``together`` it is done by that, given ``about``."""

    place: str
    done: Done
    work: Work[Any] | None = None
    together: Together | None = None
    about: Any = None


Outcome = tuple[Any, BaseException | None]


class SpoiltError(Exception):
    """A work failed after it had written: what others wrote can only be undone with it."""


async def run(connection: asyncpg.Connection, batch: Sequence[Item], *, apart: bool) -> tuple[list[Outcome], bool]:
    """Run ``batch``, which is in the order of the places, in one transaction: how each ended, and whether something
    was put on record. ``apart``: each within a savepoint. Raises ``SpoiltError`` when it has to be, and what
    ``failures.ends_all`` says is about the whole."""
    drafts: list[Draft] = []
    counted: Counter[tuple[str, str]] = Counter()
    outcomes: list[Outcome] = [(None, None)] * len(batch)
    async with connection.transaction():
        groups = {} if apart else _groups(batch)
        for together, members in groups.items():
            step = Step(connection)
            ended = await _run_group(step, together, [batch[at].about for at in members])
            for at, outcome in zip(members, ended, strict=True):
                outcomes[at] = outcome
            drafts += step.drafts
            counted.update(step.counted)
        grouped = {at for members in groups.values() for at in members}
        for at in (at for at in range(len(batch)) if at not in grouped):
            step, work = Step(connection), _work_of(batch[at])
            outcomes[at] = await (_apart(connection, step, work) if apart else _in_turn(step, work))
            if outcomes[at][1] is None:
                drafts += step.drafts
                counted.update(step.counted)
        changes = sorted((hub, status, by) for (hub, status), by in counted.items() if by)
        if changes:
            await connection.execute(_COUNT, connection.get_server_pid() % _BUCKETS, *zip(*changes, strict=True))
        if drafts:
            await connection.execute(_KEEP, [draft.scope for draft in drafts], [text_of(draft) for draft in drafts])
    return outcomes, bool(drafts)


def _groups(batch: Sequence[Item]) -> dict[Together, list[int]]:
    """Which works are done together: those that nothing of another kind stands before at their place."""
    groups: dict[Together, list[int]] = {}
    place, kind = "", None
    for at, item in enumerate(batch):
        if item.place != place:
            place, kind = item.place, item.together
        elif item.together != kind:
            kind = None
        if kind is not None:
            groups.setdefault(kind, []).append(at)
    return groups


async def _run_group(step: Step, together: Together, about: Sequence[Any]) -> list[Outcome]:
    try:
        ended = await together(step, about)
    except Exception as error:
        if ends_all(error):
            raise
        raise SpoiltError from error  # it is not known whose fault that is
    return [(None, one) if isinstance(one, Exception) else (one, None) for one in ended]


def _work_of(item: Item) -> Work[Any]:
    if item.together is not None:
        return partial(_alone, item.together, item.about)
    assert item.work is not None
    return item.work


async def _alone(together: Together, about: Any, step: Step) -> Any:
    (outcome,) = await together(step, [about])
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


async def _in_turn(step: Step, work: Work[Any]) -> tuple[Any, BaseException | None]:
    try:
        return await work(step), None
    except Exception as error:
        if ends_all(error):
            raise
        if step.written or isinstance(error, asyncpg.PostgresError):  # PostgreSQL has given the whole up then
            raise SpoiltError from error
        return None, _told(error)


async def _apart(connection: asyncpg.Connection, step: Step, work: Work[Any]) -> tuple[Any, BaseException | None]:
    try:
        async with connection.transaction():  # a savepoint
            return await work(step), None
    except Exception as error:
        if ends_all(error):
            raise
        return None, _told(error)


def _told(error: Exception) -> Exception:
    return store_error(error) if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError) else error
