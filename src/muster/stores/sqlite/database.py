"""SQLite as every store of this folder uses it: opening a file, bringing it up to date, one writer with group commit.

See https://www.sqlite.org/wal.html for what WAL mode promises, in particular that ``synchronous=NORMAL``
loses acknowledged commits when the power is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from os import PathLike, fspath
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

import apsw

from muster.core.ambient import SystemAmbient
from muster.core.errors import INVALID_OPERATION, SERVER_ERROR, UNAVAILABLE, HubError
from muster.stores.sqlite.inline import Inline
from muster.stores.sqlite.turns import Turns

OLDEST_SQLITE = (3, 51, 3)
"""Versions 3.7.0 to 3.51.2 can lose committed writes when a checkpoint and a commit race ("WAL-reset bug")."""

BUSY_MILLISECONDS = 5000
"""How long a connection waits for a lock that another one holds."""

READER_MILLISECONDS = 250
"""How long a checkpoint, and all who want to write behind it, wait for those who read."""

WAL_FILE_LIMIT = 64 * 1024 * 1024
"""A write-ahead log that grew beyond this many bytes is cut back to it when it starts over."""

T = TypeVar("T")
Work = Callable[[apsw.Connection], T]
"""Reads and writes through the connection it is given, inside a transaction that the writer ends. Runs in
the writer's thread; may run SQL but not BEGIN, COMMIT, ROLLBACK or SAVEPOINT. Runs once more when what it did had to be
undone because of other work."""

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""Once this much was written to the write-ahead log, it is copied into the database file."""

LOOK_EVERY = 16
"""After so many statements on the loop's thread it is seen whether a checkpoint is due; each writes a few pages."""

RESTART_FACTOR = 16
"""A write-ahead log of this many times ``CHECKPOINT_BYTES``: wait for readers, so that it can start over."""

_LOG = logging.getLogger(__name__)


def require_current_sqlite(version: str) -> None:
    """Raise ``HubError`` (400003) when ``version`` (as SQLite names itself, ``3.51.3``) may lose commits."""
    if tuple(int(part) for part in version.split(".")) < OLDEST_SQLITE:
        oldest = ".".join(str(part) for part in OLDEST_SQLITE)
        raise HubError(
            INVALID_OPERATION,
            f"SQLite {version} can lose committed writes; {oldest} or later is needed. "
            "Upgrade the apsw package, which carries its own: pip install --upgrade apsw",
        )


def store_error(path: str | PathLike[str], error: apsw.Error) -> HubError:
    """``error`` of SQLite as a refusal (500001) that names the file and what to do about it."""
    match error:
        case apsw.FullError():
            advice = "the disk is full; free some space, then it goes on by itself"
        case apsw.CorruptError() | apsw.NotADBError():
            advice = "the file is damaged or not a database; restore it from a backup, or move it away to start anew"
        case apsw.CantOpenError() | apsw.PermissionsError() | apsw.ReadOnlyError() | apsw.AuthError():
            advice = "it cannot be opened for writing; check that the directory exists and who owns it"
        case apsw.BusyError() | apsw.LockedError():
            advice = "another process holds it; end that one first"
        case apsw.IOError():
            advice = "the disk failed to read or write, or is full; see the system's log"
        case _:
            advice = "SQLite refused"
    return HubError(SERVER_ERROR, f"{fspath(path)}: {advice} ({type(error).__name__}: {error})")


@contextlib.contextmanager
def told_as_refusal(path: str | PathLike[str]) -> Iterator[None]:
    """Turn what SQLite raises inside into ``HubError`` (500001), see ``store_error``."""
    try:
        yield
    except apsw.Error as error:
        raise store_error(path, error) from error


