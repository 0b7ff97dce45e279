"""The contract of ``RefusalStore``, on SQLite."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.core.errors import HubError
from muster.core.limits import REFUSALS_KEPT
from muster.identity.refusals import KeptRefusal
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.refusals import SqliteRefusalStore
from muster.testing.disk import RecordingDisk


def refusal(number: int, principal: str = "dev1") -> KeptRefusal:
    tracking_id = f"{number:032x}-G:0-TimeStamp:01/15/2027 08:00:00"
    return KeptRefusal(tracking_id, 1_800_000_000.0 + number, principal, {"trackingId": tracking_id, "checks": []})


@pytest.fixture
async def writer(tmp_path: Path) -> AsyncIterator[Writer]:
    writer = Writer(tmp_path / "hub.db", MIGRATIONS, asyncio.get_running_loop(), durable=False)
    yield writer
    await writer.close()


async def settled(writer: Writer) -> None:
    """Wait until what was handed over is written: the second round is for what waited during the first."""
    for _ in range(2):
        await writer.submit(lambda _: None)


async def test_what_was_kept_is_found_after_a_restart(writer: Writer) -> None:
    reader = open_connection(writer.path, readonly=True)
    store = SqliteRefusalStore(writer, reader, "hub")
    for number, principal in enumerate(["dev1", "dev1/mod1", "dev10", "dev1.5", "service (policy)", "dev1"]):
        store.keep(refusal(number, principal))
    await settled(writer)
    again = SqliteRefusalStore(writer, reader, "hub")
    assert await again.find(refusal(2).tracking_id[:32].upper()) == refusal(2, "dev10")
    assert await again.find("f" * 32) is None
    assert [one.tracking_id for one in await again.newest(None, 2)] == [refusal(n).tracking_id for n in (5, 4)]
    assert [one.principal for one in await again.newest("dev1", 10)] == ["dev1", "dev1/mod1", "dev1"]
    assert await again.newest("nobody", 10) == []
    reader.close()


async def test_the_oldest_go_first_and_the_table_stays_bounded(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_connection(writer.path, readonly=True)
    monkeypatch.setattr("muster.stores.sqlite.refusals.REFUSALS_KEPT", REFUSALS_KEPT._replace(open=50))
    store = SqliteRefusalStore(writer, reader, "hub")
    for number in range(200):
        store.keep(refusal(number))
        if number % 20 == 0:
            await settled(writer)
    await settled(writer)
    kept = await store.newest(None, 1000)
    assert [one.at for one in kept] == [refusal(number).at for number in range(199, 149, -1)]
    reader.close()


async def test_a_flood_is_dropped_and_not_queued_without_end(writer: Writer) -> None:
    reader = open_connection(writer.path, readonly=True)
    store = SqliteRefusalStore(writer, reader, "hub")
    for number in range(5000):
        store.keep(refusal(number))
    await settled(writer)
    assert 1 <= len(await store.newest(None, 5000)) <= 300
    reader.close()


async def test_keeping_after_the_end_is_harmless(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "hub.db", MIGRATIONS, asyncio.get_running_loop(), durable=False)
    reader = open_connection(writer.path, readonly=True)
    store = SqliteRefusalStore(writer, reader, "hub")
    await writer.close()
    store.keep(refusal(1))
    assert await store.find(refusal(1).tracking_id) is None
    reader.close()


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
