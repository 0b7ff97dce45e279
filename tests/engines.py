"""Hubs of tests, on the engines that the run asks for: those within the hub (SQLite), or PostgreSQL and NATS.

``pytest --engines clustered``: every hub is the only node of a deployment of its own, on the two servers of the test
process. ``--engines workers``: every hub is two workers on one directory. Tests start hubs by ``hub_process`` or the
fixture ``make_hub``, hubs that tests put together of parts stand on ``open_engines`` and nodes in the
test's process on ``servers``; they need not know.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from muster.core.ambient import SystemAmbient
from muster.core.company import Company
from muster.node import engines
from muster.node.directory import DataDirectory
from muster.node.foundation import Undo
from muster.node.settings import Settings
from muster.testing.hub import HubProcess
from tests.nats_servers import shared_nats
from tests.postgres import new_database, shared_server
from tests.servers import bound_to_us


class EngineKind(StrEnum):
    """What is under the hubs."""

    EMBEDDED = "embedded"
    CLUSTERED = "clustered"
    WORKERS = "workers"


class _Run:
    kind = EngineKind.EMBEDDED


def use(kind: EngineKind) -> None:
    """What hubs of this process are started on from now on."""
    _Run.kind = kind


def clustered() -> bool:
    """Whether hubs are started on PostgreSQL and NATS."""
    return _Run.kind is EngineKind.CLUSTERED


def workers() -> bool:
    """Whether hubs are started with several workers."""
    return _Run.kind is EngineKind.WORKERS


def start_servers() -> None:
    """Start what hubs need, once: in the thread that lives as long as the tests do. Skips a test without PostgreSQL."""
    if clustered():
        shared_server()
        shared_nats()


def hub_process(
    directory: Path, address: str, *options: str, ephemeral: bool = False, prefix: Sequence[str] = ()
) -> HubProcess:
    """A hub, not yet started. Another one made in the same ``directory`` has what the first one kept.

    Skips the test where the hub should be ephemeral and its engines are not.
    """
    if clustered():
        if ephemeral:
            pytest.skip("engines that are shared keep what they are given")
        options = (*options, "--database", _database(directory), "--bus", ",".join(shared_nats().urls))
    if workers() and "--demo" not in options:
        options = (*options, "--workers", "2")
    return HubProcess(directory, address, *options, ephemeral=ephemeral, prefix=[*bound_to_us(), *prefix])


@contextlib.asynccontextmanager
async def open_engines(directory: Path, company: Company | None = None) -> AsyncIterator[engines.Engines]:
    """What is under a hub, as ``muster serve`` opens it; in the same ``directory`` with what was kept there."""
    settings = Settings(data=directory, sync=False, **await asyncio.to_thread(servers, directory))
    ambient = SystemAmbient(asyncio.get_running_loop())
    undo: Undo = []
    held = DataDirectory(directory)
    try:
        yield await engines.open_engines(settings, held, ambient, company or Company(lambda: 0.0), undo, about={})
    finally:
        while undo:
            pending = undo.pop()()
            if pending is not None:
                await pending
        held.release()


def servers(directory: Path) -> dict[str, Any]:
    """Members of the settings of a node in ``directory``: its database and its bus, where there are such."""
    return {"database": _database(directory), "bus": tuple(shared_nats().urls)} if clustered() else {}


def _database(directory: Path) -> str:
    """The URL of the database of the hub in ``directory``, made when there is none."""
    kept = directory / "database"
    if not kept.exists():
        kept.write_text(new_database())
    return kept.read_text()
