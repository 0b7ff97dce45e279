"""The audit log of a data directory whose hubs do not run: read only, nothing there is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import apsw

from muster.audit.contract import Head
from muster.audit.filter import Filter
from muster.core.errors import INVALID_OPERATION, HubError
from muster.node.directory import DataDirectory
from muster.stores.sqlite.audit import read_head, read_lines
from muster.stores.sqlite.database import open_connection, told_as_refusal

_LINES = 1000


class OfflineAudit:
    """What there is to read. Raises ``HubError`` (500001) when the disk fails."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def lines(self, wanted: Filter, after: int) -> Iterator[bytes]:
        """Those lines behind place ``after`` that are wanted."""
        while True:
            with told_as_refusal(self._connection.filename):
                page = read_lines(self._connection, after, _LINES)
            if not page:
                return
            after = page[-1].place
            yield from (line for _, line in page if wanted.wants(line))

    def head(self) -> Head:
        """How far the log goes."""
        with told_as_refusal(self._connection.filename):
            return read_head(self._connection)


@contextlib.contextmanager
def open_audit(directory: DataDirectory) -> Iterator[OfflineAudit]:
    """Open the log of ``directory``, which the caller owns. Raises ``HubError``: 400003 when there is none, 500001."""
    if not directory.hub_database.exists():
        raise HubError(INVALID_OPERATION, f"{directory.path} holds no hub; start one there: muster serve")
    with contextlib.closing(open_connection(directory.hub_database, readonly=True)) as connection:
        if connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'audit'").get is None:
            raise HubError(
                INVALID_OPERATION, f"{directory.path} was last served by a muster without an audit log, serve it once."
            )
        yield OfflineAudit(connection)
