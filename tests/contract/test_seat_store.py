"""Where readers of partitions have their seats: one suite for PostgreSQL, the keeper, and the store of the tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from muster.sessions.contract import SeatStore
from muster.stores.keeper.link import Link
from muster.stores.keeper.sessions import KeeperSeats
from muster.stores.postgres.database import Database
from muster.stores.postgres.seats import PostgresSeatStore
from tests.keepers import KeeperHere
from tests.postgres import new_database
from tests.session_directory import DirectoryHere

HUB = "hub"
Two = tuple[SeatStore, SeatStore]
"""What two nodes have of a store."""


@asynccontextmanager
async def _in_memory(_: Path) -> AsyncIterator[Two]:
    one = DirectoryHere()
    yield one, one


@asynccontextmanager
async def _postgres(_: Path) -> AsyncIterator[Two]:
    url = await asyncio.to_thread(new_database)
    databases = Database(url), Database(url)
    for database in databases:
        await database.open()
    yield PostgresSeatStore(databases[0]), PostgresSeatStore(databases[1])
    for database in databases:
        await database.close()


@asynccontextmanager
async def _keeper(directory: Path) -> AsyncIterator[Two]:
    async with KeeperHere(directory):
        links = [Link(directory, name) for name in ("here", "there")]
        for link in links:
            await link.open()
        yield KeeperSeats(links[0]), KeeperSeats(links[1])
        for link in links:
            await link.close()


@pytest.fixture(params=[_in_memory, _postgres, _keeper])
async def stores(request: Any, tmp_path: Path) -> AsyncIterator[Two]:
    async with request.param(tmp_path) as two:
        yield two


async def test_a_swap_is_done_by_who_knows_what_is_there(stores: Two) -> None:
    here, there = stores
    assert await here.swap(HUB, "g/0", "x", "y") == ""
    assert await here.swap(HUB, "g/0", "", "one é") is None
    assert await there.swap(HUB, "g/0", "", "two") == "one é"
    assert [await there.swap(HUB, "g/1", "", "two"), await there.swap("other", "g/0", "", "three")] == [None, None]
    assert await there.swap(HUB, "g/0", "one é", "") is None
    assert await here.swap(HUB, "g/0", "one é", "late") == ""
    assert await here.swap(HUB, "g/0", "", "again") is None
    assert await here.swap("other", "g/0", "again", "no") == "three"


async def test_of_swaps_at_once_one_is_done(stores: Two) -> None:
    text = ""
    for _ in range(10):
        calls = [(store, f"{text}{at}{number}") for number in range(10) for at, store in enumerate(stores)]
        found = await asyncio.gather(*(store.swap(HUB, "g/0", text, new) for store, new in calls))
        assert found.count(None) == 1
        text = calls[found.index(None)][1]
        assert set(found) == {None, text}
