"""The audit log in PostgreSQL.

A chain can be continued by one transaction at a time only, and changes of thousands of devices must not wait for each
other because of that. So a change leaves its record in ``audit_pending``, in its own transaction, and a moment later
whoever comes first (the node that made it, or the next one that looks) gives the records their numbers and hashes. A
record that is durable is never lost by that: only its place in the chain is decided later. Records of one subject keep
their order, for their changes had to wait for each other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from muster.audit.chain import BEGIN, Mark, line_of, mark_of
from muster.audit.contract import Head, Kept
from muster.core.audit import Draft
from muster.core.errors import HubError
from muster.stores.postgres.database import Database, Step
from muster.stores.postgres.pending import draft_of

_PLACE = "/audit"
_AT_ONCE = 500
_MOST_WAITING = 1000
_LOCK = "SELECT number FROM audit_written FOR UPDATE"
_PENDING = "SELECT id, draft FROM audit_pending ORDER BY id LIMIT $1"
_LAST = "SELECT line FROM audit ORDER BY number DESC LIMIT 1"
_PUT = "INSERT INTO audit (number, line) SELECT * FROM unnest($1::bigint[], $2::bytea[])"
_REMOVE = "DELETE FROM audit_pending WHERE id = ANY($1::bigint[])"
_WRITTEN = "UPDATE audit_written SET number = $1"
_PAGE = "SELECT number, line FROM audit WHERE number > $1 ORDER BY number LIMIT $2"

log = logging.getLogger(__name__)


class PostgresAuditLog:
    """``audit.contract.AuditLog`` on a database of ``migrations``. Raises ``HubError`` as the database does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting = 0
        self._failing = False
        self._chaining: asyncio.Task[None] | None = None
        database.when_recorded(self._soon)

    async def record(self, draft: Draft) -> None:
        """See ``AuditLog``."""
        await self._database.submit(_PLACE, _recording(draft))

    def note(self, draft: Draft) -> None:
        """See ``AuditLog``."""
        if self._waiting >= _MOST_WAITING:
            return
        try:
            self._database.call(_PLACE, _recording(draft), self._noted)
        except HubError:  # the store is closed: the hub stops
            return
        self._waiting += 1

    async def lines(self, after: int, limit: int) -> Sequence[Kept]:
        """See ``AuditLog``."""
        await self._chain_all()
        return [Kept(number, line) for number, line in await self._database.fetch(_PAGE, after, limit)]

    async def head(self) -> Head:
        """See ``AuditLog``."""
        await self._chain_all()
        written = await self._database.value("SELECT number FROM audit_written")
        mark = _mark(await self._database.value(_LAST))
        return Head(mark, max(written, mark.number))

    def _noted(self, _: Any, error: BaseException | None) -> None:
        self._waiting -= 1
        if error is not None and not self._failing:  # once for as long as it lasts
            log.warning("refused changes are not on record: %s", error)
        self._failing = error is not None

    def _soon(self) -> None:
        """Records have come: give them their places, once for all that come meanwhile."""
        if self._chaining is None and not self._database.closed:
            self._chaining = asyncio.get_running_loop().create_task(self._chain_soon())

    async def _chain_soon(self) -> None:
        try:
            await self._chain_all()
        except HubError as error:  # the next record, or who reads the log, tries again
            log.warning("audit records wait for their places: %s", error)
        finally:
            self._chaining = None

    async def _chain_all(self) -> None:
        while await self._database.submit(_PLACE, _chain) == _AT_ONCE:
            pass


def _recording(draft: Draft) -> Any:
    async def work(step: Step) -> None:
        step.record((draft,))

    return work


async def _chain(step: Step) -> int:
    """Give some of the records that wait their places; how many. One transaction of all nodes at a time does."""
    written: int = await step.value(_LOCK)
    pending = await step.fetch(_PENDING, _AT_ONCE)
    if not pending:
        return 0
    mark = _mark(await step.value(_LAST))
    number, last = max(written, mark.number), mark.hash
    lines = []
    for _, text in pending:
        number += 1
        line, last = line_of(draft_of(text), number, last)
        lines.append(line.encode())
    first = number - len(lines) + 1
    await step.write(_PUT, list(range(first, number + 1)), lines)
    await step.write(_REMOVE, [id for id, _ in pending])
    await step.write(_WRITTEN, number)
    return len(pending)


def _mark(line: bytes | None) -> Mark:
    try:
        return BEGIN if line is None else mark_of(line)
    except ValueError:  # it goes on, with a link that does not hold
        return BEGIN
