"""What every ``HubSettingsStore`` promises, on each of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from muster.core.settings_store import HubSettingsStore
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.settings import SqliteHubSettingsStore

Opener = Callable[[], contextlib.AbstractAsyncContextManager[HubSettingsStore]]


def _sqlite(directory: Path) -> Opener:
    @contextlib.asynccontextmanager
    async def opener() -> AsyncIterator[HubSettingsStore]:
        path = directory / "hub.db"
        writer = Writer(path, MIGRATIONS, asyncio.get_running_loop(), durable=False)
        reader = open_connection(path, readonly=True)
        try:
            yield SqliteHubSettingsStore(writer, reader)
        finally:
            reader.close()
            await writer.close()

    return opener


@pytest.fixture(params=[_sqlite], ids=["sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    made: Opener = request.param(tmp_path)
    return made


async def test_settings_are_kept_over_reopening_and_replaced_one_by_one(opener: Opener) -> None:
    async with opener() as store:
        assert await store.get_setting("id-scope") is None
        await store.put_settings({"id-scope": b"0ne00000001", "empty": b"", "key": bytes(range(256))})
        await store.put_settings({"key": b"second"})
    async with opener() as store:
        assert await store.get_setting("id-scope") == b"0ne00000001"
        assert await store.get_setting("empty") == b""
        assert await store.get_setting("key") == b"second"
        assert await store.get_setting("ID-SCOPE") is None


async def test_all_of_a_call_is_written_or_none(opener: Opener) -> None:
    async with opener() as store:
        with pytest.raises(Exception, match=r".+"):
            await store.put_settings({"first": b"1", "second": object()})  # type: ignore[dict-item]
        assert await store.get_setting("first") is None
