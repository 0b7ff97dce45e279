"""The SQLite base: opening, migrating, and the writer's group commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import apsw
import pytest

from muster.core.errors import DEVICE_EXISTS, INVALID_OPERATION, SERVER_ERROR, UNAVAILABLE, HubError
from muster.stores.sqlite.database import Writer, migrate, open_connection, require_current_sqlite

SCHEMA = ("CREATE TABLE item (name TEXT PRIMARY KEY, note TEXT)",)


def put(name: str, note: str = ""):
    def work(connection: apsw.Connection) -> int:
        connection.execute("INSERT INTO item VALUES (?, ?)", (name, note))
        return connection.last_insert_rowid()

    return work


def names(path: Path) -> list[str]:
    connection = open_connection(path, readonly=True)
    try:
        return [row[0] for row in connection.execute("SELECT name FROM item ORDER BY rowid")]
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "items.db"


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    writer = Writer(path, SCHEMA, asyncio.get_running_loop())
    yield writer
    await writer.close()


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.0"])
def test_a_sqlite_that_can_lose_commits_is_refused(version: str) -> None:
    with pytest.raises(HubError, match="pip install --upgrade apsw") as caught:
        require_current_sqlite(version)
    assert caught.value.row is INVALID_OPERATION


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "4.0.0"])
def test_a_current_sqlite_is_taken(version: str) -> None:
    require_current_sqlite(version)


def test_connections_are_durable_and_in_wal_mode(path: Path) -> None:
    connection = open_connection(path, page_size=16384)
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    assert connection.pragma("foreign_keys") == 1
    assert connection.pragma("wal_autocheckpoint") == 0
    migrate(connection, SCHEMA)
    assert connection.pragma("page_size") == 16384
    reader = open_connection(path, readonly=True)
    with pytest.raises(apsw.ReadOnlyError):
        reader.execute("INSERT INTO item VALUES ('a', 'b')")
    assert open_connection(path, durable=False).pragma("synchronous") == 0


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="check that the directory exists"):
        open_connection(tmp_path / "missing" / "items.db")
    other = tmp_path / "text.db"
    other.write_bytes(b"this is no database, but it is long enough to look like one" * 20)
    with pytest.raises(HubError, match=r"text\.db: the file is damaged or not a database"):
        open_connection(other)
    with pytest.raises(HubError, match="cannot be opened"):
        open_connection(tmp_path / "none.db", readonly=True)


def test_migrations_run_once_and_in_order(path: Path) -> None:
    connection = open_connection(path)
    migrate(connection, SCHEMA)
    migrate(connection, [*SCHEMA, "ALTER TABLE item ADD COLUMN size INTEGER; INSERT INTO item VALUES ('a', 'b', 3)"])
    migrate(connection, [*SCHEMA, "never run: it was seen"])
    assert connection.execute("SELECT * FROM item").get == ("a", "b", 3)
    with pytest.raises(HubError, match="has layout 2, this version of muster knows 1") as caught:
        migrate(connection, SCHEMA)
    assert caught.value.row is INVALID_OPERATION


def test_a_failing_migration_leaves_the_file_as_it_was(path: Path) -> None:
    connection = open_connection(path)
    with pytest.raises(HubError, match="SQLite refused"):
        migrate(connection, [*SCHEMA, "CREATE TABLE other (x); SELECT nonsense"])
    assert connection.pragma("user_version") == 1
    assert connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").get == "item"
    migrate(connection, [*SCHEMA, "CREATE TABLE other (x)"])


async def test_what_a_future_reports_is_in_the_file(writer: Writer, path: Path) -> None:
    assert await writer.submit(put("a")) == 1
    assert names(path) == ["a"]


async def test_a_refusal_undoes_only_itself(writer: Writer, path: Path) -> None:
    def refuse(connection: apsw.Connection) -> None:
        put("half")(connection)
        raise HubError(DEVICE_EXISTS, "no")

    held = hold(writer)
    futures = [writer.submit(work) for work in (put("a"), refuse, put("a"), put("b"))]
    held.set()
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], HubError)
    assert results[1].row is DEVICE_EXISTS
    assert isinstance(results[2], HubError)
    assert results[2].row is SERVER_ERROR
    assert isinstance(results[2].__cause__, apsw.ConstraintError)
    assert results[3] == 2
    assert names(path) == ["a", "b"]
    with pytest.raises(HubError):
        await writer.submit(refuse)
    assert names(path) == ["a", "b"]


def hold(writer: Writer) -> threading.Event:
    """Keep the writer's thread busy until the event is set, so that what follows forms one batch."""
    event = threading.Event()
    writer.call(lambda _: event.wait(30), lambda _, error: None)
    return event


async def test_work_that_waits_together_is_one_transaction(writer: Writer, path: Path) -> None:
    started = threading.Event()
    release = threading.Event()
    depth: list[bool] = []

    def first(connection: apsw.Connection) -> None:
        started.set()
        release.wait(30)

    def last(connection: apsw.Connection) -> None:
        depth.append(names(path) == [])  # the earlier work of the batch is not committed yet

    waiting = [writer.submit(first)]
    await asyncio.to_thread(started.wait, 30)
    waiting += [writer.submit(put(f"{number:03}")) for number in range(100)]
    waiting.append(writer.submit(last))
    release.set()
    await asyncio.gather(*waiting)
    assert depth == [True]
    assert names(path) == [f"{number:03}" for number in range(100)]


