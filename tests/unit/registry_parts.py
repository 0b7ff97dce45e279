"""A registry on a real store, with a clock that tests move."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from muster.core.bus import IDENTITY_CHANGED, LocalBus
from muster.identity.changes import Draft
from muster.identity.keys import Credentials
from muster.identity.model import IdentityKey
from muster.identity.registry import Registry
from muster.sessions.table import SessionTable
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.testing.clock import VirtualAmbient

HUB = "hub"


class Parts(NamedTuple):
    registry: Registry
    store: SqliteIdentityStore
    sessions: SessionTable
    ambient: VirtualAmbient
    changed: list[str]
    """Payloads of IDENTITY_CHANGED so far."""


@contextlib.asynccontextmanager
async def registry_parts(directory: Path) -> AsyncIterator[Parts]:
    loop = asyncio.get_running_loop()
    ambient, bus, changed = VirtualAmbient(1_700_000_000.0), LocalBus(), list[str]()
    path = directory / "hub.db"
    writer = Writer(path, MIGRATIONS, loop, durable=False)
    reader = open_connection(path, readonly=True)
    store = SqliteIdentityStore(writer, reader)
    sessions = SessionTable(HUB, store, bus, ambient)
    bus.subscribe(IDENTITY_CHANGED, changed.append)
    try:
        yield Parts(Registry(HUB, store, sessions, bus, ambient), store, sessions, ambient, changed)
    finally:
        reader.close()
        await writer.close()


def draft(device_id: str, module_id: str | None = None, **fields: object) -> Draft:
    return Draft(key=IdentityKey(device_id, module_id), **fields)  # type: ignore[arg-type]


def credentials(**fields: object) -> Credentials:
    return Credentials(**fields)  # type: ignore[arg-type]
