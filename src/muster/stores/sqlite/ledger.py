"""The writing side of the telemetry log: its tables, and the transactions that the writer's thread runs on them.

Layout. Table ``slice`` holds one row per partition and commit under a rising id, so that a commit, whatever
its partitions, appends to one end of one tree: measured at a third of the cost of keeping each partition
together. Table ``place`` finds rows by partition and sequence number; it is brought up to date in bulk, every
so many rows, and rows behind ``log.indexed`` are found by looking through them. Tables ``log`` and
``partition`` say where the log stood when ``log.indexed`` was the last row, so they survive the deletion of all rows.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from functools import cache
from itertools import chain, islice
from typing import Any

import apsw

from muster.messages.contract import PartitionState, Share
from muster.stores.sqlite.rows import Row, Write, pack

SEQUENCE_BITS = 48
LAST_SEQUENCE = (1 << SEQUENCE_BITS) - 1
"""The largest sequence number that a key of ``place`` has room for."""

ROWS_PER_STATEMENT = 32
SMALL_BYTES = 16 * 1024
"""A message of at most so many bytes is written as quickly as an empty one."""

TRIM_ROWS = 1024
TRIM_BYTES = 8 * 1024 * 1024
"""One call of ``trim`` deletes at most so much, so that commits wait for milliseconds only."""

MIGRATIONS = (
    """
    CREATE TABLE log (created_at REAL NOT NULL, indexed INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
    CREATE TABLE partition (
        id INTEGER PRIMARY KEY,
        first INTEGER NOT NULL,
        next INTEGER NOT NULL,
        enqueued_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE slice (
        id INTEGER PRIMARY KEY,
        partition INTEGER NOT NULL,
        base INTEGER NOT NULL,
        messages INTEGER NOT NULL,
        enqueued_ms INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        data BLOB NOT NULL
    ) STRICT;
    CREATE TABLE place (key INTEGER PRIMARY KEY, slice INTEGER NOT NULL) STRICT;
    """,
)

_PLACE = f"""
    INSERT INTO place
    SELECT partition << {SEQUENCE_BITS} | base, id FROM slice WHERE id > ? ORDER BY partition, base
"""  # noqa: S608  a constant
_SINCE_INDEXED = "SELECT id, partition, base + messages, enqueued_ms, length(data) FROM slice WHERE id > ? ORDER BY id"
_OLDEST = "SELECT id, partition, base + messages, enqueued_ms, length(data) FROM slice ORDER BY id LIMIT ?"


def place_key(partition: int, sequence: int) -> int:
    """The key of ``place``; keys sort by partition, then by sequence number."""
    return partition << SEQUENCE_BITS | sequence


def rows_of(connection: apsw.Connection, query: str, *bindings: int) -> Generator[Any, None, None]:
    """The rows of ``query``. Closing the generator ends the statement."""
    cursor = connection.execute(query, bindings)
    try:
        yield from cursor
    finally:
        cursor.close()


def create(connection: apsw.Connection, partitions: int, created_at: float) -> None:
    """Fill the tables of a new log, inside a transaction; one that was filled before is left alone."""
    if not list(rows_of(connection, "SELECT 1 FROM log")):
        connection.execute("INSERT INTO log VALUES (?, 0, 0)", (created_at,))
        new = ((number,) for number in range(partitions))
        connection.executemany("INSERT INTO partition VALUES (?, 0, 0, 0)", new)


class Ledger:
    """Where the log stands, by the transactions run so far; used by one thread at a time.

    It keeps in memory what it would otherwise read in every transaction, and reads it again after one that
    was undone. ``store`` and ``trim`` run inside a transaction that somebody else ends.
    """

    def __init__(self, index_every: int) -> None:
        self._index_every = index_every
        self._known = False
        self._first: list[int] = []
        self._next: list[int] = []
        self._enqueued_ms: list[int] = []
        self._indexed = 0
        self._last = 0
        self._bytes = 0
        self._cursor: apsw.Cursor | None = None
        """Of the connection of ``store``, which is always the same. Kept, for making one costs a tenth of an insert."""

    def forget(self) -> None:
        """What is known may be wrong: a transaction was undone."""
        self._known = False

    def states(self, connection: apsw.Connection) -> list[PartitionState]:
        """Where each partition stands."""
        self._recall(connection)
        return list(map(PartitionState, self._first, self._next, self._enqueued_ms))

    def is_small(self, shares: Sequence[Share]) -> bool:
        """Whether ``store`` will run a single statement for ``shares`` that writes little."""
        if len(shares) != 1 or not self._known or self._last + 1 - self._indexed >= self._index_every:
            return False
        records = shares[0].records
        return len(records) == 1 and len(records[0]) <= SMALL_BYTES

    def store(self, shares: Sequence[Share], now_ms: int, connection: apsw.Connection) -> list[Write]:
        """Append ``shares`` and say where; ``now_ms`` is their time unless their partition's last is later.

        Runs few and large statements: after each, this thread waits for the interpreter's lock.
        """
        if not self._known:
            self._recall(connection)
        self._known = False
        writes = [self._placed(share, now_ms) for share in shares]
        rows = [row for write in writes for row in pack(write)]
        if len(rows) == 1:
            if self._cursor is None:
                self._cursor = connection.cursor()
            self._cursor.execute(_INSERT, (self._last + 1, *rows[0]))
            self._bytes += len(rows[0].data)
        else:
            self._insert(connection, rows)
        self._last += len(rows)
        if self._last - self._indexed >= self._index_every:
            self._index(connection)
        self._known = True
        return writes

    def trim(self, before_ms: int, limit_bytes: int, connection: apsw.Connection) -> list[int]:
        """Delete from the oldest rows those enqueued before ``before_ms``, or while more than ``limit_bytes`` are kept.

        Returns each partition's oldest kept sequence number.
        """
        self._recall(connection)
        self._known = False
        last = freed = 0
        with closing(rows_of(connection, _OLDEST, TRIM_ROWS)) as oldest:
            for id, partition, end, enqueued_ms, size in oldest:
                if freed >= TRIM_BYTES or not (enqueued_ms < before_ms or self._bytes - freed > limit_bytes):
                    break
                last = id
                freed += size
                self._first[partition] = end
        if last:
            self._bytes -= freed
            connection.execute("DELETE FROM slice WHERE id <= ?", (last,))
            self._index(connection)
            outdated = ((place_key(id, 0), place_key(id, first)) for id, first in enumerate(self._first))
            connection.executemany("DELETE FROM place WHERE key >= ? AND key < ?", outdated)
        self._known = True
        return self._first.copy()

    def _insert(self, connection: apsw.Connection, rows: Sequence[Row]) -> None:
        ids = range(self._last + 1, self._last + 1 + len(rows))
        numbered = zip(ids, rows, strict=True)
        while some := list(islice(numbered, ROWS_PER_STATEMENT)):
            values = chain.from_iterable((id, *row) for id, row in some)
            connection.execute(_insert(len(some)), list(values))
        self._bytes += sum(len(row.data) for row in rows)

    def _placed(self, share: Share, now_ms: int) -> Write:
        partition, records = share
        base = self._next[partition]
        self._next[partition] = base + len(records)
        self._enqueued_ms[partition] = enqueued_ms = max(self._enqueued_ms[partition], now_ms)
        return Write(partition, base, enqueued_ms, records)

    def _index(self, connection: apsw.Connection) -> None:
        connection.execute(_PLACE, (self._indexed,))
        self._indexed = self._last
        connection.execute("UPDATE log SET indexed = ?, bytes = ?", (self._indexed, self._bytes))
        states = zip(self._first, self._next, self._enqueued_ms, range(len(self._next)), strict=True)
        connection.executemany("UPDATE partition SET first = ?, next = ?, enqueued_ms = ? WHERE id = ?", states)

    def _recall(self, connection: apsw.Connection) -> None:
        if self._known:
            return
        ((self._indexed, self._bytes),) = rows_of(connection, "SELECT indexed, bytes FROM log")
        self._last = self._indexed
        states = list(rows_of(connection, "SELECT first, next, enqueued_ms FROM partition ORDER BY id"))
        self._first, self._next, self._enqueued_ms = map(list, zip(*states, strict=True))
        for id, partition, end, enqueued_ms, size in rows_of(connection, _SINCE_INDEXED, self._indexed):
            self._last = id
            self._next[partition] = max(self._next[partition], end)
            self._enqueued_ms[partition] = max(self._enqueued_ms[partition], enqueued_ms)
            self._bytes += size
        self._known = True


@cache
def _insert(rows: int) -> str:
    values = ", ".join(["(?, ?, ?, ?, ?, ?, ?)"] * rows)
    return f"INSERT INTO slice VALUES {values}"  # noqa: S608  only question marks are put in


_INSERT = _insert(1)
