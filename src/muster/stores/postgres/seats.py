"""Who reads which partition on which node, in PostgreSQL: a row for each partition and consumer group."""

from __future__ import annotations

from muster.stores.postgres.database import Database, Step

_PUT_FIRST = """
INSERT INTO seats AS s (hub, place, seats) VALUES ($1, $2, $3)
ON CONFLICT (hub, place) DO UPDATE SET seats = excluded.seats WHERE s.seats = ''"""
_PUT = "UPDATE seats SET seats = $3 WHERE hub = $1 AND place = $2 AND seats = $4"
_FOUND = "SELECT seats FROM seats WHERE hub = $1 AND place = $2"


class PostgresSeatStore:
    """``sessions.contract.SeatStore`` on a database of ``migrations``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def swap(self, hub: str, place: str, old: str, new: str) -> str | None:
        """See ``SeatStore``."""

        async def work(step: Step) -> str | None:
            put = step.write(_PUT, hub, place, new, old) if old else step.write(_PUT_FIRST, hub, place, new)
            return None if await put else await step.value(_FOUND, hub, place) or ""

        return await self._database.submit(f"/seats/{hub}/{place}", work)
