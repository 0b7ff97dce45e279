"""The audit log in ``hub.db``: a line a row, appended in the transactions of the changes that the lines tell of.

Where a transaction is undone its records are too, and what was noted of the chain's end with them (``Writer.kept``).
SQLite counts the rows ever written (AUTOINCREMENT), so that a log whose end was cut off goes on behind a gap.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import apsw

from muster.audit.chain import BEGIN, line_of, mark_of
from muster.audit.contract import Head, Kept
from muster.core.audit import Draft
from muster.core.errors import HubError
from muster.stores.sqlite.database import Writer, told_as_refusal

_PUT = "INSERT INTO audit (number, line) VALUES (?, ?)"
_LAST = "SELECT CAST(line AS BLOB) FROM audit ORDER BY number DESC LIMIT 1"
_WRITTEN = "SELECT seq FROM sqlite_sequence WHERE name = 'audit'"
_PAGE = "SELECT number, CAST(line AS BLOB) FROM audit WHERE number > ? ORDER BY number LIMIT ?"
# As bytes: a damaged line may be no text.
_END = "audit"
"""Where ``Writer.kept`` holds the number of the last record written, and the hash that the next one holds."""
_MOST_WAITING = 1000

log = logging.getLogger(__name__)


def keep(writer: Writer, connection: apsw.Connection, drafts: Sequence[Draft]) -> None:
    """Append ``drafts`` in the transaction that is open on ``connection``, in the thread of ``writer``."""
    number, last = writer.kept.get(_END) or _end(connection)
    for draft in drafts:
        number += 1
        line, last = line_of(draft, number, last)
        writer.run(_PUT, (number, line))
    writer.kept[_END] = (number, last)


def _end(connection: apsw.Connection) -> tuple[int, str]:
    head = read_head(connection)
    return head.written, head.mark.hash


def read_lines(connection: apsw.Connection, after: int, limit: int) -> list[Kept]:
    """See ``AuditLog.lines``."""
    return [Kept(*row) for row in connection.execute(_PAGE, (after, limit))]


def read_head(connection: apsw.Connection) -> Head:
    """See ``AuditLog.head``."""
    line: bytes | None = connection.execute(_LAST).get
    try:
        mark = BEGIN if line is None else mark_of(line)
    except ValueError:  # it goes on, with a link that does not hold
        mark = BEGIN
    return Head(mark, max(connection.execute(_WRITTEN).get or 0, mark.number))


class SqliteAuditLog:
    """``audit.contract.AuditLog`` on a ``hub.db``.

    ``reader`` is used by the loop's thread only. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._waiting = 0

    async def record(self, draft: Draft) -> None:
        await self._writer.submit(partial(self._keep, draft))

    def note(self, draft: Draft) -> None:
        if self._waiting >= _MOST_WAITING:
            return
        try:
            self._writer.call(partial(self._keep, draft), self._noted)
        except HubError:  # the store is closed: the hub stops
            return
        self._waiting += 1

    def _keep(self, draft: Draft, connection: apsw.Connection) -> None:
        keep(self._writer, connection, (draft,))

    def _noted(self, _: Any, error: BaseException | None) -> None:
        self._waiting -= 1
        if error is not None:
            log.warning("a refused change is not on record: %s", error)

    async def lines(self, after: int, limit: int) -> Sequence[Kept]:
        with told_as_refusal(self._writer.path):
            return read_lines(self._reader, after, limit)

    async def head(self) -> Head:
        with told_as_refusal(self._writer.path):
            return read_head(self._reader)
