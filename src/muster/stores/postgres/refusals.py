"""Refused attempts in PostgreSQL: a bounded log, see ``bounded_log``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from muster.core.limits import REFUSALS_KEPT, Profile
from muster.identity.refusals import KeptRefusal, identifier_of
from muster.stores.postgres.bounded_log import BoundedLog
from muster.stores.postgres.database import Database
from muster.stores.postgres.texts import meant, spelled

_PUT = (
    "INSERT INTO refusals (hub, number, identifier, tracking_id, at, principal, report) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
)
_FORGET = "DELETE FROM refusals WHERE hub = $1 AND number <= $2"
_COLUMNS = "SELECT tracking_id, at, principal, report FROM refusals WHERE hub = $1"
_FIND = f"{_COLUMNS} AND identifier = $2"
_NEWEST = f"{_COLUMNS} ORDER BY number DESC LIMIT $2"
# A module's principal is device/module, and "0" comes right after "/".
_NEWEST_OF = (
    f"{_COLUMNS} AND (principal = $2 OR (principal > $2 || '/' AND principal < $2 || '0')) "
    "ORDER BY number DESC LIMIT $3"
)
_MOST_WAITING = 256


class PostgresRefusalStore:
    """``identity.refusals.RefusalStore`` of ``hub`` on a database of ``migrations``, shared by all nodes."""

    def __init__(self, database: Database, hub: str, profile: Profile = Profile.OPEN) -> None:
        self._database = database
        self._hub = hub
        kept = REFUSALS_KEPT.under(profile)
        self._log = BoundedLog(database, "refusals", hub, _PUT, _FORGET, kept=kept, waiting=_MOST_WAITING)

    def keep(self, refusal: KeptRefusal) -> None:
        """See ``RefusalStore``."""
        identifier, tracking_id, principal = map(
            spelled, (refusal.identifier, refusal.tracking_id, refusal.principal)
        )  # fmt: skip
        self._log.keep((identifier, tracking_id, refusal.at, principal, json.dumps(refusal.report)))

    async def find(self, tracking_id: str) -> KeptRefusal | None:
        """See ``RefusalStore``."""
        found = await self._read(_FIND, spelled(identifier_of(tracking_id)))
        return found[0] if found else None

    async def newest(self, principal: str | None, limit: int) -> Sequence[KeptRefusal]:
        """See ``RefusalStore``."""
        if principal is None:
            return await self._read(_NEWEST, limit)
        return await self._read(_NEWEST_OF, spelled(principal), limit)

    async def _read(self, query: str, *values: str | int) -> list[KeptRefusal]:
        rows = await self._database.fetch(query, self._hub, *values)
        return [KeptRefusal(meant(id), at, meant(principal), json.loads(report)) for id, at, principal, report in rows]
