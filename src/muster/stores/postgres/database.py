"""PostgreSQL as every store of this folder uses it: lanes that write with group commit, and connections that read.

A *lane* is a connection and a queue. What is handed to a lane while its transaction runs is the next transaction, as in
the SQLite ``Writer``: no timer, one work alone starts at once, under load ever more share a commit. Changes name their
*place* (a hub and a device, say), and the place decides the lane, so what is changed there is changed in the order in
which it was asked for.

Several nodes write at once. So what is read in order to be changed is read ``FOR UPDATE``, and a lane runs a
transaction's works in the order of their places: rows are locked in one order everywhere. Where two nodes lock each
other out anyway, PostgreSQL ends one transaction, and it is run again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from muster.core.errors import UNAVAILABLE, HubError
from muster.stores.postgres.failures import LOST_AGAINST_ANOTHER, UNREACHABLE, store_error, told_as_refusal
from muster.stores.postgres.transaction import Done, Item, Outcome, SpoiltError, Step, Together, Work, run

__all__ = ["LANES", "Database", "Step", "Together", "Work", "settle", "store_error", "told_as_refusal"]

T = TypeVar("T")

LANES = 4
"""Connections of a process that write; each commits by itself."""

READERS = 4
"""Connections of a process that read, at most; with the lanes eight, so that 20 nodes of 4 processes stay below the
700 or so that one server serves well."""

MOST_TOGETHER = 256
"""Works that share a transaction at most, so that row locks are held for milliseconds."""

TRIES = 5
"""How often a transaction is run that lost against another one before its works fail."""

CONNECT_SECONDS, COMMAND_SECONDS, PAUSE_SECONDS = 5.0, 15.0, 0.5
"""How long the server has to answer, to a connection and to a statement, and how long nobody tries to connect after
that failed: what is asked meanwhile fails at once."""

ALONE, ALONE_SECONDS = 0x6D757375, 60.0
"""The advisory lock of ``Database.alone``, and how long one waits for it."""

_SETTINGS = {
    "application_name": "muster",
    "synchronous_commit": "on",  # acknowledged means durable, whatever the server's own default
    "statement_timeout": "15s",
    "idle_in_transaction_session_timeout": "30s",  # a node that is cut off holds its row locks no longer
    "tcp_keepalives_idle": "10",  # nor does one whose machine is gone
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "timezone": "UTC",
    "jit": "off",  # its compilation costs more than all of our statements
}
_LANE_SETTINGS = _SETTINGS | {
    # What is written is found by keys, and read in the order of one. The planner does not know that only one part of a
    # table will be looked into, nor how much a table that grows holds by now: it would read 10^5 rows from end to end.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
}


class Database:
    """One process's connections to a database. ``open`` it and ``close`` it on one loop.

    Promises: an outcome comes only after the COMMIT returned, and outcomes of one place come in the order in which the
    work was handed in; work that raises undoes only its own changes. When the COMMIT fails none of the changes stay,
    unless the server could not be reached: then they may be there or not, as when a node dies in the midst of it.
    Cancelling a future does not take the work back.
    """

    def __init__(self, url: str, *, lanes: int = LANES, readers: int = READERS) -> None:
        self._url = url
        self._lanes = [_Lane(self, number) for number in range(lanes)]
        self._readers = readers
        self._pool: asyncpg.Pool | None = None
        self._failed_at = float("-inf")
        self._when_recorded: list[Callable[[], None]] = []
        self.closed = False

    async def open(self) -> None:
        """Make sure that the server is there. Raises ``HubError`` as ``store_error``."""
        with told_as_refusal():
            self._pool = await asyncpg.create_pool(
                self._url, min_size=self._readers, max_size=self._readers, timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS, server_settings=_SETTINGS, reset=_left_as_found,
                max_inactive_connection_lifetime=0,  # a storm of connects must not wait for connections of ours
            )  # fmt: skip

    async def close(self) -> None:
        """End after the work handed in so far. Harmless when repeated."""
        self.closed = True
        await asyncio.gather(*(lane.close() for lane in self._lanes))
        if self._pool is not None:
            pool, self._pool = self._pool, None
            await pool.close()

    # --- writing

    def submit(self, place: str, work: Work[T]) -> asyncio.Future[T]:
        """Have ``work`` done behind what was asked for at ``place`` before; the future holds what it returned, or
        what it or the commit raised. Raises ``HubError`` 503001 after ``close``."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.call(place, work, partial(settle, future))
        return future

    def call(self, place: str, work: Work[T], done: Callable[[T, BaseException | None], None]) -> None:
        """As ``submit``, but with ``done(result, error)`` called instead, before anything that waits."""
        self._lane_of(place).put(Item(place, done, work))

    def call_together(self, place: str, together: Together, about: Any, done: Done) -> None:
        """As ``call`` for a work of a kind of which several are done at once, see ``Together``; this one is about
        ``about``."""
        self._lane_of(place).put(Item(place, done, together=together, about=about))

    def when_recorded(self, listener: Callable[[], None]) -> None:
        """From now on call ``listener`` after each transaction that has put something on record."""
        self._when_recorded.append(listener)

    def recorded(self) -> None:
        """A lane has committed records."""
        for listener in self._when_recorded:
            listener()

    # --- reading

    async def fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """The rows of ``query``. Raises ``HubError`` as ``store_error``, as do the other readers."""
        return await _in_a_task(self._read("fetch", query, values))

    async def row(self, query: str, *values: Any) -> asyncpg.Record | None:
        """The first row of ``query``, or ``None``."""
        return await _in_a_task(self._read("fetchrow", query, values))

    async def value(self, query: str, *values: Any) -> Any:
        """The first column of the first row of ``query``, or ``None``."""
        return await _in_a_task(self._read("fetchval", query, values))

    async def _read(self, how: str, query: str, values: Sequence[Any]) -> Any:
        async with self.reading() as connection:
            return await getattr(connection, how)(query, *values)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[PoolConnectionProxy[asyncpg.Record]]:
        """A connection to read with, for a moment, in a task. What asyncpg raises inside becomes ``HubError``."""
        if self._pool is None:
            raise HubError(UNAVAILABLE, "the database is closed")
        with told_as_refusal():
            self.check_pause()
            try:
                async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
                    yield connection
            except (OSError, asyncpg.CannotConnectNowError):
                self.note_failure()
                raise

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """While this lasts no other process is inside. Raises ``HubError`` as ``store_error``."""
        with told_as_refusal():
            connection = await self.connect()
        try:
            with told_as_refusal():
                await connection.execute("SET statement_timeout = 0")
                await connection.execute(f"SELECT pg_advisory_lock({ALONE})", timeout=ALONE_SECONDS)
            yield
        finally:
            connection.terminate()  # the lock goes with it

    # --- for lanes

    def _lane_of(self, place: str) -> _Lane:
        if self.closed:
            raise HubError(UNAVAILABLE, "the database is closed; nothing can be written any more")
        digest = blake2b(place.encode(), digest_size=8).digest()
        return self._lanes[int.from_bytes(digest, "big") % len(self._lanes)]

    async def connect(self) -> asyncpg.Connection:
        """A connection to write with."""
        self.check_pause()
        try:
            return await asyncpg.connect(
                self._url, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, server_settings=_LANE_SETTINGS
            )
        except (OSError, TimeoutError, asyncpg.PostgresError):
            self.note_failure()
            raise

    def check_pause(self) -> None:
        """Raise ``HubError`` 503001 while it makes no sense to connect."""
        if asyncio.get_running_loop().time() - self._failed_at < PAUSE_SECONDS:
            raise HubError(UNAVAILABLE, "the database cannot be reached; try again")

    def note_failure(self) -> None:
        """The server could not be reached right now."""
        self._failed_at = asyncio.get_running_loop().time()


