"""Which node has whose session, in PostgreSQL, and which nodes are alive.

A row of ``sessions`` stays when its session ends: it tells since when, and its epochs go on. What one round of the loop
claims or releases is one statement; a storm of connects is a few of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg

from muster.core.errors import HubError
from muster.identity.model import IdentityKey
from muster.sessions.contract import Claimed, Leased, Present
from muster.stores.postgres.database import Database, Step, told_as_refusal

_PLACE = "/sessions"
_AT_ONCE = 500
_CLAIM = """
INSERT INTO sessions AS s (hub, device_id, module_id, generation_id, epoch, lease, holders, connected, changed)
SELECT hub, device_id, module_id, generation_id, 1, lease, ARRAY[lease], true, at
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::float8[])
    AS w (hub, device_id, module_id, generation_id, lease, at)
ON CONFLICT (hub, device_id, module_id) DO UPDATE SET
    generation_id = excluded.generation_id, epoch = s.epoch + 1, lease = excluded.lease,
    holders = array_remove(s.holders, excluded.lease) || excluded.lease, connected = true, changed = excluded.changed
RETURNING hub, device_id, module_id, epoch, holders"""
# A subquery that locks is run for each row of the outer one, in their order. A join would be the planner's to turn
# around, and then reads the sessions of all devices for each statement.
_LOCK = """
SELECT FROM unnest($1::text[], $2::text[], $3::text[]) AS w (hub, device_id, module_id) CROSS JOIN LATERAL (
    SELECT FROM sessions s WHERE s.hub = w.hub AND s.device_id = w.device_id AND s.module_id = w.module_id FOR UPDATE
) AS found"""
_ALONE = """
UPDATE sessions s SET holders = ARRAY[w.lease]
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) AS w (hub, device_id, module_id, epoch, lease)
WHERE s.hub = w.hub AND s.device_id = w.device_id AND s.module_id = w.module_id AND s.epoch = w.epoch
    AND s.lease = w.lease AND s.connected"""
_RELEASE = """
UPDATE sessions s SET holders = array_remove(s.holders, w.lease), connected = false, changed = w.at
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::float8[])
    AS w (hub, device_id, module_id, epoch, lease, at)
WHERE s.hub = w.hub AND s.device_id = w.device_id AND s.module_id = w.module_id AND s.epoch = w.epoch
    AND s.lease = w.lease"""
_FIND = """
SELECT s.lease FROM sessions s JOIN nodes USING (lease)
WHERE s.hub = $1 AND s.device_id = $2 AND s.module_id = $3 AND s.connected"""
_PRESENT = """
SELECT s.device_id, s.module_id, s.generation_id, s.connected AND n.lease IS NOT NULL AS connected, s.changed
FROM unnest($2::text[], $3::text[]) AS w (device_id, module_id)
JOIN sessions s ON s.hub = $1 AND s.device_id = w.device_id AND s.module_id = w.module_id
LEFT JOIN nodes n USING (lease)
WHERE s.generation_id <> ''"""
_FORGET = """
UPDATE sessions SET generation_id = '' WHERE hub = $1 AND device_id = $2 AND module_id = $3 AND generation_id = $4
    AND NOT connected"""


class _Call(NamedTuple):
    """``values`` are those of the statement ``query``, the key first."""

    query: str
    values: tuple[Any, ...]
    done: asyncio.Future[Any]


class PostgresSessionDirectory:
    """``sessions.contract.SessionDirectory`` on a database of ``migrations``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Call] = []
        self._task: asyncio.Task[None] | None = None

    def claim(self, hub: str, key: IdentityKey, generation_id: str, lease: str, at: float) -> asyncio.Future[Claimed]:
        """See ``SessionDirectory``."""
        return self._put(_CLAIM, hub, key, generation_id, lease, at)

    def alone(self, hub: str, key: IdentityKey, epoch: int, lease: str) -> asyncio.Future[None]:
        """See ``SessionDirectory``."""
        return self._put(_ALONE, hub, key, epoch, lease)

    def release(self, hub: str, key: IdentityKey, epoch: int, lease: str, at: float) -> asyncio.Future[None]:
        """See ``SessionDirectory``."""
        return self._put(_RELEASE, hub, key, epoch, lease, at)

    async def find(self, hub: str, key: IdentityKey) -> str | None:
        """See ``SessionDirectory``."""
        lease: str | None = await self._database.value(_FIND, hub, key.device_id, key.module_id or "")
        return lease

    async def present(self, hub: str, keys: Sequence[IdentityKey]) -> Sequence[Present | None]:
        """See ``SessionDirectory``."""
        devices, modules = [key.device_id for key in keys], [key.module_id or "" for key in keys]
        rows = await self._database.fetch(_PRESENT, hub, devices, modules)
        found = {(row["device_id"], row["module_id"]): Present(row["connected"], row["changed"]) for row in rows}
        return [found.get(place) for place in zip(devices, modules, strict=True)]

    async def forget(self, hub: str, key: IdentityKey, generation_id: str) -> None:
        """See ``SessionDirectory``."""

        async def work(step: Step) -> None:
            await step.write(_FORGET, hub, key.device_id, key.module_id or "", generation_id)

        await self._database.submit(_PLACE, work)

    # --- within

    def _put(self, query: str, hub: str, key: IdentityKey, *values: Any) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(query, (hub, key.device_id, key.module_id or "", *values), done))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        return done

    async def _run(self) -> None:
        await asyncio.sleep(0)  # what this round of the loop brings goes together
        while self._waiting:
            await self._together(self._take())
        self._task = None

    def _take(self) -> list[_Call]:
        """Calls of one kind, at most one for each identity, and none before an earlier one for the same."""
        query, passed = self._waiting[0].query, set[tuple[Any, ...]]()
        some: list[_Call] = []
        left: list[_Call] = []
        for call in self._waiting:
            place = call.values[:3]
            fits = call.query is query and place not in passed and len(some) < _AT_ONCE
            (some if fits else left).append(call)
            passed.add(place)
        self._waiting = left
        return some

    async def _together(self, calls: list[_Call]) -> None:
        query = calls[0].query
        calls = sorted(calls, key=lambda call: call.values[:3])  # rows are locked in one order on all nodes
        columns = [list(column) for column in zip(*(call.values for call in calls), strict=True)]

        async def work(step: Step) -> dict[tuple[str, str, str], Claimed]:
            if query is _CLAIM:
                return {
                    (hub, device_id, module_id): Claimed(epoch, holders)
                    for hub, device_id, module_id, epoch, holders in await step.returning(query, *columns)
                }
            await step.fetch(_LOCK, *columns[:3])
            await step.write(query, *columns)
            return {}

        try:
            claimed = await self._database.submit(_PLACE, work)
        except HubError as error:
            for call in calls:
                if not call.done.done():
                    call.done.set_exception(HubError(error.row, error.message))
            return
        for call in calls:
            if not call.done.done():
                call.done.set_result(claimed.get(call.values[:3]))


