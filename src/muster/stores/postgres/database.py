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
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from muster.core.audit import Draft
from muster.core.errors import SERVER_ERROR, UNAVAILABLE, HubError
from muster.stores.postgres.pending import text_of

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
    "timezone": "UTC",
    "jit": "off",  # its compilation costs more than all of our statements
}
_LOST_AGAINST_ANOTHER = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_UNREACHABLE = (
    OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.TooManyConnectionsError, asyncpg.QueryCanceledError,
)  # fmt: skip
_BUCKETS = 64
"""Rows at most in which a number of devices is kept, so that who counts does not wait for others who do."""
_COUNT = (
    "INSERT INTO identity_counts AS kept (hub, status, bucket, devices) "
    "SELECT hub, status, $1, devices FROM unnest($2::text[], $3::text[], $4::bigint[]) AS more (hub, status, devices) "
    "ON CONFLICT (hub, status, bucket) DO UPDATE SET devices = kept.devices + excluded.devices"
)
_KEEP = "INSERT INTO audit_pending (scope, draft) SELECT * FROM unnest($1::text[], $2::text[])"

log = logging.getLogger(__name__)


def store_error(error: Exception) -> HubError:
    """``error`` of asyncpg as a refusal that says what to do: 503001 when the server cannot be reached, else 500001."""
    match error:
        case ValueError():  # of asyncpg, for a value that the column cannot take
            advice = "the database cannot keep this"
        case TimeoutError():
            return HubError(UNAVAILABLE, "the database did not answer in time; try again when it does")
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            advice = "the database refused the hub's own user or password; correct --database"
        case asyncpg.InvalidCatalogNameError():
            advice = "there is no such database; create it, or correct --database"
        case asyncpg.DiskFullError():
            advice = "the database's disk is full; free some space, then it goes on by itself"
        case asyncpg.ReadOnlySQLTransactionError():
            advice = "the database only reads, it is a replica; point --database at the primary"
        case _ if isinstance(error, _UNREACHABLE):
            return HubError(UNAVAILABLE, f"the database cannot be reached ({type(error).__name__}); try again")
        case _:
            advice = "the database refused"
    return HubError(SERVER_ERROR, f"{advice} ({type(error).__name__}: {error})")