class _Lane:
    """One connection that writes; its task runs while there is work."""

    def __init__(self, database: Database, number: int) -> None:
        self._database = database
        self._number = number
        self._waiting: list[Item] = []
        self._task: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection | None = None

    def put(self, item: Item) -> None:
        self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"lane {self._number}")

    async def close(self) -> None:
        if self._task is not None:
            await self._task
        if self._connection is not None:
            connection, self._connection = self._connection, None
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
                await connection.close(timeout=CONNECT_SECONDS)

    async def _run(self) -> None:
        await asyncio.sleep(0)  # what this round of the loop brings goes together
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            outcomes = await self._outcomes(batch)
            for item, (result, error) in zip(batch, outcomes, strict=True):
                try:
                    item.done(result, error)
                except Exception as problem:
                    context = {"message": "a callback of the database failed", "exception": problem}
                    asyncio.get_running_loop().call_exception_handler(context)
        self._task = None

    async def _outcomes(self, batch: list[Item]) -> list[Outcome]:
        """How the works of ``batch`` ended, in their order; they ran in the order of their places."""
        order = sorted(range(len(batch)), key=lambda at: batch[at].place)
        ran = await self._transact([batch[at] for at in order])
        outcomes: list[Outcome] = [(None, None)] * len(batch)
        for at, outcome in zip(order, ran, strict=True):
            outcomes[at] = outcome
        return outcomes

    async def _transact(self, batch: list[Item]) -> list[Outcome]:
        """Run ``batch`` in one transaction, with savepoints only where it did not do without."""
        apart = False
        for _ in range(TRIES):
            try:
                connection = self._connection = self._connection or await self._database.connect()
                outcomes, recorded = await run(connection, batch, apart=apart)
                if recorded:
                    self._database.recorded()
                return outcomes
            except SpoiltError:
                apart = True
            except LOST_AGAINST_ANOTHER as error:
                failed: BaseException = store_error(error)
            except UNREACHABLE as error:  # what became of a commit is not known: nobody may be told that it failed
                self._database.note_failure()
                self._drop()
                failed = store_error(error)
                break
            except BaseException as error:  # whatever it is, it belongs to those who wait
                self._drop()
                failed = store_error(error) if isinstance(error, asyncpg.PostgresError) else error
                break
        else:
            failed = HubError(UNAVAILABLE, "others changed the same things at the same time, again and again")
        return [(None, failed)] * len(batch)

    def _drop(self) -> None:
        """Give the connection up; the next work makes another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def _left_as_found(_: object) -> None:
    """Readers change nothing that the next one could find; asyncpg would have the server reset all after each read."""


def settle(future: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    """Tell who waits for ``future``, if anybody still does, how the work ended."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def _in_a_task(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` returns. asyncpg's pool keeps time, as tasks only can; who asks need not be one, see ``direct`` in
    ``heads.http.operations``."""
    if asyncio.current_task() is not None:
        return await work
    return await asyncio.get_running_loop().create_task(work)
