"""Bringing a database up to date, with alembic."""

from __future__ import annotations

from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from muster.core.errors import INVALID_OPERATION, HubError
from muster.stores.postgres.database import CONNECT_SECONDS, told_as_refusal

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x6D757374
"""The advisory lock under which one node migrates while the others wait."""


async def migrate(url: str) -> None:
    """Run those of ``migrations`` that the database at ``url`` has not seen, while other nodes that start wait.

    Raises ``HubError``: 400003 for a database that a newer version has written, and as ``database.store_error``.
    """

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(url, timeout=CONNECT_SECONDS)

    with told_as_refusal():
        engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_upgrade)
        finally:
            await engine.dispose()


def newest_layout() -> str:
    """The number of the newest of ``migrations``."""
    newest = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
    assert newest is not None, "there are migrations"
    return newest


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
    connection.commit()
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise HubError(
            INVALID_OPERATION,
            f"the database has a layout that this version of muster does not know ({error}); it knows up to "
            f"{newest_layout()}; run the newer version that wrote it",
        ) from error
    finally:
        connection.rollback()
        connection.execute(text(f"SELECT pg_advisory_unlock({_LOCK})"))
        connection.commit()