@contextlib.contextmanager
def told_as_refusal() -> Iterator[None]:
    """Turn what asyncpg raises inside into ``HubError``, see ``store_error``."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise store_error(error) from error


class Step:
    """What a work may do in the transaction that it shares. Reads and writes are told apart because a work that raised
    before it wrote anything needs no undoing."""

    __slots__ = ("_connection", "counted", "drafts", "written")

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.written = False
        self.drafts: list[Draft] = []
        self.counted: Counter[tuple[str, str]] = Counter()

    async def fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """The rows of a SELECT, ``FOR UPDATE`` if they are to be changed."""
        return await self._connection.fetch(query, *values)

    async def row(self, query: str, *values: Any) -> asyncpg.Record | None:
        """The first row of a SELECT, or ``None``."""
        return await self._connection.fetchrow(query, *values)

    async def value(self, query: str, *values: Any) -> Any:
        """The first column of the first row of a SELECT, or ``None``."""
        return await self._connection.fetchval(query, *values)

    async def write(self, query: str, *values: Any) -> int:
        """Run what changes rows; how many they were."""
        self.written = True
        status: str = await self._connection.execute(query, *values)
        return int(status.rpartition(" ")[2])

    async def write_many(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """As ``write`` with each of ``rows``, in one exchange."""
        self.written = True
        await self._connection.executemany(query, rows)

    async def returning(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """As ``write``, with the rows that its RETURNING gives."""
        self.written = True
        return await self._connection.fetch(query, *values)

    def record(self, drafts: Iterable[Draft]) -> None:
        """Put ``drafts`` on record with what is changed here."""
        self.drafts += drafts

    def count(self, hub: str, status: str, by: int) -> None:
        """Have ``by`` more devices of ``hub`` with ``status``. Written at the end of the transaction: rows that others
        want too are locked last, in one order, and briefly."""
        self.counted[hub, status] += by


Work = Callable[[Step], Awaitable[T]]
"""Reads and writes through the step it is given, in a transaction that the lane ends. Runs again when what it did had
to be undone because of other work, so it must have no effects of its own."""

Done = Callable[[Any, BaseException | None], None]


class _Item(NamedTuple):
    place: str
    work: Work[Any]
    done: Done


class _SpoiltError(Exception):
    """A work failed after it had written: what others wrote can only be undone with it."""


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
                self._url, min_size=1, max_size=self._readers, timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS, server_settings=_SETTINGS, reset=_left_as_found,
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
        if self.closed:
            raise HubError(UNAVAILABLE, "the database is closed; nothing can be written any more")
        digest = blake2b(place.encode(), digest_size=8).digest()
        self._lanes[int.from_bytes(digest, "big") % len(self._lanes)].put(_Item(place, work, done))

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
        async with self.reading() as connection:
            return await connection.fetch(query, *values)

    async def row(self, query: str, *values: Any) -> asyncpg.Record | None:
        """The first row of ``query``, or ``None``."""
        async with self.reading() as connection:
            return await connection.fetchrow(query, *values)

    async def value(self, query: str, *values: Any) -> Any:
        """The first column of the first row of ``query``, or ``None``."""
        async with self.reading() as connection:
            return await connection.fetchval(query, *values)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[PoolConnectionProxy[asyncpg.Record]]:
        """A connection to read with, for a moment. What asyncpg raises inside becomes ``HubError``."""
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

    async def connect(self) -> asyncpg.Connection:
        """Another connection, with the settings of all."""
        self.check_pause()
        try:
            return await asyncpg.connect(
                self._url, timeout=CONNECT_SECONDS, command_timeout=COMMAND_SECONDS, server_settings=_SETTINGS
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
        self._waiting: list[_Item] = []
        self._task: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection | None = None

    def put(self, item: _Item) -> None:
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

    async def _outcomes(self, batch: list[_Item]) -> list[tuple[Any, BaseException | None]]:
        """How the works of ``batch`` ended, in their order; they ran in the order of their places."""
        order = sorted(range(len(batch)), key=lambda at: batch[at].place)
        ran = await self._transact([batch[at] for at in order])
        outcomes: list[tuple[Any, BaseException | None]] = [(None, None)] * len(batch)
        for at, outcome in zip(order, ran, strict=True):
            outcomes[at] = outcome
        return outcomes

    async def _transact(self, batch: list[_Item]) -> list[tuple[Any, BaseException | None]]:
        """Run ``batch`` in one transaction, with savepoints only where it did not do without."""
        apart = False
        for _ in range(TRIES):
            try:
                connection = self._connection = self._connection or await self._database.connect()
                return await self._once(connection, batch, apart=apart)
            except _SpoiltError:
                apart = True
            except _LOST_AGAINST_ANOTHER as error:
                failed: BaseException = store_error(error)
            except _UNREACHABLE as error:  # what became of a commit is not known: nobody may be told that it failed
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

    async def _once(
        self, connection: asyncpg.Connection, batch: list[_Item], *, apart: bool
    ) -> list[tuple[Any, BaseException | None]]:
        drafts: list[Draft] = []
        counted: Counter[tuple[str, str]] = Counter()
        async with connection.transaction():
            outcomes = []
            for item in batch:
                step = Step(connection)
                outcomes.append(await (_apart if apart else _together)(connection, step, item.work))
                if outcomes[-1][1] is None:
                    drafts += step.drafts
                    counted.update(step.counted)
            changes = sorted((hub, status, by) for (hub, status), by in counted.items() if by)
            if changes:
                await connection.execute(_COUNT, connection.get_server_pid() % _BUCKETS, *zip(*changes, strict=True))
            if drafts:
                await connection.execute(_KEEP, [draft.scope for draft in drafts], [text_of(draft) for draft in drafts])
        if drafts:
            self._database.recorded()
        return outcomes

    def _drop(self) -> None:
        """Give the connection up; the next work makes another."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def _left_as_found(_: PoolConnectionProxy[asyncpg.Record]) -> None:
    """Readers change nothing that the next one could find; asyncpg would ask the server to reset all after each read."""


async def _together(_: asyncpg.Connection, step: Step, work: Work[Any]) -> tuple[Any, BaseException | None]:
    try:
        return await work(step), None
    except Exception as error:
        if _ends_all(error):
            raise
        if step.written or isinstance(error, asyncpg.PostgresError):  # PostgreSQL has given the whole up then
            raise _SpoiltError from error
        return None, _told(error)


async def _apart(connection: asyncpg.Connection, step: Step, work: Work[Any]) -> tuple[Any, BaseException | None]:
    try:
        async with connection.transaction():  # a savepoint
            return await work(step), None
    except Exception as error:
        if _ends_all(error):
            raise
        return None, _told(error)


def _told(error: Exception) -> Exception:
    return store_error(error) if isinstance(error, asyncpg.PostgresError | asyncpg.InterfaceError) else error


def _ends_all(error: Exception) -> bool:
    """Whether ``error`` is about the whole transaction. What asyncpg raises for a value that does not fit is not,
    though it is of a kind with what a lost connection raises."""
    return isinstance(error, (*_LOST_AGAINST_ANOTHER, *_UNREACHABLE)) and not isinstance(error, ValueError)


def settle(future: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    """Tell who waits for ``future``, if anybody still does, how the work ended."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
