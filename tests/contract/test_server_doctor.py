"""What `muster doctor` finds in real servers, PostgreSQL and NATS, and what it does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from muster.identity.doctor import Finding
from muster.node.fetch import fetch
from muster.node.nodes import findings_of as node_findings
from muster.sessions.contract import Leased
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.doctor import NatsDoctor, server_findings, stream_findings
from muster.stores.nats.streams import Place
from muster.stores.nats.telemetry import JetStreamLog
from muster.stores.postgres.database import Database
from muster.stores.postgres.doctor import CONNECTIONS, examine, findings_of
from muster.stores.postgres.schema import newest_layout
from muster.stores.postgres.sessions import PostgresLeaseStore
from tests.addresses import loopback
from tests.nats_servers import NatsServer, running
from tests.postgres import PostgresServer, new_database

PATIENCE = 60.0


def told(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    assert all(one.what.endswith(".") and one.remedy for one in findings)
    return sorted((one.level.value, one.name) for one in findings)


# --- PostgreSQL


@pytest.fixture(scope="module")
def durable() -> Any:
    server = PostgresServer(durable=True)
    yield server
    server.remove()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def url(durable: PostgresServer) -> str:
    from muster.stores.postgres.schema import migrate

    name = f"doctor_{time.monotonic_ns()}"

    async def make() -> None:
        connection = await asyncpg.connect(durable.url("postgres"))
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        await migrate(durable.url(name))

    asyncio.new_event_loop().run_until_complete(make())
    return durable.url(name)


async def test_a_good_database_gives_no_findings(url: str) -> None:
    async with opened(url) as database:
        assert told(await examine(database, time.time)) == []


async def test_clocks_that_differ_are_told(url: str) -> None:
    async with opened(url) as database:
        for apart in (-60, 60):
            found = await examine(database, lambda apart=apart: time.time() + apart)
            assert told(found) == [("warning", "database-clock")]
            assert "60 s" in found[0].what or "59 s" in found[0].what


async def test_tables_of_a_newer_version_are_told(url: str) -> None:
    async with opened(url) as database:
        connection = await asyncpg.connect(url)
        await connection.execute("UPDATE alembic_version SET version_num = '9999'")
        await connection.close()
        (found,) = await examine(database, time.time)
        assert (found.name, "9999" in found.what, newest_layout() in found.what) == ("database-newer", True, True)


async def test_connections_must_suffice_for_one_node_more(url: str) -> None:
    async with opened(url) as database:
        leases = PostgresLeaseStore(database)
        for _ in range((200 - 3) // CONNECTIONS - 1):
            await leases.register("n", 300.0, {})
        assert told(await examine(database, time.time)) == []
        await leases.register("n", 300.0, {})
        assert told(await examine(database, time.time)) == [("warning", "database-connections")]
        await leases.close()


async def test_a_database_that_is_away_is_told() -> None:
    server = PostgresServer()
    try:
        async with opened(server.url("postgres")) as database:
            await asyncio.to_thread(server.stop)
            assert told(await examine(database, time.time)) == [("bad", "database-away")]
    finally:
        await asyncio.to_thread(server.remove)


def test_a_database_that_forgets_is_told() -> None:
    """That of the tests has fsync off."""

    async def look(url: str) -> list[Finding]:
        async with opened(url) as database:
            return await examine(database, time.time)

    found = asyncio.new_event_loop().run_until_complete(look(new_database()))
    assert told(found) == [("bad", "database-not-durable")] * 2
    assert [one.what.partition(" ")[0] for one in found] == ["fsync", "full_page_writes"]


GOOD = {
    "version": 150018, "encoding": "UTF8", "fsync": "on", "full_page_writes": "on", "synchronous_commit": "on",
    "standbys": "", "replicas": 0, "autovacuum": "on", "room": 97, "nodes": 3, "layout": newest_layout(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({}, []),
        ({"version": 140009}, [("bad", "database-old")]),
        ({"encoding": "SQL_ASCII"}, [("bad", "database-encoding")]),
        ({"synchronous_commit": "off"}, [("bad", "database-not-durable")]),
        ({"synchronous_commit": "remote_write"}, [("bad", "database-not-durable")]),
        ({"synchronous_commit": "remote_apply"}, []),
        ({"replicas": 1}, [("warning", "database-replica-late")]),
        ({"replicas": 1, "standbys": "ANY 1 (*)"}, []),
        ({"autovacuum": "off"}, [("warning", "database-no-vacuum")]),
    ],
)
def test_what_servers_say_is_judged(wrong: dict[str, Any], found: list[tuple[str, str]]) -> None:
    assert told(list(findings_of({**GOOD, **wrong}, newest_layout()))) == found


# --- NATS


async def examined(urls: Sequence[str]) -> list[tuple[str, str]]:
    connection = await NatsConnection.open(urls)
    try:
        return told(await NatsDoctor(connection, "d", fetch).examine())
    finally:
        await connection.close()


async def test_a_good_cluster_gives_no_findings_and_one_that_lost_a_server_does(tmp_path: Path) -> None:
    """Its servers tell over HTTP that they sync every write; one of them, killed, is seen to be away."""
    with running(tmp_path, 3, "http_port: 8222") as servers:
        connection = await NatsConnection.open(servers.urls)
        log = await JetStreamLog.open(connection, Place("d", "hub"), 2, created_at=0.0)
        doctor = NatsDoctor(connection, "d", fetch)
        found = await doctor.examine()
        async with asyncio.timeout(PATIENCE):
            while told(found):  # replicas of streams that were just made catch up
                assert {one.name for one in found} <= {"stream-replica-behind"}, found
                await asyncio.sleep(0.2)
                found = await doctor.examine()
        await asyncio.to_thread(servers.servers[2].kill)
        async with asyncio.timeout(PATIENCE):
            while ("warning", "stream-replica-behind") not in told(found := await doctor.examine()):
                await asyncio.sleep(0.2)
        await log.close()
        await connection.close()


async def test_one_server_that_does_not_tell_how_it_syncs(tmp_path: Path) -> None:
    with running(tmp_path) as servers:
        assert await examined(servers.urls) == [("notice", "bus-sync-unknown"), ("warning", "bus-few-servers")]


async def test_a_server_that_syncs_late_and_takes_little(tmp_path: Path) -> None:
    address = loopback()
    config = f'listen: "{address}:4222"\nhttp: "{address}:8222"\nmax_payload: 65536\n'
    server = NatsServer(tmp_path, address, f'{config}jetstream {{ store_dir: "{tmp_path}", max_file: 1G }}\n')
    server.start()
    try:
        await asyncio.to_thread(server.wait_for, "Server is ready")
        assert await examined([server.url]) == [
            ("bad", "bus-payload"), ("bad", "bus-syncs-late"), ("warning", "bus-few-servers"),
        ]  # fmt: skip
    finally:
        server.kill()


async def test_a_server_without_jetstream(tmp_path: Path) -> None:
    with running(tmp_path, jetstream=False) as servers:
        assert await examined(servers.urls) == [("bad", "bus-away")]


def stream(name: str, **cluster: Any) -> dict[str, Any]:
    return {"config": {"name": name, "num_replicas": cluster.pop("replicas_wanted", 3)}, "cluster": cluster}


def test_streams_are_judged() -> None:
    good = stream("a", leader="n1", replicas=[{"name": "n2", "current": True}])
    assert list(stream_findings([good], [], clustered=True)) == []
    bad = [
        stream("b", replicas=[]), stream("c", leader="n1", replicas_wanted=1),
        stream("d", leader="n1", replicas=[{"name": "n3", "current": True, "offline": True}]),
    ]  # fmt: skip
    found = list(stream_findings([good, *bad], ["e"], clustered=True))
    assert told(found) == [
        ("bad", "stream-leaderless"), ("bad", "stream-replicas"), ("warning", "stream-replica-behind"),
    ]  # fmt: skip
    texts = {one.name: one.what for one in found}
    assert "e, b" in texts["stream-leaderless"]
    assert ": c." in texts["stream-replicas"]
    assert "d at n3" in texts["stream-replica-behind"]
    assert list(stream_findings([stream("c", replicas_wanted=1)], [], clustered=False)) == []


def test_an_account_that_is_nearly_full() -> None:
    full = {"limits": {"max_storage": 100}, "storage": 81}
    assert told(list(server_findings(3, 1024**2, full))) == [("warning", "bus-full")]
    assert told(list(server_findings(3, 1024**2, {"limits": {"max_storage": -1}, "storage": 81}))) == []


# --- nodes


def test_nodes_that_are_gone_and_versions_that_differ() -> None:
    here, there = Leased("a/1", {"version": "1"}, 0.0, 4.0, {}), Leased("b/2", {"version": "1"}, 0.0, 4.0, {})
    assert told(list(node_findings([here, there]))) == []
    found = list(node_findings([here, there._replace(about={"version": "2"}), Leased("c/3", {}, 0.0, -1.0, {})]))
    assert told(found) == [("notice", "node-versions"), ("warning", "node-gone")]
    assert "c" in found[0].what
    assert "1, 2" in found[1].what