async def test_outcomes_arrive_in_order(writer: Writer) -> None:
    order: list[int] = []
    end = asyncio.get_running_loop().create_future()
    for number in range(200):
        writer.call(put(str(number)), lambda _, error, number=number: order.append(number))
    writer.call(lambda _: None, lambda _, error: end.set_result(None))
    await end
    assert order == list(range(200))


async def test_a_failing_commit_fails_all_of_its_batch_and_nothing_else(writer: Writer, path: Path) -> None:
    await writer.submit(
        lambda c: c.execute(
            "CREATE TABLE child (name TEXT REFERENCES item (name) DEFERRABLE INITIALLY DEFERRED)"
        ).close()
    )
    held = hold(writer)
    orphan = writer.submit(lambda c: c.execute("INSERT INTO child VALUES ('nobody')").close())
    good = writer.submit(put("a"))
    held.set()
    for future in (orphan, good):
        with pytest.raises(HubError) as caught:
            await future
        assert isinstance(caught.value.__cause__, apsw.ConstraintError)
    await writer.submit(put("b"))
    assert names(path) == ["b"]


@pytest.mark.parametrize("company", [0, 1])
async def test_work_that_ends_the_transaction_fails_all(writer: Writer, path: Path, company: int) -> None:
    held = hold(writer)
    futures = [writer.submit(put(f"a{number}")) for number in range(company)]
    futures.append(writer.submit(lambda c: c.execute("INSERT OR ROLLBACK INTO item VALUES ('x', 1), ('x', 2)")))
    held.set()
    for result in await asyncio.gather(*futures, return_exceptions=True):
        assert isinstance(result, HubError)
    await writer.submit(put("b"))
    assert names(path) == ["b"]


async def test_what_work_keeps_is_forgotten_once_anything_was_undone(writer: Writer, path: Path) -> None:
    def keep(connection: apsw.Connection) -> None:
        put("kept")(connection)
        writer.kept["name"] = "kept"

    def half(connection: apsw.Connection) -> None:
        keep(connection)
        raise HubError(DEVICE_EXISTS, "no")

    def broken(connection: apsw.Connection) -> None:
        connection.execute("INSERT OR ROLLBACK INTO item VALUES ('x', 1), ('x', 2)")

    for works in ([half], [put("a"), half], [keep, broken]):
        held = hold(writer)
        futures = [writer.submit(work) for work in works]
        held.set()
        await asyncio.gather(*futures, return_exceptions=True)
        assert await writer.submit(lambda _: dict(writer.kept)) == {}
    assert names(path) == ["a"]
    await writer.submit(keep)
    assert await writer.submit(lambda _: dict(writer.kept)) == {"name": "kept"}


async def test_odd_exceptions_do_not_hang_or_end_the_thread(writer: Writer) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await writer.submit(lambda _: next(iter(())))
    future = writer.submit(put("a"))
    future.cancel()
    assert await writer.submit(lambda c: c.execute("SELECT name FROM item").get) == "a"


async def test_a_failing_callback_does_not_stop_the_others(writer: Writer) -> None:
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
    error = ValueError("mine")

    def fail(result: object, problem: object) -> None:
        raise error

    held = hold(writer)
    writer.call(lambda _: None, fail)
    await_me = writer.submit(put("a"))
    held.set()
    assert await await_me == 1
    assert seen == [error]


async def test_closing_ends_after_what_was_handed_in(path: Path) -> None:
    writer = Writer(path, SCHEMA, asyncio.get_running_loop())
    future = writer.submit(put("a"))
    await asyncio.gather(writer.close(), writer.close())
    assert future.done()
    assert not path.with_name("items.db-wal").exists()
    assert names(path) == ["a"]
    with pytest.raises(HubError) as caught:
        writer.submit(put("b"))
    assert caught.value.row is UNAVAILABLE
    await writer.close()


async def test_the_write_ahead_log_stays_small(path: Path) -> None:
    writer = Writer(path, SCHEMA, asyncio.get_running_loop(), checkpoint_bytes=65536)
    log = path.with_name("items.db-wal")
    for number in range(100):
        await writer.submit(put(str(number), "x" * 10000))
    assert log.stat().st_size < 4 * 65536
    await writer.close()


async def test_a_reader_that_stays_makes_it_grow_but_loses_nothing(path: Path) -> None:
    writer = Writer(path, SCHEMA, asyncio.get_running_loop(), checkpoint_bytes=65536)
    await writer.submit(put("first"))
    reader = open_connection(path, readonly=True)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM item").get == 1
    for number in range(40):
        await writer.submit(put(str(number), "x" * 10000))
    assert reader.execute("SELECT count(*) FROM item").get == 1
    reader.execute("COMMIT")
    grown = path.with_name("items.db-wal").stat().st_size
    for number in range(40, 80):
        await writer.submit(put(str(number), "x" * 10000))
    assert path.with_name("items.db-wal").stat().st_size < 1.5 * grown
    assert reader.execute("SELECT count(*) FROM item").get == 81
    reader.close()
    await writer.close()


def test_a_loop_that_ended_without_closing_ends_the_thread(path: Path) -> None:
    async def use() -> threading.Event:
        writer = Writer(path, SCHEMA, asyncio.get_running_loop())
        writer.submit(put("a"))
        return hold(writer)

    release = asyncio.run(use())
    thread = next(thread for thread in threading.enumerate() if str(path) in thread.name)
    assert thread.is_alive()
    release.set()
    thread.join(30)
    assert not thread.is_alive()
    assert names(path) == ["a"]
