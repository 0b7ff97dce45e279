"""The registration timeline in ``hub.db``: a bounded table, written beside everything else and never waited for."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import apsw

from muster.core.errors import HubError
from muster.core.limits import Profile
from muster.core.provisioning_limits import ATTEMPTS_KEPT, ATTEMPTS_WAITING
from muster.provisioning.contract import Entry
from muster.stores.sqlite.database import Writer, told_as_refusal

_PUT = "INSERT INTO registration_timeline (scope, at, registration_id, report) VALUES (?, ?, ?, ?)"
_FORGET = "DELETE FROM registration_timeline WHERE number <= (SELECT max(number) FROM registration_timeline) - ?"
_COLUMNS = "SELECT at, registration_id, report FROM registration_timeline WHERE scope = ?"
_NEWEST = f"{_COLUMNS} ORDER BY number DESC LIMIT ?"
_NEWEST_OF = f"{_COLUMNS} AND registration_id = ? ORDER BY number DESC LIMIT ?"

_LOG = logging.getLogger(__name__)


class SqliteTimelineStore:
    """``provisioning.contract.TimelineStore`` on a ``hub.db``, for the provisioning service ``scope``.

    ``reader`` is used by the loop's thread only. One write is in flight at a time; what comes meanwhile waits for the
    next, and what does not fit there is dropped. Reading raises ``HubError`` (500001) when the disk fails, and sees
    what waits too.
    """

    def __init__(self, scope: str, writer: Writer, reader: apsw.Connection, profile: Profile = Profile.OPEN) -> None:
        self._scope = scope
        self._writer = writer
        self._reader = reader
        self._kept = ATTEMPTS_KEPT.under(profile)
        self._most = ATTEMPTS_WAITING.under(profile)
        self._waiting: list[Entry] = []
        self._writing: list[Entry] = []
        self._failing = False

    def keep(self, entry: Entry) -> None:
        if len(self._waiting) < self._most:
            self._waiting.append(entry)
        if not self._writing:
            self.flush()

    def flush(self) -> None:
        entries, self._waiting = self._waiting, []
        if not entries:
            return
        scope, kept = self._scope, self._kept

        def write(connection: apsw.Connection) -> None:
            rows = [(scope, one.at, one.registration_id, json.dumps(one.report)) for one in entries]
            connection.executemany(_PUT, rows)
            connection.execute(_FORGET, (kept,))

        def written(_: None, error: BaseException | None) -> None:
            del self._writing[: len(entries)]
            if error is not None and not self._failing:  # once for as long as it lasts
                _LOG.warning("registration attempts cannot be kept: %s", error)
            self._failing = error is not None
            if not self._writing and not self._failing:
                self.flush()

        try:
            self._writer.call(write, written)
        except HubError:  # the store is closed: the hub stops
            return
        self._writing += entries

    async def newest(self, registration_id: str | None, limit: int) -> Sequence[Entry]:
        query, values = _NEWEST, [self._scope, limit]
        if registration_id is not None:
            query, values = _NEWEST_OF, [self._scope, registration_id, limit]
        fresh = [one for one in (*self._writing, *self._waiting) if registration_id in {None, one.registration_id}]
        with told_as_refusal(self._writer.path):
            rows: list[Any] = self._reader.execute(query, values).fetchall()
        kept = [Entry(at, name, json.loads(report)) for at, name, report in rows]
        return [*reversed(fresh), *(one for one in kept if one not in fresh)][:limit]  # a commit may be just back
