"""Several writers of one file: whose turn it is, and what that means for the write-ahead log."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import apsw
import pytest

from muster.stores.sqlite.database import RESTART_FACTOR, Writer, open_connection
from muster.stores.sqlite.turns import Turns

CREATE = "CREATE TABLE t (writer, number, data)"


def put(writer: int, number: int, connection: apsw.Connection) -> tuple[int, int]:
    """Returns the place of the row and how many transactions the file has seen."""
    connection.execute("INSERT INTO t VALUES (?, ?, randomblob(3000))", (writer, number))
    return connection.last_insert_rowid(), connection.data_version()


def waiting(path: Path) -> int:
    """How many wait for a turn at the moment."""
    inode = f":{path.stat().st_ino} "
    return sum("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.fixture
async def writers(tmp_path: Path) -> AsyncIterator[list[Writer]]:
    path, loop = tmp_path / "t.db", asyncio.get_running_loop()
    made = [
        Writer(path, [CREATE], loop, durable=False, checkpoint_bytes=64 * 1024, turns=Turns(path)) for _ in range(3)
    ]
    yield made
    for one in made:
        await one.close()


def test_who_has_written_comes_after_who_waits(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    one, other = Turns(path), Turns(path)
    order: list[str] = []

    def write() -> None:
        other.begin_write()
        order.append("other")
        other.end_write()

    for _ in range(50):
        one.begin_write()
        thread = threading.Thread(target=write)
        thread.start()
        until(lambda: waiting(tmp_path / "t.db-turns") == 1)
        one.end_write()
        one.begin_write()
        order.append("one")
        one.end_write()
        thread.join()
    assert order == ["other", "one"] * 50


def test_a_long_wait_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = Turns(tmp_path / "t.db"), Turns(tmp_path / "t.db")
    monkeypatch.setattr("muster.stores.sqlite.turns.LONG_SECONDS", 0.1)
    one.begin_write()
    thread = threading.Thread(target=other.begin_write)
    thread.start()
    time.sleep(0.2)
    one.end_write()
    thread.join()
    other.end_write()
    assert "t.db: others have written for 0." in caplog.text


def test_a_turn_that_has_a_name_is_the_first_ones_until_it_closes(tmp_path: Path) -> None:
    one, other = Turns(tmp_path / "t.db"), Turns(tmp_path / "t.db")
    assert one.is_mine("a")
    assert not other.is_mine("a")
    assert other.is_mine("b")
    assert one.is_mine("a")
    other.begin_write()  # apart from the others
    one.close()
    one.close()
    assert not one.is_mine("a")
    assert other.is_mine("a")
    other.close()


async def test_what_comes_while_others_write_is_one_transaction(writers: list[Writer]) -> None:
    one, other = writers[:2]
    inside, go_on = threading.Event(), threading.Event()

    def hold(connection: apsw.Connection) -> None:
        put(0, 0, connection)
        inside.set()
        go_on.wait(30)

    holding = one.submit(hold)
    await asyncio.to_thread(inside.wait)
    several = []
    for number in range(20):
        several.append(other.submit(partial(put, 1, number)))
        await asyncio.sleep(0.001)  # each in a round of its own
    assert not any(future.done() for future in several)
    go_on.set()
    await holding
    found = await asyncio.gather(*several)
    assert len({version for _, version in found}) == 1
    assert [place for place, _ in found] == list(range(2, 22))


async def test_the_write_ahead_log_stays_small_with_many_who_write_and_read(
    writers: list[Writer], tmp_path: Path
) -> None:
    log, most = tmp_path / "t.db-wal", 0
    ended = threading.Event()

    def read() -> None:
        reader = open_connection(tmp_path / "t.db", readonly=True)
        while not ended.is_set():
            reader.execute("SELECT max(number) FROM t").fetchall()
        reader.close()

    async def write(number: int, writer: Writer) -> None:
        nonlocal most
        for times in range(150):
            await writer.submit(partial(put, number, times))
            most = max(most, log.stat().st_size)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    await asyncio.gather(*(write(number, writer) for number, writer in enumerate(writers)))
    ended.set()
    for thread in readers:
        thread.join()
    written = 3 * 150 * 3 * 4096  # the row, its leaf, and now and then more
    bound = (RESTART_FACTOR + 2 * len(writers)) * 64 * 1024
    assert most < bound < written / 3


async def test_without_a_lock_one_writes_all_the_same(
    writers: list[Writer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: Turns) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(Turns, "begin_write", fail)
    with caplog.at_level(logging.WARNING):
        await asyncio.gather(*(writer.submit(partial(put, 0, number)) for number, writer in enumerate(writers)))
    assert "No locks available" in caplog.text
