"""The telemetry log on SQLite, in a database file of its own: one row per partition and commit.

A row per message would cost several times more and take turns with the loop for the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import chain
from os import PathLike, fspath
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

import apsw

from muster.core.errors import INVALID_OPERATION, UNAVAILABLE, HubError
from muster.core.limits import PARTITIONS
from muster.messages.contract import PartitionState, Share, Slice, Stored
from muster.stores.sqlite.database import (
    CHECKPOINT_BYTES,
    Writer,
    migrate,
    open_connection,
    store_error,
    told_as_refusal,
    touch,
)
from muster.stores.sqlite.inline import Inline
from muster.stores.sqlite.ledger import LAST_SEQUENCE, MIGRATIONS, Ledger, create, place_key, rows_of
from muster.stores.sqlite.rows import Row, Write, unpack, unpack_not

T = TypeVar("T")

READERS = 2
"""Threads for reads. More would only wait for the interpreter's lock."""

_COLUMNS = "partition, base, messages, enqueued_ms, checksum, data"
_INDEXED = f"""
    SELECT {_COLUMNS} FROM place CROSS JOIN slice ON slice.id = place.slice
    WHERE key >= coalesce((SELECT key FROM place WHERE key BETWEEN ?1 AND ?2 ORDER BY key DESC LIMIT 1), ?2)
    AND key < ?3 ORDER BY key
"""  # noqa: S608  constants
_SINCE_INDEXED = f"""
    SELECT {_COLUMNS} FROM slice WHERE id > (SELECT indexed FROM log) AND partition = ? ORDER BY id
"""  # noqa: S608  constants
_INDEXED_TIME = """
    SELECT base, enqueued_ms FROM place CROSS JOIN slice ON slice.id = place.slice
    WHERE key >= ? AND key < ? ORDER BY key LIMIT 1
"""
_TIMES_SINCE_INDEXED = """
    SELECT base, messages, enqueued_ms FROM slice
    WHERE id > (SELECT indexed FROM log) AND partition = ? ORDER BY id
"""

_LOG = logging.getLogger(__name__)


class Tuning(NamedTuple):
    """Sizes that were measured; tests use others to reach every path with little data.

    ``page_size`` in bytes: with 4 KiB large commits cost more, with 16 KiB small ones. ``checkpoint_bytes``:
    a commit that comes during a checkpoint waits some milliseconds for each 4 MiB. ``index_every``, in rows:
    bounds what a look behind the index and an opening have to read.
    """

    page_size: int = 8192
    checkpoint_bytes: int = CHECKPOINT_BYTES
    index_every: int = 1024


DEFAULT_TUNING = Tuning()


