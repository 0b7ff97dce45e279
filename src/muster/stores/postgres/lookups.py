"""Reading single rows of devices and modules: those that are asked for while a statement runs share the next one.

After a restart of a node thousands of devices connect at once, and each needs three rows. One by one each of them would
be an exchange with the server; so it takes a few for a hundred of them, and no longer for one alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import asyncpg

from muster.identity.model import IdentityKey
from muster.stores.postgres.database import Database

MOST_TOGETHER = 256
"""Rows that one statement looks for."""

T = TypeVar("T")
_Place = tuple[str, str, str]


class Lookups(Generic[T]):
    """Point reads of ``table``, which has the key (hub, device_id, module_id)."""

    def __init__(self, database: Database, table: str, columns: str, make: Callable[[asyncpg.Record], T]) -> None:
        """``make`` is given a row with the ``columns``."""
        self._database = database
        self._make = make
        # Constants of the stores; every value is bound. LIMIT has the server look up row by row, whatever it believes
        # of the sizes of tables that were empty a moment ago.
        self._one = f"SELECT {columns} FROM {table} WHERE hub = $1 AND device_id = $2 AND module_id = $3"  # noqa: S608
        self._many = (
            f"SELECT found.* FROM unnest($1::text[], $2::text[], $3::text[]) AS asked (hub, device_id, module_id) "  # noqa: S608
            f"LEFT JOIN LATERAL (SELECT {columns} FROM {table} AS kept WHERE kept.hub = asked.hub "
            "AND kept.device_id = asked.device_id AND kept.module_id = asked.module_id LIMIT 1) AS found ON true"
        )
        self._asked: dict[_Place, list[asyncio.Future[T | None]]] = {}
        self._task: asyncio.Task[None] | None = None

    async def find(self, hub: str, key: IdentityKey) -> T | None:
        """The row of an identity as it is now or later, ``None`` without one. Raises ``HubError`` as the database."""
        device_id, module_id = key
        if (
            not device_id.isascii()
            or "\0" in device_id
            or (module_id and ("\0" in module_id or not module_id.isascii()))
        ):
            return None  # no id; and what the server cannot read would fail all that is asked for with it
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T | None] = loop.create_future()
        self._asked.setdefault((hub, device_id, module_id or ""), []).append(future)
        if self._task is None:
            self._task = loop.create_task(self._run(), name="lookups")
        return await future

    async def _run(self) -> None:
        await asyncio.sleep(0)  # what this round of the loop brings goes together
        while self._asked:
            places = list(self._asked)[:MOST_TOGETHER]
            waiting = [self._asked.pop(place) for place in places]
            try:
                found = await self._find(places)
            except Exception as error:
                for future in (future for futures in waiting for future in futures if not future.done()):
                    future.set_exception(error)
                continue
            for futures, row in zip(waiting, found, strict=True):
                for future in futures:
                    if not future.done():
                        future.set_result(row)
        self._task = None

    async def _find(self, places: list[_Place]) -> list[T | None]:
        if len(places) == 1:
            row = await self._database.row(self._one, *places[0])
            return [None if row is None else self._make(row)]
        rows = await self._database.fetch(self._many, *zip(*places, strict=True))
        return [None if row[0] is None else self._make(row) for row in rows]
