"""A statement that the writer runs on the loop's thread: at once, in its turn, undone when it fails."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from muster.core.errors import DEVICE_EXISTS, SERVER_ERROR, HubError
from muster.stores.sqlite.database import Writer, open_connection
from tests.always_inline import Always

SCHEMA = ("CREATE TABLE item (name TEXT PRIMARY KEY, note TEXT)",)


def put(name: str, note: str = "", seen: list[int] | None = None) -> Callable[[apsw.Connection], int]:
    def work(connection: apsw.Connection) -> int:
        connection.execute("INSERT INTO item VALUES (?, ?)", (name, note))
        if seen is not None:
            seen.append(threading.get_ident())
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
def inline() -> Always:
    return Always()


@pytest.fixture
async def writer(path: Path, inline: Always) -> AsyncIterator[Writer]:
    writer = Writer(path, SCHEMA, asyncio.get_running_loop(), inline=inline)
    yield writer
    await writer.close()


async def test_it_is_in_the_file_when_the_call_returns(writer: Writer, path: Path, inline: Always) -> None:
    seen: list[int] = []
    assert writer.here(put("a", seen=seen)) == 1
    assert names(path) == ["a"]
    assert seen == [threading.get_ident()]
    assert len(inline.here) == 1


async def test_without_leave_nothing_is_done(path: Path, inline: Always, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "may", lambda _: False)
    for writer in (
        Writer(path, SCHEMA, asyncio.get_running_loop()),
        Writer(path, SCHEMA, asyncio.get_running_loop(), inline=inline),
    ):
        assert not writer.here(put("a"))
        assert names(path) == []
        await writer.close()
        assert not writer.here(put("a"))


async def test_nothing_overtakes_work_that_was_handed_in(writer: Writer, path: Path) -> None:
    release = threading.Event()
    waiting = writer.submit(lambda _: release.wait(30))
    assert not writer.here(put("a")), "it has not been handed over yet"
    await asyncio.sleep(0)
    assert not writer.here(put("a")), "the thread has it"
    release.set()
    refused: list[int | None] = []
    told = asyncio.get_running_loop().create_future()
    writer.call(put("b"), lambda *_: refused.append(writer.here(put("c"))))
    writer.call(put("d"), lambda *_: told.set_result(writer.here(put("e"))))
    assert await told is None
    assert refused == [None], "outcomes of earlier work were still being told"
    await waiting
    await idle(writer, path)
    assert names(path) == ["b", "d", "last"]


async def idle(writer: Writer, path: Path) -> None:
    """Wait until the thread has let go of the connection."""
    async with asyncio.timeout(30):
        while not writer.here(put("last")):
            await asyncio.sleep(0.001)


async def test_outcomes_and_rows_are_in_the_order_of_the_calls(writer: Writer, path: Path, inline: Always) -> None:
    chance, order = random.Random(7), []
    for number in range(600):
        name = f"{number:03}"
        if writer.here(put(name)):
            order.append(name)
        else:
            writer.call(put(name), lambda *_, name=name: order.append(name))
        if chance.random() < 0.3:
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.002)))
    await writer.submit(put("end"))
    assert order == [f"{number:03}" for number in range(600)]
    assert names(path) == [*order, "end"]
    assert inline.here
    assert inline.in_thread


async def test_what_fails_leaves_nothing_and_all_goes_on(writer: Writer, path: Path) -> None:
    def refuse(_: apsw.Connection) -> None:
        raise HubError(DEVICE_EXISTS, "no")

    await writer.submit(lambda _: writer.kept.update(twin=1))
    async with asyncio.timeout(30):
        while not writer.here(put("a")):
            await asyncio.sleep(0.001)
    with pytest.raises(HubError) as caught:
        writer.here(put("a"))
    assert caught.value.row is SERVER_ERROR
    assert isinstance(caught.value.__cause__, apsw.ConstraintError)
    assert writer.kept == {}
    with pytest.raises(HubError) as caught:
        writer.here(refuse)
    assert caught.value.row is DEVICE_EXISTS
    assert writer.here(put("b"))
    await writer.submit(put("c"))
    assert names(path) == ["a", "b", "c"]


class Watched(apsw.VFS):
    """Notes which thread writes into the database file itself, as checkpoints do."""

    def __init__(self) -> None:
        super().__init__("watched", "")
        self.writers: set[int] = set()

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _WatchedFile(self, name, flags)


class _WatchedFile(apsw.VFSFile):
    def __init__(self, disk: Watched, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._is_database = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)

    def xWrite(self, data: Any, offset: int) -> None:
        if self._is_database:
            self._disk.writers.add(threading.get_ident())
        super().xWrite(data, offset)


async def test_checkpoints_are_made_and_never_on_the_loops_thread(path: Path, inline: Always) -> None:
    disk = Watched()
    loop = asyncio.get_running_loop()
    writer = Writer(path, SCHEMA, loop, vfs="watched", checkpoint_bytes=65536, inline=inline)
    disk.writers.clear()
    log = path.with_name("items.db-wal")
    for number in range(200):
        if not writer.here(put(str(number), "x" * 10000)):
            await writer.submit(put(str(number), "x" * 10000))
    assert disk.writers
    assert threading.get_ident() not in disk.writers
    assert inline.here
    await writer.close()
    assert not log.exists()
    assert len(names(path)) == 200
    disk.unregister()


async def test_closing_waits_for_nothing_that_was_done_here(writer: Writer, path: Path) -> None:
    assert writer.here(put("a"))
    await writer.close()
    assert names(path) == ["a"]
