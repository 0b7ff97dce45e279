"""Where the hubs of a benchmark keep what they keep: in files of their own, or in PostgreSQL and NATS."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Protocol

import asyncpg

from bench import machine
from bench.filling import fill
from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.nats_servers import NatsCluster, binary
from tests.postgres import BINARIES, PostgresServer


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
    """A PostgreSQL and NATS servers that sync what they acknowledge, for one deployment; gone when it is closed."""

    def __init__(self, directory: Path, servers: int = 1) -> None:
        self._postgres = PostgresServer(durable=True, shared_buffers="1GB", max_wal_size="4GB")
        self._directory = directory
        self._nats = NatsCluster(directory, [loopback() for _ in range(servers)], "", "1000T")
        self._nats.start()
        self._url = self._postgres.url("postgres")
        self.options: tuple[str, ...] = ("--database", self._url, "--bus", ",".join(self._nats.urls))

    def cpu_seconds(self, hub: HubProcess) -> float:
        """See ``Keeping``."""
        return machine.tree_cpu_seconds(hub.pid) + sum(self.cpu().values())

    @property
    def pids(self) -> list[int]:
        """Of PostgreSQL, then of each NATS server."""
        return [self._postgres.pid, *(server.pid for server in self._nats.servers)]

    def cpu(self) -> dict[str, float]:
        """What the servers have used, by their names."""
        postgres, *nats = map(machine.tree_cpu_seconds, self.pids)
        return {"PostgreSQL": postgres, "NATS": sum(nats)}

    def identity_bytes(self, hub: HubProcess) -> int:  # noqa: ARG002 - see ``Keeping``
        """See ``Keeping``; the whole database, the write-ahead log left out."""
        return self._ask("SELECT pg_database_size(current_database())")

    def written(self) -> dict[str, int]:
        """What PostgreSQL has done so far: transactions, and bytes of its write-ahead log."""
        transactions = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        wal = "SELECT (pg_current_wal_lsn() - '0/0')::bigint"
        return {"transactions": self._ask(transactions), "wal_bytes": self._ask(wal)}

    def stream_bytes(self) -> int:
        """What the first NATS server has on disk of the streams' messages."""
        blocks = (self._directory / "nats0").glob("jetstream/$G/streams/*/msgs/*.blk")
        return sum(block.stat().st_size for block in blocks)

    def _ask(self, question: str) -> int:
        async def ask() -> int:
            connection = await asyncpg.connect(self._url)
            try:
                answer: int = await connection.fetchval(question)
            finally:
                await connection.close()
            return answer

        return asyncio.new_event_loop().run_until_complete(ask())

    def fill(self, first: int, last: int, group: int) -> bool:
        """See ``Keeping``."""
        asyncio.new_event_loop().run_until_complete(fill(self._url, first, last, group))
        return True

    def close(self) -> None:
        """See ``Keeping``."""
        self._nats.kill()
        self._postgres.remove()


def versions() -> dict[str, str]:
    """Of PostgreSQL and of the NATS server."""
    found = {}
    for name, program in (("postgresql", str(BINARIES / "postgres")), ("nats", binary())):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        number = re.search(r"\d[\d.]*", said)
        found[name] = number[0] if number else "?"
    return found
