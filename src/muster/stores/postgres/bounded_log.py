"""Logs in PostgreSQL that are written beside everything else and never waited for: bounded, the oldest dropped first.

All nodes write to the same log. Its entries have consecutive numbers, given under the lock of one row, so the oldest
are found by theirs; that row is locked last in a transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from muster.core.errors import HubError
from muster.stores.postgres.database import Database, Step

_NUMBERS = (
    "INSERT INTO log_numbers AS kept (log, hub, last) VALUES ($1, $2, $3) "
    "ON CONFLICT (log, hub) DO UPDATE SET last = kept.last + $3 RETURNING last"
)

Row = tuple[Any, ...]

_LOG = logging.getLogger(__name__)


class BoundedLog:
    """The log ``table`` of ``owner``, a hub or an id scope. One write of this process is in flight at a time; what
    comes meanwhile waits for the next, and what does not fit there is dropped."""

    def __init__(
        self, database: Database, table: str, owner: str, put: str, forget: str, *, kept: int, waiting: int
    ) -> None:
        """``put`` inserts (owner, number, *row); ``forget`` deletes the owner's entries up to a number."""
        self._database = database
        self._table, self._owner = table, owner
        self._put, self._forget = put, forget
        self._kept, self._most = kept, waiting
        self._waiting: list[Row] = []
        self._writing: list[Row] = []
        self._failing = False

    @property
    def fresh(self) -> Sequence[Row]:
        """What is not known to be in the table, the oldest first."""
        return [*self._writing, *self._waiting]

    def keep(self, row: Row) -> None:
        """Store it some time soon."""
        if len(self._waiting) < self._most:
            self._waiting.append(row)
        if not self._writing:
            self.flush()

    def flush(self) -> None:
        """Store what waits before anything that is asked for later."""
        rows, self._waiting = self._waiting, []
        if not rows:
            return

        async def work(step: Step) -> None:
            ((last,),) = await step.returning(_NUMBERS, self._table, self._owner, len(rows))
            first = last - len(rows) + 1
            await step.write_many(self._put, [(self._owner, first + at, *row) for at, row in enumerate(rows)])
            await step.write(self._forget, self._owner, last - self._kept)

        def written(_: None, error: BaseException | None) -> None:
            del self._writing[: len(rows)]
            if error is not None and not self._failing:  # once for as long as it lasts
                _LOG.warning("%s cannot be kept: %s", self._table.replace("_", " "), error)
            self._failing = error is not None
            if not self._writing and not self._failing:
                self.flush()

        try:
            self._database.call(f"~log/{self._table}/{self._owner}", work, written)
        except HubError:  # the store is closed: the hub stops
            return
        self._writing += rows
