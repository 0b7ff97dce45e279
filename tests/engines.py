"""Hubs of tests, on the engines that the run asks for: those within the hub (SQLite), or PostgreSQL and NATS.

``pytest --engines clustered``: every hub is the only node of a deployment of its own, on the two servers of the test
process. Tests start hubs by ``hub_process`` or the fixture ``make_hub``, and need not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess
from tests.nats_servers import shared_nats
from tests.postgres import new_database
from tests.servers import bound_to_us


class Engines(StrEnum):
    """What is under the hubs."""

    EMBEDDED = "embedded"
    CLUSTERED = "clustered"


class _Run:
    engines = Engines.EMBEDDED


def use(engines: Engines) -> None:
    """What hubs of this process are started on from now on."""
    _Run.engines = engines


def clustered() -> bool:
    """Whether hubs are started on PostgreSQL and NATS."""
    return _Run.engines is Engines.CLUSTERED


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
    return HubProcess(directory, address, *options, ephemeral=ephemeral, prefix=[*bound_to_us(), *prefix])


def _database(directory: Path) -> str:
    """The URL of the database of the hub in ``directory``, made when there is none."""
    kept = directory / "database"
    if not kept.exists():
        kept.write_text(new_database())
    return kept.read_text()
