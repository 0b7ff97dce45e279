"""The telemetry service: batches, bounds, failures, the tail in memory, retention."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from muster.core.errors import SERVER_ERROR, UNAVAILABLE, HubError
from muster.messages.contract import PartitionState, Share, Slice, Stored
from muster.messages.telemetry import Batch, Telemetry
from muster.stores.sqlite.telemetry import SqliteTelemetryLog
from muster.testing.clock import VirtualAmbient
from muster.testing.disk import RecordingDisk

DAY = 86_400.0


class HeldLog:
    """A log that ends each commit when the test says so, and keeps what it was given."""

    partitions = 4
    created_at = 5.0

    def __init__(self, states: Sequence[PartitionState] | None = None) -> None:
        self.first_states = states or [PartitionState(0, 0, 0)] * self.partitions
        self.commits: list[tuple[int, list[Share]]] = []
        self.asked: list[tuple[object, ...]] = []
        self.closed = False
        self.stored: Stored
        self._done: list[tuple[int, Sequence[Share], Callable[[BaseException | None], None]]] = []
        self._next: list[int] = []

    def states(self) -> Sequence[PartitionState]:
        self._next = [state.next for state in self.first_states]
        return self.first_states

    def listen(self, stored: Stored) -> None:
        self.stored = stored

    def commit(self, shares: Sequence[Share], now_ms: int, done: Callable[[BaseException | None], None]) -> None:
        self.commits.append((now_ms, list(shares)))
        self._done.append((now_ms, shares, done))

    def end(self, error: BaseException | None = None) -> None:
        now_ms, shares, done = self._done.pop(0)
        if error is None:
            for partition, records in shares:
                self.stored(partition, Slice(self._next[partition], now_ms, records))
                self._next[partition] += len(records)
        done(error)

    async def read(self, partition: int, sequence: int, limit_bytes: int) -> Sequence[Slice]:
        self.asked.append((partition, sequence, limit_bytes))
        return [Slice(sequence, 1, [b"from disk"])]

    async def sequence_at(self, partition: int, enqueued_ms: int, *, inclusive: bool) -> int:
        self.asked.append((partition, enqueued_ms, inclusive))
        return 4711

    async def trim(self, now_ms: int, keep_ms: int, limit_bytes: int) -> Sequence[int]:
        return [0] * self.partitions

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def ambient() -> VirtualAmbient:
    return VirtualAmbient(now=1000.0)


@pytest.fixture
def held() -> HeldLog:
    return HeldLog()


def serve(log: HeldLog, ambient: VirtualAmbient, **options: int) -> Telemetry:
    return Telemetry(log, ambient, retention_seconds=DAY, retention_bytes=1 << 40, **options)


@pytest.fixture
async def telemetry(held: HeldLog, ambient: VirtualAmbient) -> Telemetry:
    return serve(held, ambient)


async def rounds(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def outcome(batch: Batch) -> list[BaseException | None]:
    """Filled when the batch's outcome is known."""
    told: list[BaseException | None] = []
    batch.when_durable(told.append)
    return told


FULL = HubError(SERVER_ERROR, "the disk is full")


async def test_all_of_a_loop_round_is_one_commit(telemetry: Telemetry, held: HeldLog) -> None:
    batch = telemetry.append(2, b"a")
    assert telemetry.append(0, b"b") is batch
    asyncio.get_running_loop().call_soon(telemetry.append, 2, b"c")
    assert telemetry.append(2, b"d") is batch
    assert held.commits == []
    await rounds()
    assert held.commits == [(1_000_000, [Share(0, [b"b"]), Share(2, [b"a", b"d"])])]
    assert telemetry.state(2) == PartitionState(0, 0, 0), "only what is on disk counts"


async def test_what_comes_during_a_commit_is_the_next_one(
    telemetry: Telemetry, held: HeldLog, ambient: VirtualAmbient
) -> None:
    first = outcome(telemetry.append(1, b"a"))
    await rounds()
    second = outcome(telemetry.append(1, b"b"))
    telemetry.append(1, b"c")
    await rounds()
    assert len(held.commits) == 1
    ambient.advance(1.5)
    held.end()
    assert first == [None]
    assert second == []
    assert held.commits[1:] == [(1_001_500, [Share(1, [b"b", b"c"])])], "the next commit started at once"
    assert telemetry.state(1) == PartitionState(0, 1, 1_000_000)
    held.end()
    assert second == [None]
    assert telemetry.state(1) == PartitionState(0, 3, 1_001_500)
    assert (telemetry.messages, telemetry.bytes, telemetry.commits, telemetry.failed_commits) == (3, 3, 2, 0)
    await rounds()
    assert len(held.commits) == 2


