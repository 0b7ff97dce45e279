"""A PostgreSQL of our own for tests: Debian's, one server for all tests of a process, a database for each test."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from muster.stores.postgres.schema import migrate
from tests.addresses import loopback
from tests.servers import at_the_end, bound_to_us, own_directory

BINARIES = Path("/usr/lib/postgresql/15/bin")
PATIENCE = 60.0
_STOPS = {"immediate": signal.SIGQUIT, "fast": signal.SIGINT}
_numbers = count(1)


class PostgresServer:
    """A server on a loopback address, in a directory of its own that goes with it.

    ``durable``: with fsync, for tests that kill it; without, it is several times faster. ``more``: its own options.
    """

    def __init__(self, *, durable: bool = False, **more: str) -> None:
        if not BINARIES.is_dir():
            pytest.skip("there is no PostgreSQL 15 on this machine: apt-get install postgresql-15")
        self.address, self.port = loopback(), 5432
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = own_directory("postgres")
        self._data = self._directory / "data"
        self._user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(self._directory, "postgres")
        subprocess.run(
            [*self._user, BINARIES / "initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8",
             "--locale=C", f"--pgdata={self._data}"],
            check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd=self._directory,
        )  # fmt: skip
        sync = "on" if durable else "off"
        options = {
            "listen_addresses": f"'{self.address}'", "unix_socket_directories": "''", "fsync": sync,
            "full_page_writes": sync, "max_connections": "200", "shared_buffers": "64MB", "log_min_messages": "fatal",
            **more,
        }  # fmt: skip
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = {value}\n" for name, value in options.items())
        self.start()

    def url(self, database: str) -> str:
        """How to reach ``database``."""
        return f"postgresql://postgres@{self.address}:{self.port}/{database}"

    @property
    def pid(self) -> int:
        """Of the process that all others descend from."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; when this returns it takes connections."""
        command: list[str | Path] = [*self._user, *bound_to_us("QUIT"), BINARIES / "postgres", "-D", self._data]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._directory)
        until = time.monotonic() + PATIENCE
        while not self._ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"PostgreSQL did not start: {(self._directory / 'log').read_text()}")
            time.sleep(0.01)

    def _ready(self, pid: int) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().split()
        except FileNotFoundError:
            return False
        return lines[:1] == [str(pid)] and lines[-1] == "ready"

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: ``immediate`` is as a crash of all its processes. Harmless when it does not run."""
        if self._process is not None:
            self._process.send_signal(_STOPS[mode])
            self._process.wait(PATIENCE)
            self._process = None

    def remove(self) -> None:
        """Stop it and remove its directory."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


@cache
def shared_server() -> PostgresServer:
    """The server of this process, started when it is first asked for."""
    server = PostgresServer()
    at_the_end(server.remove)
    _finish(_make_template(server))
    return server


def new_database(server: PostgresServer | None = None) -> str:
    """The URL of a database of the test's own, with all tables, empty."""
    server = server or shared_server()
    name = f"muster_{next(_numbers)}"
    _finish(_execute(server, f"CREATE DATABASE {name} TEMPLATE muster_template"))
    return server.url(name)


def emptied_database() -> str:
    """The URL of a database that the tests of this process use one after the other, emptied now: much cheaper than one
    of the test's own."""
    url = _reused_database()
    _finish(_empty(url))
    return url


@cache
def _reused_database() -> str:
    return new_database()


def _finish(work: Coroutine[Any, Any, None]) -> None:
    """Wait for ``work``, on a loop of its own: there may be one that runs here."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


async def _empty(url: str) -> None:
    connection = await asyncpg.connect(url, server_settings={"session_replication_role": "replica"})  # no triggers
    try:
        names = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
            "AND NOT relispartition AND relname NOT IN ('alembic_version', 'audit_written')"
        )
        deletions = "; ".join(f"DELETE FROM {name}" for (name,) in names)
        await connection.execute(f"{deletions}; UPDATE audit_written SET number = 0")
    finally:
        await connection.close()


async def _make_template(server: PostgresServer) -> None:
    await _execute(server, "CREATE DATABASE muster_template")
    await migrate(server.url("muster_template"))


async def _execute(server: PostgresServer, statement: str) -> None:
    connection = await asyncpg.connect(server.url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
