"""A store with twins to be queried, and what it answers as plain Python."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import asyncpg

from muster.dialect.twin_bodies import twin_body
from muster.identity.contract import Edit, IdentityStore
from muster.identity.model import NEVER, Authentication, AuthenticationType, Identity, IdentityKey, Status
from muster.identity.registry import Activity
from muster.messages.queue_contract import New, QueueStore
from muster.stores.postgres.database import Database
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.queries import PostgresQueryStore
from muster.stores.postgres.queues import PostgresQueueStore
from muster.stores.postgres.twins import PostgresTwinStore
from muster.stores.sql.property_indexes import PREFIX
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.queries import SqliteQueryStore
from muster.stores.sqlite.queues import SqliteQueueStore
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.contract import TwinStore
from muster.twins.document import Content, Twin, patch_twin, report
from muster.twins.query.service import Queries

NOW = 1_700_000_000.0


@dataclass
class Connected:
    """A ``Presence`` that is told who is connected."""

    keys: set[IdentityKey] = field(default_factory=set)

    shared = False

    def activity(self, key: IdentityKey) -> tuple[bool, float, float]:
        return (True, NEVER, NOW) if key in self.keys else (False, NEVER, NEVER)

    async def activities(self, keys: Sequence[IdentityKey]) -> list[tuple[bool, float, float]]:
        return [self.activity(key) for key in keys]

    async def connected_devices(self) -> int:
        return len(self.keys)


@dataclass
class QueryHub:
    name: str
    identities: IdentityStore
    twins: TwinStore
    queues: QueueStore
    store: SqliteQueryStore | PostgresQueryStore
    presence: Connected

    def __post_init__(self) -> None:
        self.queries = Queries(self.name, self.store)

    async def add(
        self, device_id: str, module_id: str | None = None, *, tags: Content | None = None,
        desired: Content | None = None, reported: Content | None = None, **identity: Any,
    ) -> None:  # fmt: skip
        """Register an identity and give its twin content."""
        key = IdentityKey(device_id, module_id)
        await self.put(Identity(key=key, **({"generation_id": "1", "version": 1, "authentication": SAS} | identity)))
        await self.change(key, tags=tags, desired=desired, reported=reported)

    async def put(self, identity: Identity) -> None:
        (outcome,) = await self.identities.edit(self.name, [Edit(identity.key, lambda _: identity)])
        assert isinstance(outcome, Identity), outcome

    async def change(
        self, key: IdentityKey, *, tags: Content | None = None, desired: Content | None = None,
        reported: Content | None = None,
    ) -> None:  # fmt: skip
        def changed(twin: Twin) -> Twin:
            return report(patch_twin(twin, tags or {}, desired or {}, NOW), reported or {}, NOW)

        await self.twins.edit(self.name, key, changed, lambda _: None)

    async def wait(self, queue: str, count: int) -> None:
        """Put ``count`` messages into ``queue``."""
        for _ in range(count):
            await self.queues.put(self.name, queue, New(NOW, NOW + 60, "", b""), lambda _: None)

    async def drop(self, device_id: str) -> None:
        assert await self.identities.edit(self.name, [Edit(IdentityKey(device_id), lambda _: None)]) == [None]

    async def bodies(self, modules: bool = False) -> list[dict[str, Any]]:
        """The twins of all devices, or of all their modules, as REST answers them, by id."""
        devices = await self.identities.devices(self.name, 1000)
        found = (
            [m for d in devices for m in await self.identities.modules(self.name, d.device_id)] if modules else devices
        )
        bodies = []
        for identity in found:
            twin = await self.twins.get(self.name, identity.key)
            assert twin is not None
            activity = Activity(*self.presence.activity(identity.key))
            bodies.append(json.loads(twin_body(identity, twin, activity)))
        return bodies

    async def rows(self, text: str, size: int | None = None) -> list[Any]:
        """The whole result, page by page."""
        return [row for page in await self.pages(text, size) for row in page]

    async def pages(self, text: str, size: int | None = None) -> list[list[Any]]:
        pages: list[list[Any]] = []
        continuation: str | None = None
        while True:
            answer = await self.queries.page(text, size, continuation)
            pages.append([json.loads(row) for row in answer.rows])
            continuation = answer.continuation
            if continuation is None:
                return pages

    async def ids(self, condition: str, size: int | None = None) -> str:
        """The devices that a condition selects."""
        rows = await self.rows(f"SELECT deviceId FROM devices WHERE {condition}", size)
        return " ".join(row["deviceId"] for row in rows)


SAS = Authentication()
X509 = Authentication(AuthenticationType.SELF_SIGNED, primary_thumbprint="AB" * 20)
SCOPE = "ms-azure-iot-edge://e-1"


@dataclass
class SqlitePlace:
    """A ``hub.db``; hubs that are opened one after the other find what was there."""

    path: Path

    @contextlib.asynccontextmanager
    async def open(self, indexed: Sequence[str] = (), slice_size: int = 3) -> AsyncIterator[QueryHub]:
        """A hub; slices are so small that results span several."""
        writer = Writer(self.path, MIGRATIONS, asyncio.get_running_loop(), durable=False)
        reader = open_connection(self.path, readonly=True)
        presence = Connected()
        store = SqliteQueryStore(writer, presence, indexed, slice_size=slice_size)
        await store.prepare()
        identities, twins = SqliteIdentityStore(writer, reader), SqliteTwinStore(writer, reader)
        try:
            yield QueryHub("hub", identities, twins, SqliteQueueStore(writer, reader), store, presence)
        finally:
            await store.close()
            reader.close()
            await writer.close()

    async def indexes(self) -> set[str]:
        """The names of the indexes on properties."""
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")
                    if name.startswith(PREFIX)}  # fmt: skip
        finally:
            connection.close()


@dataclass
class PostgresPlace:
    """A hub of a database; the others that are there are not seen."""

    url: str
    name: str

    @contextlib.asynccontextmanager
    async def open(self, indexed: Sequence[str] = (), slice_size: int = 3) -> AsyncIterator[QueryHub]:
        """As ``SqlitePlace.open``."""
        database = Database(self.url)
        await database.open()
        presence = Connected()
        store = PostgresQueryStore(database, presence, indexed, slice_size=slice_size)
        await store.prepare()
        identities, twins = PostgresIdentityStore(database), PostgresTwinStore(database)
        try:
            yield QueryHub(self.name, identities, twins, PostgresQueueStore(database), store, presence)
        finally:
            await store.close()
            await database.close()

    async def indexes(self) -> set[str]:
        """The names of the indexes on properties, that of their partitions left out."""
        connection = await asyncpg.connect(self.url)
        try:
            rows = await connection.fetch("SELECT indexname FROM pg_indexes WHERE starts_with(indexname, $1)", PREFIX)
            return {row[0].rpartition("_")[0] for row in rows}
        finally:
            await connection.close()


Place = SqlitePlace | PostgresPlace


async def populate(hub: QueryHub) -> None:
    """The twins that the table of queries is about: devices ``a`` to ``g``, and modules of ``a`` and ``e``."""
    await hub.add(
        "a",
        tags={"building": "43", "floor": 1, "active": True, "owner": {"name": "ann", "first-name": "Ann"}, "mixed": 1},
        desired={"interval": 10, "mode": "fast", "limits": {"low": -5, "high": 99.5}},
        reported={
            "battery": 80,
            "firmware": {"version": "1.2.0"},
            "list": [1, "two", True, {"x": "y"}],
            "mode": "fast",
        },
    )
    await hub.add(
        "b",
        tags={"building": "43", "floor": 2, "active": False, "mixed": "1"},
        desired={"interval": 20, "mode": "slow"},
        reported={"battery": 15, "firmware": {"version": "1.10.0"}, "lastDesiredVersion": 2, "mode": "fast"},
    )
    await hub.add("c", tags={"building": "44", "floor": "2", "group": {"name": "g"}, "mixed": True},
                  reported={"battery": "low", "list": []})  # fmt: skip
    await hub.add("d", status=Status.DISABLED, status_reason="lost", status_updated=NOW,
                  desired={"interval": 10.0})  # fmt: skip
    await hub.add(
        "e", iot_edge=True, device_scope=SCOPE, version=7,
        tags={"building": "Öst", "quoted": "it's \"x\\y\"", "odd'key": 5, 'odd"key': 6, "emoji": "a😀b", "nul": "x\0y"},
    )  # fmt: skip
    await hub.add("f", device_scope=SCOPE, parent_scopes=(SCOPE,), authentication=X509,
                  tags={"floor": 0, "empty": "", "word": "NaN", "numeric": " 1e2 ", "big": 2**52 - 1})  # fmt: skip
    await hub.add("g", tags={"floor": -1.5, "building": "43'; DROP TABLE twins; --"})
    await hub.add("a", "m1", tags={"building": "43"}, reported={"state": "on"})
    await hub.add("e", "$edgeAgent", reported={"lastDesiredVersion": 1, "lastDesiredStatus": {"code": 200}})
    await hub.add("e", "$edgeHub", managed_by="IotEdge", reported={"state": "off"})
    hub.presence.keys |= {IdentityKey("a"), IdentityKey("e", "$edgeAgent")}
