"""A ``hub.db`` for the contract tests of the stores that lie in it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import apsw

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
