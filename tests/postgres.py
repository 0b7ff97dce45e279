"""A PostgreSQL of our own for tests: Debian's, one server for all tests of a process, a database for each test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from muster.stores.postgres.schema import migrate
from tests.addresses import loopback

BINARIES = Path("/usr/lib/postgresql/15/bin")
_PREFIX = "muster-postgres-"
_numbers = count(1)
_shared: list[PostgresServer] = []


class PostgresServer:
    """A server on a loopback address, in a directory of its own that goes with it.

    ``durable``: with fsync, for tests that kill it; without, it is several times faster. ``more``: its own options.
    """

    def __init__(self, *, durable: bool = False, **more: str) -> None:
        if not BINARIES.is_dir():
            pytest.skip("there is no PostgreSQL 15 on this machine: apt-get install postgresql-15")
        self.address, self.port = loopback(), 5432
        _remove_left_behind()
        self._directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self._data = self._directory / "data"
        self._user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._user:
            shutil.chown(self._directory, "postgres")
        self._run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
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
        return int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])

    def start(self) -> None:
        """Start it; when this returns it takes connections."""
        self._run("pg_ctl", "--wait", f"--log={self._directory / 'log'}", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop it: ``immediate`` is as a crash of all its processes."""
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def remove(self) -> None:
        """Stop it and remove its directory."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _run(self, command: str, *options: str) -> None:
        subprocess.run(
            [*self._user, BINARIES / command, f"--pgdata={self._data}", *options],
            check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, cwd=self._directory,
        )  # fmt: skip


def remove_shared() -> None:
    """Remove the server of this process, if it has one: once, when its tests are over."""
    while _shared:
        _shared.pop().remove()


def _remove_left_behind() -> None:
    """Stop and remove servers of processes that were killed before they could do so."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with contextlib.suppress(OSError, ValueError, IndexError):
                os.kill(int((directory / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
            shutil.rmtree(directory, ignore_errors=True)


@cache
def shared_server() -> PostgresServer:
    """The server of this process, started when it is first asked for."""
    server = PostgresServer()
    _shared.append(server)
    asyncio.new_event_loop().run_until_complete(_make_template(server))
    return server


def new_database(server: PostgresServer | None = None) -> str:
    """The URL of a database of the test's own, with all tables, empty. Not to be called on a running loop."""
    server = server or shared_server()
    name = f"muster_{next(_numbers)}"
    asyncio.new_event_loop().run_until_complete(_execute(server, f"CREATE DATABASE {name} TEMPLATE muster_template"))
    return server.url(name)


def emptied_database() -> str:
    """The URL of a database that the tests of this process use one after the other, emptied now: much cheaper than one
    of the test's own. Not to be called on a running loop."""
    url = _reused_database()
    asyncio.new_event_loop().run_until_complete(_empty(url))
    return url


@cache
def _reused_database() -> str:
    return new_database()


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