def open_connection(
    path: str | PathLike[str],
    *,
    readonly: bool = False,
    vfs: str | None = None,
    durable: bool = True,
    page_size: int = 4096,
) -> apsw.Connection:
    """Open the database at ``path`` the way the hub needs it: WAL, foreign keys on, no automatic checkpoint.

    ``durable``: a COMMIT returns only after the disk has it; without, a power cut may lose or damage the
    file. ``page_size`` (bytes, a power of two) counts only when the file is made. ``vfs`` names a registered
    SQLite VFS to go through. The connection may be used by any thread, one at a time.
    Raises ``HubError``: 400003 for a SQLite that is too old, 500001 when the file cannot be opened.
    """
    require_current_sqlite(apsw.sqlite_lib_version())
    flags = apsw.SQLITE_OPEN_READONLY if readonly else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    with told_as_refusal(path):
        connection = apsw.Connection(fspath(path), flags=flags, vfs=vfs)
        try:
            connection.set_busy_timeout(BUSY_MILLISECONDS)
            connection.wal_autocheckpoint(0)
            connection.pragma("foreign_keys", True)
            connection.pragma("synchronous", "FULL" if durable else "OFF")
            if not readonly:
                connection.pragma("page_size", page_size)
                connection.pragma("journal_size_limit", WAL_FILE_LIMIT)
            mode = connection.pragma("journal_mode") if readonly else connection.pragma("journal_mode", "wal")
            if mode != "wal":
                raise apsw.CantOpenError(f"the journal mode is {mode}, write-ahead logging is needed")
        except BaseException:
            connection.close()
            raise
    return connection