_REGISTER = """
INSERT INTO nodes (lease, node, until, about)
SELECT $1 || '/' || nextval('leases'), $1, clock_timestamp() + make_interval(secs => $2), $3::text::jsonb
RETURNING lease"""
_RENEW = """
WITH renewed AS (
    UPDATE nodes SET until = clock_timestamp() + make_interval(secs => $2), devices = $3::text::jsonb WHERE lease = $1
    RETURNING lease
)
SELECT lease FROM renewed UNION ALL SELECT lease FROM nodes WHERE lease <> $1 AND until > clock_timestamp()"""
_EXPIRE = "DELETE FROM nodes WHERE lease = $1 AND until <= clock_timestamp()"
_LEFT = "SELECT extract(epoch FROM until - clock_timestamp())::float8 FROM nodes WHERE lease = $1"
_GIVE_UP = "DELETE FROM nodes WHERE lease = $1"
_DEVICES = "SELECT coalesce(sum((devices ->> $1)::bigint), 0)::bigint FROM nodes WHERE until > clock_timestamp()"
_NODES = """
SELECT lease, about::text, extract(epoch FROM since)::float8 AS since,
    extract(epoch FROM until - clock_timestamp())::float8 AS "left", devices::text
FROM nodes ORDER BY since, lease"""
_SAY_WHETHER_ON_BUS = "UPDATE nodes SET on_bus = $2 WHERE lease = $1"
_OTHERS_ON_BUS = "SELECT EXISTS (SELECT FROM nodes WHERE lease <> $1 AND on_bus AND until > clock_timestamp())"
_SOON = 0.05


class PostgresLeaseStore:
    """``sessions.contract.LeaseStore`` on a database of ``migrations``, on a connection of its own: a renewal must not
    wait for other work, nor for who asks what nodes there are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()
        self._on_bus = True

    async def register(self, node: str, seconds: float, about: Mapping[str, Any]) -> str:
        """See ``LeaseStore``."""
        lease: str = (await self._fetch(_REGISTER, node, seconds, json.dumps(dict(about))))[0]["lease"]
        self._on_bus = True
        return lease

    async def renew(self, lease: str, seconds: float, devices: Mapping[str, int]) -> Sequence[str] | None:
        """See ``LeaseStore``."""
        rows = await self._fetch(_RENEW, lease, seconds, json.dumps(dict(devices)))
        alive = {row["lease"] for row in rows}
        return sorted(alive - {lease}) if lease in alive else None

    async def cut_off(self, lease: str, *, on_bus: bool) -> bool:
        """Whether others are on the bus, and the node of ``lease`` is not. It says so itself; raises ``HubError``."""
        if on_bus != self._on_bus:
            await self._fetch(_SAY_WHETHER_ON_BUS, lease, on_bus)
            self._on_bus = on_bus
        return not on_bus and bool((await self._fetch(_OTHERS_ON_BUS, lease))[0][0])

    async def expire(self, lease: str) -> float:
        """See ``LeaseStore``."""
        await self._fetch(_EXPIRE, lease)
        rows = await self._fetch(_LEFT, lease)
        return max(_SOON, rows[0][0]) if rows else 0.0

    async def give_up(self, lease: str) -> None:
        """See ``LeaseStore``."""
        await self._fetch(_GIVE_UP, lease)

    async def devices(self, hub: str) -> int:
        """See ``LeaseStore``."""
        found: int = await self._database.value(_DEVICES, hub)
        return found

    async def nodes(self) -> Sequence[Leased]:
        """See ``LeaseStore``."""
        return [
            Leased(row["lease"], json.loads(row["about"]), row["since"], row["left"], json.loads(row["devices"]))
            for row in await self._database.fetch(_NODES)
        ]

    async def close(self) -> None:
        """Give up the connection."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.terminate()

    async def _fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        async with self._turn:
            with told_as_refusal():
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._database.connect()
                try:
                    return await self._connection.fetch(query, *values)
                except BaseException:  # also when it took too long: what becomes of it is not waited for
                    await self.close()
                    raise
