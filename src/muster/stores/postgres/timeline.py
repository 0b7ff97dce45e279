"""The registration timeline in PostgreSQL: a bounded log, see ``bounded_log``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from muster.core.limits import Profile
from muster.core.provisioning_limits import ATTEMPTS_KEPT, ATTEMPTS_WAITING
from muster.provisioning.contract import Entry
from muster.stores.postgres.bounded_log import BoundedLog, Row
from muster.stores.postgres.database import Database
from muster.stores.postgres.texts import meant, spelled

_PUT = (
    "INSERT INTO registration_timeline (scope, number, at, registration_id, report) VALUES ($1, $2, $3, $4, $5)"
)  # fmt: skip
_FORGET = "DELETE FROM registration_timeline WHERE scope = $1 AND number <= $2"
_COLUMNS = "SELECT at, registration_id, report FROM registration_timeline WHERE scope = $1"
_NEWEST = f"{_COLUMNS} ORDER BY number DESC LIMIT $2"
_NEWEST_OF = f"{_COLUMNS} AND registration_id = $2 ORDER BY number DESC LIMIT $3"


class PostgresTimelineStore:
    """``provisioning.contract.TimelineStore`` on a database of ``migrations``, for the provisioning service ``scope``
    of all nodes. Reading sees what waits here too."""

    def __init__(self, scope: str, database: Database, profile: Profile = Profile.OPEN) -> None:
        self._scope = scope
        self._database = database
        kept, waiting = ATTEMPTS_KEPT.under(profile), ATTEMPTS_WAITING.under(profile)
        self._log = BoundedLog(database, "registration_timeline", scope, _PUT, _FORGET, kept=kept, waiting=waiting)

    def keep(self, entry: Entry) -> None:
        """See ``TimelineStore``."""
        self._log.keep((entry.at, spelled(entry.registration_id), json.dumps(entry.report)))

    def flush(self) -> None:
        """See ``TimelineStore``."""
        self._log.flush()

    async def newest(self, registration_id: str | None, limit: int) -> Sequence[Entry]:
        """See ``TimelineStore``."""
        fresh = [*map(_entry, self._log.fresh)]
        if registration_id is None:
            rows = await self._database.fetch(_NEWEST, self._scope, limit)
        else:
            fresh = [one for one in fresh if one.registration_id == registration_id]
            rows = await self._database.fetch(_NEWEST_OF, self._scope, spelled(registration_id), limit)
        kept = [_entry(tuple(row)) for row in rows]
        return [*reversed(fresh), *(one for one in kept if one not in fresh)][:limit]  # a commit may be just back


def _entry(row: Row) -> Entry:
    at, registration_id, report = row
    return Entry(at, meant(registration_id), json.loads(report))