class SqliteTelemetryLog:
    """``TelemetryLog`` in one SQLite file. Only one may be open on a file at a time (the data directory's lock).

    ``damaged`` holds partition and first sequence number of each damaged row that a reader has come upon.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        partitions: int,
        loop: asyncio.AbstractEventLoop,
        *,
        created_at: float,
        vfs: str | None = None,
        durable: bool = True,
        tuning: Tuning = DEFAULT_TUNING,
        inline: Inline | None = None,
        packed: bool = False,
    ) -> None:
        """Open the log at ``path``; a new one gets ``partitions`` and ``created_at`` (seconds since 1970).
        ``inline`` says when a message that comes alone may be committed on the loop's thread. ``packed``: what is read
        comes in ``PackedRun``s, for somebody who hands it on.

        Raises ``HubError``: 400003 for a number of partitions that is out of range or not that of the file,
        else as ``open_connection`` and ``migrate`` do. Blocks while the file is opened.
        """
        check_partitions(path, partitions, partitions)
        self.partitions = partitions
        self.damaged: set[tuple[int, int]] = set()
        self._path = fspath(path)
        self._unpack = unpack_not if packed else unpack
        self._loop = loop
        self._stored: Stored = _ignore_stored
        self._connect = partial(open_connection, path, vfs=vfs, durable=durable, page_size=tuning.page_size)
        self._ledger = Ledger(tuning.index_every)
        self.created_at, self._states = self._prepare(created_at)
        self._writer = Writer(
            path,
            MIGRATIONS,
            loop,
            vfs=vfs,
            durable=durable,
            page_size=tuning.page_size,
            checkpoint_bytes=tuning.checkpoint_bytes,
            inline=inline,
        )
        self._writer.call(lambda connection: connection.set_rollback_hook(self._ledger.forget), _ignore_end)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="telemetry-reader")
        self._connections: SimpleQueue[apsw.Connection] = SimpleQueue()
        self._closed = False

    def _prepare(self, created_at: float) -> tuple[float, list[PartitionState]]:
        connection = self._connect()
        try:
            migrate(connection, MIGRATIONS)
            with told_as_refusal(self._path):
                with connection:
                    create(connection, self.partitions, created_at)
                ((made,),) = rows_of(connection, "SELECT created_at FROM log")
                states = self._ledger.states(connection)
        finally:
            connection.close()
        check_partitions(self._path, len(states), self.partitions)
        return made, states

    def states(self) -> Sequence[PartitionState]:
        """See ``TelemetryLog.states``."""
        return self._states

    def listen(self, stored: Stored) -> None:
        """See ``TelemetryLog.listen``."""
        self._stored = stored

    def commit(self, shares: Sequence[Share], now_ms: int, done: Callable[[BaseException | None], None]) -> None:
        """See ``TelemetryLog.commit``."""
        store = partial(self._ledger.store, shares, now_ms)
        if self._ledger.is_small(shares):
            try:
                writes = self._writer.here(store)
            except Exception as error:
                done(error)
                return
            if writes is not None:
                self._ended(done, writes, None)
                return
        self._writer.call(store, partial(self._ended, done))

    def _ended(
        self, done: Callable[[BaseException | None], None], writes: list[Write], error: BaseException | None
    ) -> None:
        if error is None:
            for partition, base, enqueued_ms, records in writes:
                self._stored(partition, Slice(base, enqueued_ms, records))
        done(error)

    async def read(self, partition: int, sequence: int, limit_bytes: int) -> Sequence[Slice]:
        """See ``TelemetryLog.read``. Rows whose checksum is wrong are left out, and logged."""
        sequence = min(max(0, sequence), LAST_SEQUENCE)
        return await self._in_reader(partial(self._page, partition, sequence, limit_bytes))

    async def sequence_at(self, partition: int, enqueued_ms: int, *, inclusive: bool) -> int:
        """See ``TelemetryLog.sequence_at``."""
        earliest = enqueued_ms if inclusive else enqueued_ms + 1
        return await self._in_reader(partial(_first_enqueued, partition, earliest))

    async def trim(self, now_ms: int, keep_ms: int, limit_bytes: int) -> Sequence[int]:
        """See ``TelemetryLog.trim``."""
        return await self._writer.submit(partial(self._ledger.trim, now_ms - keep_ms, limit_bytes))

    async def probe(self) -> None:
        """See ``TelemetryLog.probe``."""
        await self._writer.submit(touch)

    async def close(self) -> None:
        """See ``TelemetryLog.close``."""
        self._closed = True
        await asyncio.to_thread(self._readers.shutdown)
        while not self._connections.empty():
            self._connections.get_nowait().close()
        await self._writer.close()

    async def _in_reader(self, query: Callable[[apsw.Connection], T]) -> T:
        if self._closed:
            raise HubError(UNAVAILABLE, f"{self._path} is closed; nothing can be read any more")
        return await self._loop.run_in_executor(self._readers, self._query, query)

    def _query(self, query: Callable[[apsw.Connection], T]) -> T:
        """Run ``query`` in a read transaction that ends with it: one that stayed would keep the log from shrinking."""
        try:
            connection = self._connections.get_nowait()
        except Empty:
            connection = self._connect(readonly=True)
        try:
            connection.execute("BEGIN")
            try:
                return query(connection)
            finally:
                connection.execute("COMMIT")
        except apsw.Error as error:
            raise store_error(self._path, error) from error
        finally:
            self._connections.put(connection)

    def _page(self, partition: int, sequence: int, limit_bytes: int, connection: apsw.Connection) -> list[Slice]:
        slices: list[Slice] = []
        taken = 0
        bounds = place_key(partition, 0), place_key(partition, sequence), place_key(partition + 1, 0)
        with (
            closing(rows_of(connection, _INDEXED, *bounds)) as indexed,
            closing(rows_of(connection, _SINCE_INDEXED, partition)) as recent,
        ):
            for row in map(Row._make, chain(indexed, recent)):
                if row.base + row.messages <= sequence:
                    continue
                run = self._unpack(row)
                if run is None:
                    self._report(row)
                    continue
                slices.append(run.since(sequence))
                taken += len(row.data)
                if taken >= limit_bytes:
                    break
        return slices

    def _report(self, row: Row) -> None:
        if (row.partition, row.base) in self.damaged:
            return
        self.damaged.add((row.partition, row.base))
        _LOG.error(
            "%s: partition %d: %d messages from sequence number %d on are damaged and not served; "
            "check the disk, and restore the file from a backup if there is one",
            self._path,
            row.partition,
            row.messages,
            row.base,
        )


def check_partitions(path: str | PathLike[str], present: int, asked: int) -> None:
    """Raise ``HubError`` 400003 unless ``asked`` partitions can be, and are as many as the log at ``path`` has."""
    if not 1 <= asked <= PARTITIONS.open:
        raise HubError(INVALID_OPERATION, f"partitions is {asked}; give a number from 1 to {PARTITIONS.open}")
    if present != asked:
        raise HubError(
            INVALID_OPERATION,
            f"{fspath(path)} has {present} partitions, {asked} were asked for; their number is fixed "
            f"when a data directory is made: use --partitions {present}, or another --data directory",
        )


def _first_enqueued(partition: int, earliest_ms: int, connection: apsw.Connection) -> int:
    """Bisects: times never go back within a partition, so no index by time is needed."""
    ((first, next_),) = rows_of(connection, "SELECT first, next FROM partition WHERE id = ?", partition)
    end = place_key(partition + 1, 0)

    def row_from(sequence: int) -> tuple[int, int] | None:
        return next(rows_of(connection, _INDEXED_TIME, place_key(partition, sequence), end), None)

    def late_enough(sequence: int) -> bool:
        row = row_from(sequence)
        return row is None or row[1] >= earliest_ms

    found = row_from(first + bisect_left(range(first, next_), True, key=late_enough))
    if found is not None:
        return found[0]
    for base, messages, enqueued_ms in rows_of(connection, _TIMES_SINCE_INDEXED, partition):
        if enqueued_ms >= earliest_ms:
            return int(base)
        next_ = base + messages
    return int(next_)


def _ignore_end(_: None, error: BaseException | None) -> None:
    """Nobody waits for this work."""


def _ignore_stored(_: int, new: Slice) -> None:
    """Nobody listens yet."""
