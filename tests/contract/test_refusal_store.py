"""What every ``RefusalStore`` promises, on each of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import HubError
from muster.core.limits import REFUSALS_KEPT
from muster.identity.refusals import KeptRefusal, RefusalStore
from muster.stores.postgres.database import Database, Step
from muster.stores.postgres.refusals import PostgresRefusalStore
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.refusals import SqliteRefusalStore
from muster.testing.disk import RecordingDisk
from tests.postgres import emptied_database


def refusal(number: int, principal: str = "dev1") -> KeptRefusal:
    tracking_id = f"{number:032x}-G:0-TimeStamp:01/15/2027 08:00:00"
    return KeptRefusal(tracking_id, 1_800_000_000.0 + number, principal, {"trackingId": tracking_id, "checks": []})


class Bench(NamedTuple):
    """``settled`` waits until what was handed over is written."""

    store: RefusalStore
    settled: Callable[[], Awaitable[None]]


def _sqlite(directory: Path) -> Opener[Bench]:
    return opener_of(
        directory, lambda writer, reader: Bench(SqliteRefusalStore(writer, reader, "hub"), partial(settled, writer))
    )


def _postgres(_: Path) -> Opener[Bench]:
    return postgres_opener(
        emptied_database(),
        lambda database: Bench(PostgresRefusalStore(database, "hub"), partial(lanes_settled, database)),
    )


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Bench]:
    made: Opener[Bench] = request.param(tmp_path)
    return made


async def settled(writer: Writer) -> None:
    """The second round is for what waited during the first."""
    for _ in range(2):
        await writer.submit(lambda _: None)


async def lanes_settled(database: Database) -> None:
    """As ``settled``."""

    async def nothing(_: Step) -> None:
        return None

    for _ in range(2):
        await asyncio.gather(*(database.submit(str(place), nothing) for place in range(30)))


async def test_what_was_kept_is_found_after_a_restart(opener: Opener[Bench]) -> None:
    async with opener() as (store, settled):
        for number, principal in enumerate(["dev1", "dev1/mod1", "dev10", "dev1.5", "service (policy)", "dev1", "\0"]):
            store.keep(refusal(number, principal))
        await settled()
    async with opener() as (again, _):
        assert await again.find(refusal(2).tracking_id[:32].upper()) == refusal(2, "dev10")
        assert await again.find("f" * 32) is None
        assert [one.tracking_id for one in await again.newest(None, 2)] == [refusal(n).tracking_id for n in (6, 5)]
        assert [one.principal for one in await again.newest("dev1", 10)] == ["dev1", "dev1/mod1", "dev1"]
        assert await again.newest("nobody", 10) == []
        assert await again.newest("\0", 10) == [refusal(6, "\0")]


async def test_a_refusal_is_kept_once(opener: Opener[Bench]) -> None:
    async with opener() as (store, settled):
        for number in (1, 2, 1):
            store.keep(refusal(number))
            await settled()
        assert await store.newest(None, 10) == [refusal(2), refusal(1)]


async def test_the_oldest_go_first_and_the_table_stays_bounded(
    opener: Opener[Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("sqlite", "postgres"):
        monkeypatch.setattr(f"muster.stores.{kind}.refusals.REFUSALS_KEPT", REFUSALS_KEPT._replace(open=50))
    async with opener() as (store, settled):
        for number in range(200):
            store.keep(refusal(number))
            if number % 20 == 0:
                await settled()
        await settled()
        kept = await store.newest(None, 1000)
        assert [one.at for one in kept] == [refusal(number).at for number in range(199, 149, -1)]


async def test_a_flood_is_dropped_and_not_queued_without_end(opener: Opener[Bench]) -> None:
    async with opener() as (store, settled):
        for number in range(5000):
            store.keep(refusal(number))
        await settled()
        assert 1 <= len(await store.newest(None, 5000)) <= 300


async def test_keeping_after_the_end_is_harmless(opener: Opener[Bench]) -> None:
    async with opener() as (store, _):
        pass
    store.keep(refusal(1))
    async with opener() as (store, _):
        assert await store.find(refusal(1).tracking_id) is None


async def test_a_full_disk_is_told_once_for_as_long_as_it_lasts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordingDisk("full-for-refusals") as disk:
        loop = asyncio.get_running_loop()
        writer = Writer(tmp_path / "hub.db", MIGRATIONS, loop, durable=False, vfs=disk.name)
        reader = open_connection(writer.path, readonly=True, vfs=disk.name)
        store = SqliteRefusalStore(writer, reader, "hub")
        for number, full in enumerate((True, True, True, False, False, True, False)):
            disk.full = full
            store.keep(refusal(number))
            with contextlib.suppress(HubError):  # one transaction for both
                await settled(writer)
        assert caplog.text.count("refusals cannot be kept") == 2
        assert [one.at for one in await store.newest(None, 10)] == [refusal(n).at for n in (6, 4, 3)]
        reader.close()
        await writer.close()