async def test_the_next_commit_starts_before_the_acknowledgements_go_out(telemetry: Telemetry, held: HeldLog) -> None:
    seen: list[int] = []
    telemetry.append(0, b"a").when_durable(lambda error: seen.append(len(held.commits)))
    await rounds()
    telemetry.append(0, b"b")
    held.end()
    assert seen == [2]


async def test_receivers_are_woken_once_the_state_has_moved(telemetry: Telemetry, held: HeldLog) -> None:
    seen: list[tuple[int, int]] = []
    end = telemetry.subscribe(3, lambda: seen.append((3, telemetry.state(3).next)))
    telemetry.subscribe(1, lambda: seen.append((1, telemetry.state(1).next)))
    telemetry.append(3, b"a")
    await rounds()
    assert seen == []
    held.end()
    assert seen == [], "acknowledgements and the next commit come first"
    await rounds()
    assert seen == [(3, 1)]
    end()
    end()
    telemetry.append(3, b"a")
    telemetry.append(1, b"a")
    await rounds()
    held.end()
    await rounds()
    assert seen == [(3, 1), (1, 1)]


async def test_a_failed_commit_fails_what_is_behind_it_and_uses_no_numbers(telemetry: Telemetry, held: HeldLog) -> None:
    order: list[str] = []
    telemetry.append(0, b"a").when_durable(lambda error: order.append(f"first {error}"))
    await rounds()
    behind = telemetry.append(0, b"b")
    behind.when_durable(lambda error: order.append(f"behind {error}"))
    held.end(FULL)
    assert order == [f"first {FULL}", f"behind {FULL}"]
    assert telemetry.state(0) == PartitionState(0, 0, 0)
    assert telemetry.pending_bytes == 0
    await rounds()
    assert len(held.commits) == 1, "what is behind a failure is not written either"
    again = telemetry.append(0, b"a")
    assert again is not behind
    told = outcome(again)
    await rounds()
    assert held.commits[1] == (1_000_000, [Share(0, [b"a"])])
    held.end()
    assert told == [None]
    assert (telemetry.messages, telemetry.commits, telemetry.failed_commits) == (1, 1, 1)


async def test_messages_sent_from_a_failure_callback_are_a_batch_of_their_own(
    telemetry: Telemetry, held: HeldLog
) -> None:
    retried: list[Batch] = []
    failed = telemetry.append(0, b"a")
    failed.when_durable(lambda error: retried.append(telemetry.append(0, b"again")))
    await rounds()
    held.end(FULL)
    assert retried != [failed]
    await rounds()
    assert held.commits[1] == (1_000_000, [Share(0, [b"again"])])


async def test_a_callback_that_fails_does_not_stop_the_others(telemetry: Telemetry, held: HeldLog) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))
    error = ValueError("mine")

    def fail(*_: object) -> None:
        raise error

    batch = telemetry.append(0, b"a")
    batch.when_durable(fail)
    told = outcome(batch)
    woken: list[bool] = []
    telemetry.subscribe(0, fail)
    telemetry.subscribe(0, lambda: woken.append(True))
    await rounds()
    held.end()
    await rounds()
    assert told == [None]
    assert woken == [True]
    assert problems == [error, error]


async def test_congestion_begins_above_the_bound_and_ends_with_the_commit(
    held: HeldLog, ambient: VirtualAmbient
) -> None:
    telemetry = serve(held, ambient, max_pending_bytes=100)
    cleared: list[str] = []
    telemetry.append(0, bytes(100))
    assert not telemetry.congested
    telemetry.when_clear(lambda: cleared.append("at once"))
    telemetry.append(0, b"x")
    assert telemetry.congested
    await rounds()
    assert cleared == ["at once"]
    telemetry.append(1, bytes(60))

    def resume() -> None:
        cleared.append("first")
        telemetry.append(1, bytes(60))

    telemetry.when_clear(resume)
    telemetry.when_clear(lambda: cleared.append("second"))
    held.end()
    assert cleared == ["at once", "first"], "the second is held back by what the first sent"
    assert telemetry.congested
    held.end()
    assert cleared == ["at once", "first", "second"]
    assert telemetry.pending_bytes == 60


async def test_congestion_ends_with_a_failure_too(held: HeldLog, ambient: VirtualAmbient) -> None:
    telemetry = serve(held, ambient, max_pending_bytes=10)
    telemetry.append(0, bytes(11))
    cleared: list[bool] = []
    telemetry.when_clear(lambda: cleared.append(True))
    await rounds()
    held.end(FULL)
    assert cleared == [True]


