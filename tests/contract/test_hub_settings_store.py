"""What every ``HubSettingsStore`` promises, on each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_database import Opener, opener_of, postgres_opener

from muster.core.settings_store import HubSettingsStore
from muster.stores.postgres.settings import PostgresHubSettingsStore
from muster.stores.sqlite.settings import SqliteHubSettingsStore
from tests.postgres import emptied_database


def _sqlite(directory: Path) -> Opener[HubSettingsStore]:
    return opener_of(directory, SqliteHubSettingsStore)


def _postgres(_: Path) -> Opener[HubSettingsStore]:
    return postgres_opener(emptied_database(), PostgresHubSettingsStore)


@pytest.fixture(params=[_sqlite, _postgres], ids=["sqlite", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[HubSettingsStore]:
    made: Opener[HubSettingsStore] = request.param(tmp_path)
    return made


async def test_settings_are_kept_over_reopening_and_replaced_one_by_one(opener: Opener[HubSettingsStore]) -> None:
    async with opener() as store:
        assert await store.get_setting("id-scope") is None
        await store.put_settings({"id-scope": b"0ne00000001", "empty": b"", "key": bytes(range(256))})
        await store.put_settings({"key": b"second"})
    async with opener() as store:
        assert await store.get_setting("id-scope") == b"0ne00000001"
        assert await store.get_setting("empty") == b""
        assert await store.get_setting("key") == b"second"
        assert await store.get_setting("ID-SCOPE") is None


async def test_all_of_a_call_is_written_or_none(opener: Opener[HubSettingsStore]) -> None:
    async with opener() as store:
        with pytest.raises(Exception, match=r".+"):
            await store.put_settings({"first": b"1", "second": object()})  # type: ignore[dict-item]
        assert await store.get_setting("first") is None
