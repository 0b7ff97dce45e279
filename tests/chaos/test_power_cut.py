"""The power goes at any moment: what was acknowledged is there, in order, and nothing else is damaged.

A workload runs on a disk that records every file call. For many points of the record the files are made as a
power cut there could leave them (what was not synced is lost, kept, or torn), and the log is opened on them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from muster.messages.contract import Share, Slice
from muster.stores.sqlite.database import open_connection
from muster.stores.sqlite.inline import Inline
from muster.stores.sqlite.telemetry import SqliteTelemetryLog, Tuning
from muster.testing.disk import Call, Kind, Leave, Platter, RecordingDisk
from tests.always_inline import Always

PARTITIONS = 3
SMALL = Tuning(page_size=4096, checkpoint_bytes=96 * 1024, index_every=16)
"""So that a short workload sees many checkpoints and indexings."""

COMMITS = 120


class Acknowledged(NamedTuple):
    """Noted when the log said that these messages are on disk."""

    partition: int
    next: int


class MayBeTrimmed(NamedTuple):
    """Noted before the log is told to drop old messages: of each partition, what comes before these numbers."""

    firsts: tuple[int, ...]


def record(partition: int, sequence: int) -> bytes:
    chance = random.Random(partition * 1_000_003 + sequence)
    size = chance.choice((0, 20, 200, 3_000, 30_000)) if sequence % 10 == 0 else chance.randint(0, 300)
    return b"%d/%d " % (partition, sequence) + chance.randbytes(size)


def open_log(
    directory: Path, *, vfs: str | None = None, durable: bool = True, inline: Inline | None = None
) -> SqliteTelemetryLog:
    loop = asyncio.get_running_loop()
    path = directory / "telemetry.db"
    return SqliteTelemetryLog(
        path, PARTITIONS, loop, created_at=1.0, vfs=vfs, durable=durable, tuning=SMALL, inline=inline
    )


async def run_workload(directory: Path, disk: RecordingDisk, *, durable: bool, inline: Inline | None = None) -> None:
    """Commits of one to many messages, several under way at a time, with trims and restarts between."""
    chance = random.Random(20)
    next_ = [0] * PARTITIONS
    history: list[tuple[int, ...]] = []
    log = open_log(directory, vfs=disk.name, durable=durable, inline=inline)
    pending: list[asyncio.Future[None]] = []
    for ms in range(1, COMMITS + 1):
        shares = []
        for partition in chance.sample(range(PARTITIONS), chance.randint(1, PARTITIONS)):
            count = chance.choice((1, 1, 2, 40))
            base = next_[partition]
            next_[partition] += count
            shares.append(Share(partition, [record(partition, base + n) for n in range(count)]))
        pending.append(commit(log, disk, ms, shares, tuple(next_)))
        if len(pending) > chance.randint(0, 2):
            await asyncio.gather(*pending)
            pending = []
        history.append(tuple(next_))
        if ms % 30 == 0:
            disk.note(MayBeTrimmed(history[ms - 22]))
            await log.trim(ms, 20, 1 << 40)
        if ms % 50 == 0:
            await asyncio.gather(*pending)
            await log.close()
            log = open_log(directory, vfs=disk.name, durable=durable, inline=inline)
    await log.close()


def commit(
    log: SqliteTelemetryLog, disk: RecordingDisk, ms: int, shares: Sequence[Share], ends: Sequence[int]
) -> asyncio.Future[None]:
    """``ends`` is where each partition ends when ``shares`` are stored."""
    future = asyncio.get_running_loop().create_future()

    def done(error: BaseException | None) -> None:
        assert error is None
        for share in shares:
            disk.note(Acknowledged(share.partition, ends[share.partition]))
        future.set_result(None)

    log.commit(shares, ms, done)
    return future


class Promise:
    """What the notes up to a point of the record oblige the log to."""

    def __init__(self) -> None:
        self.next = [0] * PARTITIONS
        self.firsts: tuple[int, ...] = (0,) * PARTITIONS

    def hear(self, note: object) -> None:
        match note:
            case Acknowledged(partition, next_):
                self.next[partition] = max(self.next[partition], next_)
            case MayBeTrimmed(firsts):
                self.firsts = firsts


async def problems_of(directory: Path, promise: Promise) -> list[str]:
    """Open the log in ``directory`` and say what is wrong with it; empty when all is well."""
    log = open_log(directory, durable=False)
    problems = []
    try:
        for partition, state in enumerate(log.states()):
            found = list(await log.read(partition, 0, 1 << 40))
            problems += problems_with(partition, found, state.first, state.next)
            if state.next < promise.next[partition]:
                problems.append(f"{partition}: {promise.next[partition]} were acknowledged, {state.next} are there")
            if state.first > promise.firsts[partition]:
                problems.append(f"{partition}: messages before {state.first} are gone without having been trimmed")
            future = asyncio.get_running_loop().create_future()
            log.commit([Share(partition, new := [b"after the cut"])], 1 << 40, future.set_result)
            wanted = [Slice(state.next, 1 << 40, new)]
            if await future is not None or await log.read(partition, state.next, 1) != wanted:
                problems.append(f"{partition}: the log does not go on")
        problems += [f"{partition}: the row of {base} is damaged" for partition, base in log.damaged]
    finally:
        await log.close()
    return problems + integrity_of(directory)


def problems_with(partition: int, found: Sequence[Slice], first: int, next_: int) -> Iterator[str]:
    expected = first
    for run in found:
        if run.base != expected:
            yield f"{partition}: {expected} should come, {run.base} does"
        for sequence, message in enumerate(run.records, run.base):
            if message != record(partition, sequence):
                yield f"{partition}: message {sequence} is not what was sent"
        expected = run.base + len(run.records)
    if expected != next_:
        yield f"{partition}: messages end at {expected}, the next is said to be {next_}"


def integrity_of(directory: Path) -> list[str]:
    connection = open_connection(directory / "telemetry.db", durable=False)
    try:
        found = connection.pragma("integrity_check")
    finally:
        connection.close()
    return [] if found == "ok" else [f"integrity check: {found}"]


def cuts_of(calls: Sequence[Call], count: int) -> set[int]:
    """The points to cut at: before and after notes (they are where promises change), and others by chance."""
    chance = random.Random(3)
    noted = [index for index, call in enumerate(calls) if call.kind is Kind.NOTE]
    points = {index + after for index in chance.sample(noted, min(len(noted), count // 4)) for after in (0, 1)}
    return points | set(chance.sample(range(len(calls) + 1), count // 2)) | {len(calls)}


async def problems_after_cuts(
    calls: Sequence[Call], scratch: Path, leaves: Sequence[Leave], count: int
) -> dict[str, list[str]]:
    platter, promise, chance = Platter(), Promise(), random.Random(4)
    cuts = cuts_of(calls, count)
    problems: dict[str, list[str]] = {}
    for point in range(len(calls) + 1):
        if point in cuts:
            for leave in leaves:
                directory = scratch / f"{point}-{leave}"
                directory.mkdir()
                platter.cut(directory, leave, chance)
                if found := await problems_of(directory, promise):
                    problems[directory.name] = found
                for file in directory.iterdir():
                    file.unlink()
        if point < len(calls):
            platter.play(calls[point])
            promise.hear(calls[point].note)
    return problems


@pytest.fixture
def disk() -> Iterator[RecordingDisk]:
    with RecordingDisk("recording") as disk:
        yield disk


@pytest.mark.timeout(600)
@pytest.mark.parametrize("make_inline", [lambda: None, Always], ids=["in the thread", "inline"])
async def test_nothing_acknowledged_is_lost_wherever_the_power_is_cut(
    disk: RecordingDisk, tmp_path: Path, make_inline: Callable[[], Always | None]
) -> None:
    (tmp_path / "live").mkdir()
    inline = make_inline()
    await run_workload(tmp_path / "live", disk, durable=True, inline=inline)
    assert inline is None or len(inline.here) > COMMITS // 20
    kinds = [call.kind for call in disk.calls]
    checkpoints = sum(call.kind is Kind.SYNC and call.name == "telemetry.db" for call in disk.calls)
    assert checkpoints > 10
    assert kinds.count(Kind.DELETE) > 1
    assert await problems_after_cuts(disk.calls, tmp_path, list(Leave), 400) == {}


async def test_without_syncing_the_same_test_finds_losses(disk: RecordingDisk, tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    await run_workload(tmp_path / "live", disk, durable=False)
    assert await problems_after_cuts(disk.calls, tmp_path, [Leave.EVERYTHING], 40) == {}
    problems = await problems_after_cuts(disk.calls, tmp_path / "live", [Leave.NOTHING], 40)
    assert any("were acknowledged" in problem for found in problems.values() for problem in found)
