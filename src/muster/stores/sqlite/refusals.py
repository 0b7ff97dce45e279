"""Refused attempts in ``hub.db``: a bounded table, written beside everything else and never waited for."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import apsw

from muster.core.errors import HubError
from muster.core.limits import REFUSALS_KEPT, Profile
from muster.identity.refusals import KeptRefusal, identifier_of
from muster.stores.sqlite.database import Writer, told_as_refusal

_PUT = (
    "INSERT OR IGNORE INTO refusals (hub, number, identifier, tracking_id, at, principal, report) "
    "SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4, ?5, ?6 FROM refusals WHERE hub = ?1"
)
_FORGET = "DELETE FROM refusals WHERE hub = ?1 AND number <= (SELECT max(number) FROM refusals WHERE hub = ?1) - ?2"
_COLUMNS = "SELECT tracking_id, at, principal, report FROM refusals WHERE hub = ?1"
_FIND = f"{_COLUMNS} AND identifier = ?2"
_NEWEST = f"{_COLUMNS} ORDER BY number DESC LIMIT ?2"
# A module's principal is device/module, and "0" comes right after "/".
_NEWEST_OF = (
    f"{_COLUMNS} AND (principal = ?2 OR (principal > ?2 || '/' AND principal < ?2 || '0')) "
    "ORDER BY number DESC LIMIT ?3"
)
_MOST_WAITING = 256

_LOG = logging.getLogger(__name__)


class SqliteRefusalStore:
    """``identity.refusals.RefusalStore`` of ``hub`` on a ``hub.db``.

    ``reader`` is used by the loop's thread only. One write is in flight at a time; what comes meanwhile waits
    for the next, and what does not fit there is dropped. Reading raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection, hub: str, profile: Profile = Profile.OPEN) -> None:
        self._writer = writer
        self._reader = reader
        self._hub = hub
        self._most = REFUSALS_KEPT.under(profile)
        self._waiting: list[KeptRefusal] = []
        self._writing = self._failing = False

    def keep(self, refusal: KeptRefusal) -> None:
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(refusal)
        if not self._writing:
            self._write()

    def _write(self) -> None:
        rows = [(one.identifier, one.tracking_id, one.at, one.principal, one.report) for one in self._waiting]
        self._waiting.clear()
        hub, most = self._hub, self._most

        def write(connection: apsw.Connection) -> None:
            connection.executemany(_PUT, [(hub, *row[:4], json.dumps(row[4])) for row in rows])
            connection.execute(_FORGET, (hub, most))

        try:
            self._writer.call(write, self._written)
        except HubError:  # the store is closed: the hub stops
            return
        self._writing = True

    def _written(self, _: None, error: BaseException | None) -> None:
        self._writing = False
        if error is not None and not self._failing:  # once for as long as it lasts
            _LOG.warning("refusals cannot be kept: %s", error)
        self._failing = error is not None
        if self._waiting and not self._failing:
            self._write()

    async def find(self, tracking_id: str) -> KeptRefusal | None:
        found = self._read(_FIND, identifier_of(tracking_id))
        return found[0] if found else None

    async def newest(self, principal: str | None, limit: int) -> Sequence[KeptRefusal]:
        if principal is None:
            return self._read(_NEWEST, limit)
        return self._read(_NEWEST_OF, principal, limit)

    def _read(self, query: str, *values: str | int) -> list[KeptRefusal]:
        with told_as_refusal(self._writer.path):
            rows: list[Any] = self._reader.execute(query, (self._hub, *values)).fetchall()
        return [KeptRefusal(tracking_id, at, who, json.loads(report)) for tracking_id, at, who, report in rows]