async def commit_all(telemetry: Telemetry, held: HeldLog, partition: int, *records: bytes) -> None:
    for message in records:
        telemetry.append(partition, message)
    await rounds()
    held.end()


async def test_the_tail_serves_who_keeps_up(telemetry: Telemetry, held: HeldLog) -> None:
    assert list(telemetry.tail(0, 0) or ["none"]) == ["none"]
    await commit_all(telemetry, held, 0, b"a", b"b", b"c")
    await commit_all(telemetry, held, 0, b"d")
    now = 1_000_000
    assert telemetry.tail(0, 0) == [Slice(0, now, [b"a", b"b", b"c"]), Slice(3, now, [b"d"])]
    assert telemetry.tail(0, 2) == [Slice(2, now, [b"c"]), Slice(3, now, [b"d"])]
    assert telemetry.tail(0, 3) == [Slice(3, now, [b"d"])]
    assert telemetry.tail(0, 4) == ()
    assert telemetry.tail(0, 99) == ()
    assert telemetry.tail(1, 0) == ()
    assert await telemetry.read(0, 3, 1) == [Slice(3, now, [b"d"])]
    telemetry.append(0, b"not yet on disk")
    await rounds()
    assert telemetry.tail(0, 4) == ()
    assert held.asked == []


async def test_what_is_older_than_the_tail_is_read_from_disk(held: HeldLog, ambient: VirtualAmbient) -> None:
    held.first_states = [PartitionState(2, 7, 900_000), *held.first_states[1:]]
    telemetry = serve(held, ambient, tail_bytes=500)
    assert telemetry.tail(0, 6) is None
    assert telemetry.tail(0, 7) == ()
    assert await telemetry.read(0, 5, 1000) == [Slice(5, 1, [b"from disk"])]
    assert held.asked == [(0, 5, 1000)]
    await commit_all(telemetry, held, 0, bytes(300))
    assert telemetry.tail(0, 7) is not None
    await commit_all(telemetry, held, 1, bytes(300))
    assert telemetry.tail(0, 7) is None, "the oldest goes first, whatever its partition"
    assert telemetry.tail(0, 8) == ()
    assert telemetry.tail(1, 0) is not None
    await commit_all(telemetry, held, 1, bytes(10_000))
    assert telemetry.tail(1, 1) is None, "a slice larger than the tail is not kept"
    assert telemetry.tail(1, 2) == ()


async def test_positions_by_time_come_from_the_tail_or_the_disk(held: HeldLog, ambient: VirtualAmbient) -> None:
    held.first_states = [PartitionState(2, 7, 900_000), *held.first_states[1:]]
    telemetry = serve(held, ambient)
    assert await telemetry.sequence_at(0, 900_000, inclusive=False) == 7
    assert await telemetry.sequence_at(1, 5, inclusive=True) == 0
    assert held.asked == []
    assert await telemetry.sequence_at(0, 900_000, inclusive=True) == 4711
    for _ in range(3):
        await commit_all(telemetry, held, 0, b"a", b"b")
        ambient.advance(1)
    held.asked.clear()
    assert await telemetry.sequence_at(0, 1_000_000, inclusive=False) == 9
    assert await telemetry.sequence_at(0, 1_001_000, inclusive=True) == 9
    assert await telemetry.sequence_at(0, 1_001_001, inclusive=True) == 11
    assert await telemetry.sequence_at(0, 1_002_000, inclusive=False) == 13
    assert held.asked == []
    assert await telemetry.sequence_at(0, 999_999, inclusive=True) == 4711, "older ones may be of that time too"


async def test_closing_commits_what_was_taken_and_takes_no_more(telemetry: Telemetry, held: HeldLog) -> None:
    told = outcome(telemetry.append(0, b"a"))
    await rounds()
    told_behind = outcome(telemetry.append(0, b"b"))
    closing = asyncio.gather(telemetry.close(), telemetry.close())
    await rounds()
    held.end()
    assert not held.closed
    with pytest.raises(HubError) as caught:
        telemetry.append(0, b"c")
    assert caught.value.row is UNAVAILABLE
    held.end()
    await closing
    assert (told, told_behind, held.closed) == ([None], [None], True)
    with pytest.raises(HubError):
        telemetry.append(0, b"c")
    await telemetry.close()


async def test_closing_ends_when_the_last_commit_fails(telemetry: Telemetry, held: HeldLog) -> None:
    told = outcome(telemetry.append(0, b"a"))
    closing = asyncio.ensure_future(telemetry.close())
    await rounds()
    held.end(FULL)
    await closing
    assert told == [FULL]


