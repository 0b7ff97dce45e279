"""What every ``HubSettingsStore`` promises, on each of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.bus import Bus, LocalBus
from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.core.settings_store import HubSettingsStore
from muster.core.shared_settings import SharedSettings
from muster.stores.postgres.database import Database
from muster.stores.postgres.settings import PostgresHubSettingsStore
from muster.stores.sqlite.settings import SqliteHubSettingsStore
from tests.node_buses import Nodes
from tests.postgres import emptied_database


def _sqlite(directory: Path) -> Opener[HubSettingsStore]:
    return opener_of(directory, SqliteHubSettingsStore)


def _postgres(_: Path) -> Opener[HubSettingsStore]:
    return postgres_opener(emptied_database(), _shared)


def _shared(database: Database, bus: Bus | None = None) -> SharedSettings:
    return SharedSettings(PostgresHubSettingsStore(database), bus or LocalBus())


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
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


async def test_of_two_nodes_that_put_a_followed_value_at_once_one_is_refused(settings_url: str) -> None:
    databases = [Database(settings_url) for _ in range(2)]
    nodes = Nodes()
    stores = []
    reloads: list[int] = []
    for at, database in enumerate(databases):
        await database.open()
        store = _shared(database, nodes.bus(str(at)))
        assert await store.get_setting("hub/policies") is None

        async def reload(at: int = at, store: SharedSettings = store) -> None:
            await store.get_setting("hub/policies")
            reloads.append(at)

        store.follow("hub/policies", reload)
        stores.append(store)
    for number in range(5):
        value = b"%d" % number
        puts = (store.put_settings({"hub/policies": value, f"own{at}": b"x"}) for at, store in enumerate(stores))
        outcomes = await asyncio.gather(*puts, return_exceptions=True)
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert len(refused) == 1
        assert isinstance(refused[0], HubError)
        assert refused[0].row is PRECONDITION_FAILED
        assert await stores[outcomes.index(refused[0])].get_setting("hub/policies") == value
        for store in stores:
            await store.settled()
    assert reloads
    for store, database in zip(stores, databases, strict=True):
        store.close()
        await database.close()


@pytest.fixture
def settings_url() -> str:
    return emptied_database()
