"""Where the hubs of a benchmark keep what they keep: in files of their own, or in PostgreSQL and NATS."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

import asyncpg

from bench import machine
from bench.filling import fill
from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.nats_servers import NatsCluster
from tests.postgres import PostgresServer


class Keeping(Protocol):
    """One hub's."""

    options: tuple[str, ...]
    """What ``muster serve`` is told."""

    def cpu_seconds(self, hub: HubProcess) -> float:
        """What the hub and all that keeps for it have used."""
        ...

    def identity_bytes(self, hub: HubProcess) -> int:
        """What identities and all that is beside them take."""
        ...

    def fill(self, first: int, last: int, group: int) -> bool:
        """Put devices there without asking the hub, see ``filling``; whether that can be done."""
        ...

    def close(self) -> None:
        """End what was started for it."""
        ...


class Embedded:
    """SQLite in the hub's process."""

    options: tuple[str, ...] = ()

    def cpu_seconds(self, hub: HubProcess) -> float:
        """See ``Keeping``."""
        return machine.cpu_seconds(hub.pid)

    def identity_bytes(self, hub: HubProcess) -> int:
        """See ``Keeping``; the write-ahead log left out."""
        return (hub.directory / "data" / "hub.db").stat().st_size

    def fill(self, first: int, last: int, group: int) -> bool:  # noqa: ARG002 - see ``Keeping``
        """See ``Keeping``."""
        return False

    def close(self) -> None:
        """See ``Keeping``."""


class Shared:
    """A PostgreSQL that syncs and a NATS server, each of the hub's own; gone when it is closed."""

    def __init__(self, directory: Path) -> None:
        with machine.on_core(machine.SERVER_CORE):
            self._postgres = PostgresServer(durable=True, shared_buffers="1GB", max_wal_size="4GB")
            self._nats = NatsCluster(directory, [loopback()], "", "1000T")
            self._nats.start()
        self._url = self._postgres.url("postgres")
        self.options: tuple[str, ...] = ("--database", self._url, "--bus", ",".join(self._nats.urls))

    def cpu_seconds(self, hub: HubProcess) -> float:
        """See ``Keeping``. Of PostgreSQL's processes those that run still: its connections are kept."""
        return sum(map(machine.tree_cpu_seconds, (hub.pid, self._postgres.pid, self._nats.servers[0].pid)))

    def identity_bytes(self, hub: HubProcess) -> int:  # noqa: ARG002 - see ``Keeping``
        """See ``Keeping``; the whole database, the write-ahead log left out."""

        async def ask() -> int:
            connection = await asyncpg.connect(self._url)
            try:
                size: int = await connection.fetchval("SELECT pg_database_size(current_database())")
            finally:
                await connection.close()
            return size

        return asyncio.new_event_loop().run_until_complete(ask())

    def fill(self, first: int, last: int, group: int) -> bool:
        """See ``Keeping``."""
        asyncio.new_event_loop().run_until_complete(fill(self._url, first, last, group))
        return True

    def close(self) -> None:
        """See ``Keeping``."""
        self._nats.kill()
        self._postgres.remove()
