"""What the SQLite log adds to the contract: damage is found, a full disk heals, the files stay small."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import SERVER_ERROR, HubError
from muster.messages.contract import Share, Slice
from muster.stores.sqlite.inline import Inline
from muster.stores.sqlite.rows import ROW_BYTES, Write, pack, unpack
from muster.stores.sqlite.telemetry import DEFAULT_TUNING, SqliteTelemetryLog, Tuning
from muster.testing.disk import RecordingDisk
from tests.always_inline import Always, let_go


def open_log(
    path: Path,
    *,
    vfs: str | None = None,
    tuning: Tuning = DEFAULT_TUNING,
    durable: bool = True,
    inline: Inline | None = None,
) -> SqliteTelemetryLog:
    loop = asyncio.get_running_loop()
    return SqliteTelemetryLog(path, 2, loop, created_at=1.0, vfs=vfs, tuning=tuning, durable=durable, inline=inline)


@pytest.fixture(params=[None, Always], ids=["in the thread", "inline"])
def inline(request: pytest.FixtureRequest) -> Always | None:
    return None if request.param is None else Always()


def commit(log: SqliteTelemetryLog, now_ms: int, *shares: Share) -> asyncio.Future[BaseException | None]:
    future = asyncio.get_running_loop().create_future()
    log.commit(shares, now_ms, future.set_result)
    return future


def contents_of(path: Path) -> bytes:
    return path.read_bytes()


def overwrite(path: Path, contents: bytes) -> None:
    path.write_bytes(contents)


def files_size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.iterdir())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.db"


@given(st.lists(st.binary(max_size=50), min_size=1), st.integers(0, 31), st.integers(0, 2**47))
def test_a_row_holds_what_was_packed(records: list[bytes], partition: int, base: int) -> None:
    (row,) = pack(Write(partition, base, 77, records))
    assert unpack(row) == Slice(base, 77, records)


@given(st.lists(st.sampled_from([0, 1, 400_000, ROW_BYTES - 1, ROW_BYTES, ROW_BYTES + 1]), min_size=1, max_size=8))
def test_large_shares_are_split_between_records(sizes: list[int]) -> None:
    rows = pack(Write(1, 10, 5, [bytes(size) for size in sizes]))
    assert [row.base for row in rows] == [10 + sum(row.messages for row in rows[:n]) for n in range(len(rows))]
    assert [len(record) for row in rows for record in unpack(row).records] == sizes
    for row in rows:
        assert row.messages == 1 or len(row.data) - 4 * row.messages <= ROW_BYTES


@given(st.data())
def test_a_changed_row_is_noticed(data: st.DataObject) -> None:
    (row,) = pack(Write(1, 10, 5, [b"alpha", b"", b"gamma"]))
    column = data.draw(st.sampled_from(["partition", "base", "messages", "enqueued_ms", "checksum", "data"]))
    if column == "data":
        at, bit = data.draw(st.integers(0, len(row.data) - 1)), data.draw(st.integers(0, 7))
        changed = bytearray(row.data)
        changed[at] ^= 1 << bit
        wrong = row._replace(data=bytes(changed))
    else:
        wrong = row._replace(**{column: getattr(row, column) ^ (1 << data.draw(st.integers(0, 31)))})
    assert unpack(wrong) is None
    assert unpack(row._replace(data=row.data[:-1])) is None


@pytest.mark.parametrize("index_every", [1, 1000], ids=["indexed", "since the index"])
async def test_a_damaged_row_is_named_and_not_served(
    path: Path, caplog: pytest.LogCaptureFixture, index_every: int
) -> None:
    tuning = Tuning(index_every=index_every)
    log = open_log(path, tuning=tuning)
    for number in range(0, 12, 3):
        await commit(log, number, Share(1, [b"one", b"two", b"three"]))
    await log.close()
    good, bad = b"onetwothree", b"oneowtthree"
    gap, *gaps = contents_of(path).split(good)  # SQLite fills pages from the end: the newest row comes first
    overwrite(path, gap + b"".join(map(bytes.__add__, (bad, good, bad, good), gaps)))
    log = open_log(path, tuning=tuning)
    with caplog.at_level(logging.ERROR):
        assert [run.base for run in await log.read(1, 0, 1 << 30)] == [0, 6]
        assert [run.base for run in await log.read(1, 4, 1)] == [6]
        assert list(await log.read(1, 9, 1)) == []
    assert f"{path}: partition 1: 3 messages from sequence number 9 on are damaged" in caplog.text
    assert log.damaged == {(1, 3), (1, 9)}
    assert len(caplog.records) == 2, "each is reported once"
    assert log.states()[1].next == 12
    await log.close()


async def test_a_damaged_file_is_named(path: Path) -> None:
    log = open_log(path)
    await commit(log, 1, Share(0, [bytes(100_000)] * 20))
    await log.close()
    contents = contents_of(path)
    overwrite(path, contents[:8192] + b"\xa5" * (len(contents) - 8192))
    with pytest.raises(HubError, match=r"telemetry\.db: the file is damaged") as caught:
        open_log(path)
    assert caught.value.row is SERVER_ERROR


@pytest.fixture
def disk() -> Iterator[RecordingDisk]:
    with RecordingDisk("faulty") as disk:
        yield disk


async def test_a_full_disk_refuses_and_heals(path: Path, disk: RecordingDisk, inline: Always | None) -> None:
    log = open_log(path, vfs=disk.name, inline=inline)
    assert await commit(log, 1, Share(0, [b"before"])) is None
    await let_go(log._writer)
    disk.full = True
    refused = [commit(log, 2, Share(0, [b"lost"])) for number in range(5)]
    for error in await asyncio.gather(*refused):
        assert isinstance(error, HubError)
        assert error.row is SERVER_ERROR
    assert "the disk is full; free some space" in str(refused[0].result())
    assert inline is None or len(inline.here) == 1, "the others follow in the thread, which reads where the log stands"
    assert [run.records for run in await log.read(0, 0, 1 << 30)] == [[b"before"]]
    disk.full = False
    assert await commit(log, 3, Share(0, [b"after"])) is None
    await log.close()
    log = open_log(path, vfs=disk.name)
    assert [run.records for run in await log.read(0, 0, 1 << 30)] == [[b"before"], [b"after"]]
    await log.close()


async def test_a_disk_that_cannot_flush_acknowledges_nothing(
    path: Path, disk: RecordingDisk, inline: Always | None
) -> None:
    log = open_log(path, vfs=disk.name, inline=inline)
    await commit(log, 1, Share(0, [b"before"]))
    await let_go(log._writer)
    disk.broken = {"telemetry.db-wal"}
    assert isinstance(await commit(log, 1, Share(0, [b"lost"])), HubError)
    assert inline is None or len(inline.here) == 1
    disk.broken = set()
    assert [run.records for run in await log.read(0, 0, 1 << 30)] == [[b"before"]]
    assert await commit(log, 1, Share(0, [b"after"])) is None
    assert [run.records for run in await log.read(0, 0, 1 << 30)] == [[b"before"], [b"after"]]
    await log.close()


async def test_a_checkpoint_that_fails_loses_nothing_and_is_made_up_for(
    path: Path, disk: RecordingDisk, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(path, vfs=disk.name, tuning=Tuning(checkpoint_bytes=64 * 1024))
    disk.broken = {"telemetry.db"}
    for _ in range(10):
        assert await commit(log, 1, Share(0, [bytes(50_000)])) is None
    assert "the disk failed to read or write" in caplog.text
    disk.broken = set()
    grown = files_size(path)
    for _ in range(10):
        assert await commit(log, 1, Share(0, [bytes(50_000)])) is None
    assert files_size(path) < grown + 15 * 50_000
    await log.close()
    log = open_log(path, vfs=disk.name)
    assert sum(len(run.records) for run in await log.read(0, 0, 1 << 30)) == 20
    await log.close()


async def test_space_is_used_again_after_trimming(path: Path) -> None:
    log = open_log(path, tuning=Tuning(checkpoint_bytes=256 * 1024), durable=False)
    sizes = []
    for ms in range(400):
        await commit(log, ms, Share(0, [bytes(20_000)]))
        if ms % 20 == 19:
            await log.trim(ms, 20, 1 << 40)
            sizes.append(files_size(path))
    assert sizes[-1] < 2 * sizes[4]
    await log.close()