async def test_devices_keep_their_partition(telemetry: Telemetry) -> None:
    known = {"device-1": 3, "device-2": 1, "Device-1": 3, "thermostat": 2, "x": 3}
    assert {name: telemetry.partition_of(name) for name in known} == known
    counts = [0] * 4
    for number in range(4000):
        counts[telemetry.partition_of(f"device-{number:05}")] += 1
    assert min(counts) > 900


class Parts:
    """The service on a real log, with a clock of its own."""

    def __init__(self, path: Path, ambient: VirtualAmbient, vfs: str | None = None, **options: float) -> None:
        self.log = SqliteTelemetryLog(path, 2, asyncio.get_running_loop(), created_at=3.0, vfs=vfs, durable=False)
        self.ambient = ambient
        settings = {"retention_seconds": 100.0, "retention_bytes": 1 << 40, **options}
        self.telemetry = Telemetry(self.log, ambient, **settings)  # type: ignore[arg-type]

    async def send(self, partition: int, *records: bytes) -> None:
        future = asyncio.get_running_loop().create_future()
        for message in records:
            batch = self.telemetry.append(partition, message)
        batch.when_durable(lambda error: future.set_exception(error) if error else future.set_result(None))
        await future

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.001)


@pytest.fixture
async def parts(tmp_path: Path, ambient: VirtualAmbient) -> AsyncIterator[Parts]:
    parts = Parts(tmp_path / "telemetry.db", ambient)
    yield parts
    await parts.telemetry.close()


async def test_what_is_too_old_goes_when_its_time_has_come(parts: Parts) -> None:
    telemetry, ambient = parts.telemetry, parts.ambient
    assert telemetry.created_at == 3.0
    await parts.send(0, b"a", b"b")
    ambient.advance(60)
    await parts.send(0, b"c")
    await parts.send(1, b"d")
    telemetry.start()
    await rounds()
    await telemetry.trim()
    assert [telemetry.state(0).first, telemetry.state(1).first] == [0, 0]
    for _ in range(5):
        ambient.advance(10)
        await parts.until(lambda: telemetry._retention._task is None)
    assert [telemetry.state(0).first, telemetry.state(1).first] == [2, 0]
    assert telemetry.tail(0, 0) is None, "what was trimmed is not served from memory either"
    assert [run.records for run in await telemetry.read(0, 0, 1000)] == [[b"c"]]
    ambient.advance(60)
    await parts.until(lambda: telemetry.state(1).first == 1)
    assert telemetry.state(0) == PartitionState(3, 3, 1_060_000)
    await telemetry.stop()
    await parts.send(0, b"e")
    ambient.advance(1000)
    await asyncio.sleep(0.02)
    assert telemetry.state(0).first == 3, "nothing is removed after stop"


async def test_what_is_too_much_goes_soon(tmp_path: Path, ambient: VirtualAmbient) -> None:
    parts = Parts(tmp_path / "telemetry.db", ambient, retention_bytes=100_000)
    parts.telemetry.start()
    for number in range(60):
        await parts.send(number % 2, bytes(5_000))
    await parts.until(lambda: parts.telemetry.state(0).first + parts.telemetry.state(1).first >= 38)
    await parts.telemetry.trim()
    kept = [run for partition in (0, 1) for run in await parts.log.read(partition, 0, 1 << 30)]
    assert 18 <= len(kept) <= 20
    await parts.telemetry.close()


async def test_a_full_disk_refuses_everything_and_heals(
    tmp_path: Path, ambient: VirtualAmbient, caplog: pytest.LogCaptureFixture
) -> None:
    with RecordingDisk("full-at-times") as disk:
        parts = Parts(tmp_path / "telemetry.db", ambient, vfs=disk.name)
        parts.telemetry.start()
        chance = random.Random(5)
        stored: list[bytes] = []
        for number in range(60):
            disk.full = chance.random() < 0.4
            message = b"%d" % number
            results = await asyncio.gather(
                parts.send(0, message), parts.send(0, b"and " + message), return_exceptions=True
            )
            assert {type(result) for result in results} == {HubError if disk.full else type(None)}
            if not disk.full:
                stored += [message, b"and " + message]
        assert 40 < len(stored) < 100
        disk.full = True
        ambient.advance(1000)
        await parts.until(lambda: "old telemetry was not removed" in caplog.text)
        disk.full = False
        assert [r for run in await parts.log.read(0, 0, 1 << 30) for r in run.records] == stored
        assert parts.telemetry.state(0).next == len(stored)
        ambient.advance(100)
        await parts.until(lambda: parts.telemetry.state(0).first == len(stored))
        await parts.telemetry.close()
