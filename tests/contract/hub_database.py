"""What the contract tests of the stores of a hub run on: a ``hub.db``, and a PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import apsw

from muster.stores.postgres.database import Database
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS

Store = TypeVar("Store")
Opener = Callable[[], contextlib.AbstractAsyncContextManager[Store]]
"""Opens the store anew, on what was kept."""


def opener_of(directory: Path, make: Callable[[Writer, apsw.Connection], Store]) -> Opener[Store]:
    """Opens the ``hub.db`` of ``directory``: what ``make`` builds on its writer and a reader."""

    @contextlib.asynccontextmanager
    async def opener() -> AsyncIterator[Store]:
        path = directory / "hub.db"
        writer = Writer(path, MIGRATIONS, asyncio.get_running_loop(), durable=False)
        reader = open_connection(path, readonly=True)
        try:
            yield make(writer, reader)
        finally:
            reader.close()
            await writer.close()

    return opener


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
