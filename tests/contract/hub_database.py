"""What the contract tests of the stores of a hub run on: a ``hub.db``, one that is shared, and a PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import apsw

from muster.stores.postgres.database import Database, Step
from muster.stores.postgres.storage import PostgresStorage
from muster.stores.sqlite.database import Writer, open_connection, touch
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.storage import SqliteStorage
from muster.stores.sqlite.turns import Turns

Store = TypeVar("Store")
Opener = Callable[[], contextlib.AbstractAsyncContextManager[Store]]
"""Opens the store anew, on what was kept."""
Storage = SqliteStorage | PostgresStorage
_SHARED = "shared"


def opener_of(directory: Path, make: Callable[[Writer, apsw.Connection], Store]) -> Opener[Store]:
    """Opens the ``hub.db`` of ``directory``: what ``make`` builds on its writer and a reader."""
    path = directory / "hub.db"

    @contextlib.asynccontextmanager
    async def opener() -> AsyncIterator[Store]:
        async with _opened(path, _turns(path)) as writer, _others(path):
            reader = open_connection(path, readonly=True)
            try:
                yield make(writer, reader)
            finally:
                reader.close()

    return opener


def shared(sqlite: Callable[[Path], Opener[Store]]) -> Callable[[Path], Opener[Store]]:
    """As ``sqlite``, with the file shared with somebody who writes into it all the time."""

    def opener(directory: Path) -> Opener[Store]:
        (directory / _SHARED).touch()
        return sqlite(directory)

    return opener


@contextlib.asynccontextmanager
async def one_of_several(place: str) -> AsyncIterator[Storage]:
    """What a node has where others have the same: at a URL of PostgreSQL, or the path of a ``hub.db``."""
    if "://" not in place:
        storage = SqliteStorage(place, durable=False, shared=True)
        yield storage
        await storage.close()
        return
    database = Database(place)
    await database.open()
    yield PostgresStorage(database)
    await database.close()


async def settled(*storages: Storage) -> None:
    """Once all that was handed in is done, and what was handed in then."""
    for _ in range(3):
        for one in storages:
            if isinstance(one, PostgresStorage):
                await asyncio.gather(*(one._database.submit(str(place), _nothing) for place in range(30)))
            else:
                await one._writer.submit(lambda _: None)


async def _nothing(_: Step) -> None:
    return None


def _turns(path: Path) -> Turns | None:
    return Turns(path) if path.with_name(_SHARED).exists() else None


@contextlib.asynccontextmanager
async def _opened(path: Path, turns: Turns | None) -> AsyncIterator[Writer]:
    writer = Writer(path, MIGRATIONS, asyncio.get_running_loop(), durable=False, turns=turns)
    try:
        yield writer
    finally:
        await writer.close()


@contextlib.asynccontextmanager
async def _others(path: Path) -> AsyncIterator[None]:
    turns = _turns(path)
    if turns is None:
        yield
        return
    async with _opened(path, turns) as writer:

        async def write() -> None:
            while True:
                await writer.submit(touch)
                await asyncio.sleep(0.001)

        writing = asyncio.ensure_future(write())
        try:
            yield
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing


def postgres_opener(url: str, make: Callable[[Database], Store]) -> Opener[Store]:
    """Opens the database at ``url``: what ``make`` builds on it."""

    @contextlib.asynccontextmanager
    async def opener() -> AsyncIterator[Store]:
        database = Database(url)
        await database.open()
        try:
            yield make(database)
        finally:
            await database.close()

    return opener