def migrate(connection: apsw.Connection, migrations: Sequence[str]) -> None:
    """Run those of ``migrations`` (SQL, oldest first) that the file has not seen, each in its own transaction.

    The file's ``user_version`` counts them. A step that was ever released is never edited, only followed by
    another. Raises ``HubError``: 400003 for a file that a newer hub has written, 500001 when a step fails.
    """
    path = connection.filename
    with told_as_refusal(path):
        seen = int(connection.pragma("user_version"))
        if seen > len(migrations):
            raise HubError(
                INVALID_OPERATION,
                f"{path} has layout {seen}, this version of muster knows {len(migrations)} at most; "
                "run the newer version that wrote it",
            )
        for number, step in enumerate(migrations[seen:], seen + 1):
            try:
                connection.execute(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT")
            except apsw.Error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise


def settle(future: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    """Tell who waits for ``future``, if anybody still does, how the work ended."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def touch(connection: apsw.Connection) -> None:
    """Work for a ``Writer`` that writes a page and changes nothing. (An UPDATE to the same values would not write.)"""
    connection.pragma("user_version", connection.pragma("user_version"))


_Done = Callable[[Any, BaseException | None], None]
_Item = tuple[Work[Any], _Done]
_Outcome = tuple[_Done, Any, BaseException | None]
"""Plain tuples: a named one takes four times as long to make."""


class _SpoiltError(Exception):
    """Work failed after it had written: what others wrote can only be undone with it."""


class Writer:
    """The only connection that writes to a database, in a thread of its own.

    Work that is handed in within one round of the loop, or while a commit runs, is one transaction; there is no timer.
    (A wake-up of the thread and a commit cost as much as the work: what a round reads from many sockets goes over
    together.) Promises: an outcome reaches the loop only after the COMMIT (with it the
    fsync, when ``durable``) returned; outcomes arrive in the order the work was handed in; work that raises
    undoes only its own changes. When the COMMIT itself fails, all work of that transaction fails and none
    of its changes stay. Cancelling a future does not take the work back.

    Whoever holds ``_held`` may use the connection. The loop takes it only without waiting and when all that was handed
    to the thread has come back and been told, so nothing overtakes anything; checkpoints are the thread's alone.

    With ``turns`` other processes write too. Then each transaction, and the checkpoint behind it, waits for its turn;
    what is handed in meanwhile goes into it.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        migrations: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        *,
        vfs: str | None = None,
        durable: bool = True,
        page_size: int = 4096,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
        inline: Inline | None = None,
        turns: Turns | None = None,
    ) -> None:
        """Open the file at ``path`` (made when missing), migrate it and start the thread.

        ``inline`` says when a statement may be run on the loop's thread (``here``); without it none is. ``turns`` are
        closed with the file.
        Raises ``HubError`` as ``open_connection`` and ``migrate`` do. Blocks for as long as that takes.
        """
        assert turns is None or inline is None, "a turn is not waited for on the loop's thread"
        self.path = fspath(path)
        self._loop = loop
        self._turns = turns
        self._data_version = 0
        self._begin_turn()
        try:
            self._connection = open_connection(path, vfs=vfs, durable=durable, page_size=page_size)
            try:
                migrate(self._connection, migrations)
                page = int(self._connection.pragma("page_size"))
            except BaseException:
                self._connection.close()
                raise
        finally:
            self._end_turn()
        self._checkpoint_pages = max(1, checkpoint_bytes // page)
        self.run: Final = self._connection.cursor().execute
        """As ``Connection.execute``, for work only, of what returns no rows. To make a cursor costs half as much as a
        small statement, and this one is there."""
        self.kept: dict[Any, Any] = {}
        """What work wants to find again: for work only, while it runs. Empty after anything was undone, or written by
        another process."""
        self._inline = inline
        self._monotonic = SystemAmbient.monotonic
        self._held = threading.Lock()
        self._round: list[_Item] = []
        self._until_look = LOOK_EVERY
        self._away = 0
        """Rounds of the loop that were handed to the thread and whose outcomes have not all been told."""
        self._queue: SimpleQueue[list[_Item] | None] = SimpleQueue()
        self._closing: asyncio.Future[None] | None = None
        self._thread = threading.Thread(target=self._run, name=f"writer of {self.path}", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Have ``work`` done; the future holds what it returned, or what it or the commit raised.

        What SQLite raises arrives as ``HubError`` (500001). Raises ``HubError`` (503001) after ``close``.
        """
        future: asyncio.Future[T] = self._loop.create_future()

        self.call(work, partial(settle, future))
        return future

    def call(self, work: Work[T], done: Callable[[T, BaseException | None], None]) -> None:
        """As ``submit``, but with ``done(result, error)`` called on the loop: one loop round earlier."""
        if self._closing is not None:
            raise HubError(UNAVAILABLE, f"{self.path} is closed; nothing can be written any more")
        if not self._round:
            self._loop.call_soon(self._hand_over)
        self._round.append((work, done))

    def _hand_over(self) -> None:
        if self._round:
            self._away += 1
            self._queue.put(self._round)
            self._round = []

    def here(self, statement: Work[T]) -> T | None:
        """Have ``statement``, which runs a single one, done and committed on the loop's thread before this returns.

        Answers what it returned, which must not be ``None``: that says that nothing was done, because it may not be
        now. Then ``inline`` says no, other work is under way, or this was called while outcomes of earlier work are
        being told. Raises what ``submit`` would put into its future.
        """
        inline = self._inline
        if inline is None or self._away or self._round or self._closing is not None:
            return None
        began = self._monotonic()
        if not inline.may(began) or not self._held.acquire(blocking=False):
            return None
        try:
            result = statement(self._connection)
            self._until_look -= 1
            if not self._until_look:
                self._until_look = LOOK_EVERY
                if self._checkpoint_due():
                    self._queue.put([])
            return result
        except Exception as error:
            self._roll_back()
            raise self._told(error) from error
        finally:
            self._held.release()
            now = self._monotonic()
            inline.took(now - began, now, here=True)

    @property
    def turns(self) -> Turns | None:
        """Those of the processes that have the file open, where there may be several."""
        return self._turns

    async def close(self) -> None:
        """End the thread after the work handed in so far, and close the file. Harmless when repeated."""
        if self._closing is None:
            self._closing = self._loop.create_future()
            self._hand_over()
            self._queue.put(None)
        await asyncio.shield(self._closing)
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            batch, rounds, closing = self._next_batch()
            with self._held:
                try:
                    if batch:
                        began = self._monotonic()
                        outcomes = self._transact(batch)
                        took = self._monotonic() - began
                        self._loop.call_soon_threadsafe(self._came_back, outcomes, rounds, took)
                except RuntimeError:  # the loop is gone, and with it all who could still ask for something
                    break
                self._checkpoint()
            if not closing:
                self._end_turn()
        try:
            self._connection.close()
        finally:
            if self._turns is not None:
                self._turns.close()
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._closed)

    def _next_batch(self) -> tuple[list[_Item], int, bool]:
        """What was handed over, how many rounds of the loop it is, and whether that was the last."""
        batch: list[_Item] = []
        rounds = 0
        items = self._queue.get()
        self._begin_turn()
        try:
            while items is not None:
                batch += items
                rounds += bool(items)
                items = self._queue.get_nowait()
        except Empty:
            return batch, rounds, False
        return batch, rounds, True

    def _transact(self, batch: list[_Item], *, apart: bool = False) -> list[_Outcome]:
        """Run ``batch`` in one transaction. A single item's failure ends the whole.

        Work that refuses does so before it writes, as a rule. So savepoints, which cost as much as what stands between
        them, are made (``apart``) only once that was not so, in a second try.
        """
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            if self._turns is not None:
                self._look_for_others()
            if len(batch) == 1:
                ((work, done),) = batch
                outcomes: list[_Outcome] = [(done, work(connection), None)]
            else:
                outcomes = [self._step_apart(item) for item in batch] if apart else self._steps(batch)
            connection.execute("COMMIT")
            return outcomes
        except _SpoiltError:
            self._roll_back()
            return self._transact(batch, apart=True)
        except BaseException as error:  # whatever it is, it belongs to those who wait; the thread goes on
            self._roll_back()
            told = self._told(error)
            return [(done, None, told) for _, done in batch]

    def _begin_turn(self) -> None:
        if self._turns is not None:
            try:
                self._turns.begin_write()
            except OSError as error:  # SQLite's own lock is there still, only that who waits for it polls
                _LOG.warning("%s: no turns are taken: %s", self.path, error)

    def _end_turn(self) -> None:
        if self._turns is not None:
            self._turns.end_write()

    def _look_for_others(self) -> None:
        """Remember nothing that was so before another process wrote."""
        version = self._connection.pragma("data_version")
        if version != self._data_version:
            self._data_version = version
            self.kept.clear()

    def _steps(self, batch: list[_Item]) -> list[_Outcome]:
        connection = self._connection
        outcomes: list[_Outcome] = []
        before = connection.total_changes()
        for work, done in batch:
            try:
                outcomes.append((done, work(connection), None))
            except BaseException as error:
                if not connection.in_transaction:  # SQLite gave the whole transaction up: nothing of it stays
                    raise
                if isinstance(error, apsw.Error) or connection.total_changes() != before:
                    raise _SpoiltError from error
                outcomes.append((done, None, self._told(error)))
            before = connection.total_changes()
        return outcomes

    def _step_apart(self, item: _Item) -> _Outcome:
        connection, (work, done) = self._connection, item
        connection.execute("SAVEPOINT item")
        try:
            result = work(connection)
        except BaseException as error:
            if not connection.in_transaction:  # SQLite gave the whole transaction up: nothing of it stays
                raise
            connection.execute("ROLLBACK TO item; RELEASE item")
            self.kept.clear()
            return done, None, self._told(error)
        connection.execute("RELEASE item")
        return done, result, None

    def _roll_back(self) -> None:
        self.kept.clear()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except apsw.Error:
            _LOG.exception("%s: a failed transaction could not be rolled back", self.path)

    def _told(self, error: BaseException) -> BaseException:
        told: BaseException
        if isinstance(error, apsw.Error):
            told = store_error(self.path, error)
        elif isinstance(error, StopIteration):  # a future does not take it
            told = RuntimeError("work for the writer ended with StopIteration")
        else:
            return error
        told.__cause__ = error
        return told

    def _checkpoint_due(self) -> bool:
        written, _ = self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)
        return written >= self._checkpoint_pages

    def _checkpoint(self) -> None:
        """Copy the write-ahead log into the database file once enough of it has gathered.

        PASSIVE waits for nobody. When readers have kept the log from starting over for long, RESTART waits
        for those present, which are short.
        """
        if not self._checkpoint_due():
            return
        self._connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)
        try:
            frames, _ = self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            if frames >= RESTART_FACTOR * self._checkpoint_pages:
                self._connection.set_busy_timeout(READER_MILLISECONDS)
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        except apsw.BusyError:
            _LOG.warning("%s: the write-ahead log cannot start over, a reader holds it", self.path)
        except apsw.Error as error:  # nothing is lost: the log keeps it, and the next checkpoint tries again
            _LOG.error("%s", store_error(self.path, error))
        finally:
            self._connection.set_busy_timeout(BUSY_MILLISECONDS)

    def _came_back(self, outcomes: list[_Outcome], rounds: int, took: float) -> None:
        if self._inline is not None:
            self._inline.took(took, self._monotonic(), here=False)
        self._deliver(outcomes)
        self._away -= rounds

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        for done, result, error in outcomes:
            try:
                done(result, error)
            except Exception as fault:
                self._loop.call_exception_handler(
                    {"message": f"{self.path}: a callback failed after a commit", "exception": fault}
                )

    def _closed(self) -> None:
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
