"""What every telemetry log promises, whatever it is built on. A store is one more entry in ``STORES``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.core.errors import INVALID_OPERATION, SERVER_ERROR, HubError
from muster.messages.contract import PartitionState, Slice, TelemetryLog, Write
from muster.stores.sqlite.telemetry import DEFAULT_TUNING, SqliteTelemetryLog, Tuning

Opener = Callable[[], TelemetryLog]
"""Opens the same log each time, the one before having been closed."""

EVERYTHING = 1 << 60
CREATED_AT = 1_800_000_000.25


def sqlite(directory: Path, partitions: int = 4, tuning: Tuning = DEFAULT_TUNING) -> TelemetryLog:
    path = directory / "telemetry.db"
    loop = asyncio.get_running_loop()
    return SqliteTelemetryLog(path, partitions, loop, created_at=CREATED_AT, durable=False, tuning=tuning)


STORES: dict[str, Callable[..., TelemetryLog]] = {
    "sqlite": sqlite,
    "sqlite-small": partial(sqlite, tuning=Tuning(page_size=512, checkpoint_bytes=8192, index_every=3)),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Callable[..., TelemetryLog]:
    return STORES[request.param]


@pytest.fixture
def opener(store: Callable[..., TelemetryLog], tmp_path: Path) -> Opener:
    return lambda: store(tmp_path)


@pytest.fixture
async def log(opener: Opener) -> AsyncIterator[TelemetryLog]:
    log = opener()
    yield log
    await log.close()


def commit(log: TelemetryLog, *writes: Write) -> asyncio.Future[None]:
    future = asyncio.get_running_loop().create_future()

    def done(error: BaseException | None) -> None:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    log.commit(writes, done)
    return future


def named(partition: int, base: int, count: int) -> list[bytes]:
    return [f"{partition}/{number}".encode() for number in range(base, base + count)]


async def fill(log: TelemetryLog, partition: int, counts: Sequence[int], *, start: int = 0, first_ms: int = 1) -> None:
    """Commit after commit of ``counts`` records, a millisecond apart."""
    for ms, count in enumerate(counts, first_ms):
        await commit(log, Write(partition, start, ms, named(partition, start, count)))
        start += count


async def everything(log: TelemetryLog, partition: int, sequence: int = 0) -> list[Slice]:
    """All that is kept from ``sequence`` on, read in small pages."""
    slices: list[Slice] = []
    while page := await log.read(partition, sequence, 1):
        slices += page
        sequence = page[-1].base + len(page[-1].records)
    return slices


def numbered(slices: Sequence[Slice]) -> dict[int, bytes]:
    return {run.base + index: record for run in slices for index, record in enumerate(run.records)}


async def trim_all(log: TelemetryLog, before_ms: int, limit_bytes: int = EVERYTHING) -> Sequence[int]:
    before, after = None, await log.trim(before_ms, limit_bytes)
    while after != before:
        before, after = after, await log.trim(before_ms, limit_bytes)
    return after


async def test_a_new_log_is_empty(log: TelemetryLog) -> None:
    assert log.partitions == 4
    assert log.created_at == CREATED_AT
    assert list(log.states()) == [PartitionState(0, 0, 0)] * 4
    assert list(await log.read(0, 0, 1000)) == []
    assert await log.sequence_at(3, 0, inclusive=True) == 0
    assert list(await log.trim(EVERYTHING, 0)) == [0, 0, 0, 0]


async def test_what_was_committed_is_read_back(log: TelemetryLog) -> None:
    await commit(log, Write(0, 0, 10, [b"a", b"", b"c" * 1000]), Write(2, 0, 11, [b"z"]))
    await commit(log, Write(0, 3, 12, [b"d"]))
    assert list(await log.read(0, 0, EVERYTHING)) == [Slice(0, 10, [b"a", b"", b"c" * 1000]), Slice(3, 12, [b"d"])]
    assert list(await log.read(2, 0, EVERYTHING)) == [Slice(0, 11, [b"z"])]
    assert list(await log.read(1, 0, EVERYTHING)) == []


async def test_reading_starts_at_the_very_message(log: TelemetryLog) -> None:
    await fill(log, 1, [3, 4])
    assert list(await log.read(1, 2, EVERYTHING)) == [Slice(2, 1, [b"1/2"]), Slice(3, 2, named(1, 3, 4))]
    assert list(await log.read(1, 5, EVERYTHING)) == [Slice(5, 2, [b"1/5", b"1/6"])]
    assert list(await log.read(1, -7, 1)) == [Slice(0, 1, named(1, 0, 3))]
    for beyond in (7, 8, 1 << 40, 1 << 70):
        assert list(await log.read(1, beyond, EVERYTHING)) == []


async def test_pages_are_bounded(log: TelemetryLog) -> None:
    for number in range(20):
        await commit(log, Write(0, number, number, [bytes(1000)]))
    assert len(await log.read(0, 0, 1)) == 1
    assert 4 <= len(await log.read(0, 0, 5000)) <= 6
    assert len(await log.read(0, 0, EVERYTHING)) == 20


async def test_a_large_share_is_stored_in_order_whatever_its_size(log: TelemetryLog) -> None:
    chance = random.Random(7)
    records = [chance.randbytes(chance.choice((0, 10, 5_000, 262_144))) for _ in range(60)]
    records.insert(30, bytes(2_500_000))
    await commit(log, Write(3, 0, 5, records))
    slices = await everything(log, 3)
    assert [record for run in slices for record in run.records] == records
    assert {run.enqueued_ms for run in slices} == {5}
    assert len(slices) > 3
    largest = max(sum(map(len, run.records)) for run in slices if len(run.records) > 1)
    assert largest <= 1024 * 1024


async def test_commits_end_in_order(log: TelemetryLog) -> None:
    order: list[int] = []
    for number in range(100):
        log.commit([Write(0, number, number, [b"x"])], lambda error, number=number: order.append(number))
    await commit(log, Write(0, 100, 100, [b"x"]))
    assert order == list(range(100))
    assert len(numbered(await log.read(0, 0, EVERYTHING))) == 101


@pytest.mark.parametrize(
    "wrong",
    [Write(0, 4, 9, [b"gap"]), Write(0, 2, 9, [b"again"]), Write(0, 3, 2, [b"back in time"])],
    ids=["gap", "again", "time"],
)
async def test_a_write_that_does_not_follow_is_refused_whole(log: TelemetryLog, wrong: Write) -> None:
    await fill(log, 0, [1, 1, 1])
    with pytest.raises(HubError) as caught:
        await commit(log, Write(1, 0, 9, [b"innocent"]), wrong)
    assert caught.value.row is SERVER_ERROR
    assert list(await log.read(1, 0, EVERYTHING)) == []
    await commit(log, Write(0, 3, 3, [b"goes on"]), Write(1, 0, 9, [b"too"]))
    assert len(numbered(await log.read(0, 0, EVERYTHING))) == 4


async def test_a_failure_fails_what_builds_on_it(log: TelemetryLog) -> None:
    bad = commit(log, Write(0, 1, 1, [b"gap"]))
    behind = commit(log, Write(0, 2, 1, [b"behind it"]))
    other = commit(log, Write(1, 0, 1, [b"innocent"]))
    results = await asyncio.gather(bad, behind, other, return_exceptions=True)
    assert [type(result) for result in results] == [HubError, HubError, type(None)]
    await commit(log, Write(0, 0, 1, [b"first"]))
    assert numbered(await log.read(0, 0, EVERYTHING)) == {0: b"first"}


async def test_everything_is_there_after_a_restart(opener: Opener) -> None:
    log = opener()
    await fill(log, 0, [1, 2, 3])
    await fill(log, 3, [5])
    await log.close()
    log = opener()
    assert list(log.states()) == [PartitionState(0, 6, 3), *[PartitionState(0, 0, 0)] * 2, PartitionState(0, 5, 1)]
    assert log.created_at == CREATED_AT
    await fill(log, 0, [1], start=6, first_ms=4)
    assert numbered(await everything(log, 0)) == dict(enumerate(named(0, 0, 7)))
    await log.close()


async def test_positions_never_go_back_when_retention_has_emptied_a_partition(opener: Opener) -> None:
    log = opener()
    await fill(log, 1, [4, 4], first_ms=100)
    assert list(await trim_all(log, EVERYTHING)) == [0, 8, 0, 0]
    assert list(await log.read(1, 0, EVERYTHING)) == []
    assert await log.sequence_at(1, 0, inclusive=True) == 8
    await log.close()
    log = opener()
    assert log.states()[1] == PartitionState(8, 8, 101)
    with pytest.raises(HubError):
        await commit(log, Write(1, 8, 100, [b"back in time"]))
    await commit(log, Write(1, 8, 101, [b"new"]))
    assert list(await log.read(1, 0, EVERYTHING)) == [Slice(8, 101, [b"new"])]
    await log.close()


async def test_trimming_by_age_drops_whole_slices_only(log: TelemetryLog) -> None:
    await fill(log, 0, [2, 2, 2], first_ms=10)
    await fill(log, 2, [1], first_ms=13)
    assert list(await trim_all(log, 11)) == [2, 0, 0, 0]
    assert list(await trim_all(log, 11)) == [2, 0, 0, 0]
    assert list(await log.read(0, 0, EVERYTHING)) == [Slice(2, 11, named(0, 2, 2)), Slice(4, 12, named(0, 4, 2))]
    assert list(await trim_all(log, 13)) == [6, 0, 0, 0]


async def test_trimming_by_size_drops_the_oldest_first(log: TelemetryLog) -> None:
    for number in range(40):
        await commit(log, Write(number % 4, number // 4, number, [bytes(10_000)]))
    firsts = await trim_all(log, 0, 205_000)
    assert sum(firsts) == 20
    assert max(firsts) - min(firsts) <= 1
    assert list(await trim_all(log, 0, 0)) == [10, 10, 10, 10]


async def test_one_call_of_trim_is_short(log: TelemetryLog) -> None:
    for number in range(24):
        await commit(log, Write(0, number, number, [bytes(1_000_000)]))
    first = (await log.trim(EVERYTHING, EVERYTHING))[0]
    assert 0 < first < 24
    assert [run.base for run in await log.read(0, 0, 1)] == [first]
    assert (await trim_all(log, EVERYTHING))[0] == 24


async def test_positions_by_time(log: TelemetryLog) -> None:
    times = [10, 10, 20, 30, 30, 40]
    for number, ms in enumerate(times):
        await commit(log, Write(0, 2 * number, ms, named(0, 2 * number, 2)))
    for moment in range(5, 46, 5):
        after = next((2 * n for n, ms in enumerate(times) if ms > moment), 12)
        at = next((2 * n for n, ms in enumerate(times) if ms >= moment), 12)
        assert await log.sequence_at(0, moment, inclusive=False) == after
        assert await log.sequence_at(0, moment, inclusive=True) == at


@pytest.mark.parametrize("partitions", [1, 5, 32])
async def test_another_number_of_partitions_is_refused(
    store: Callable[..., TelemetryLog], tmp_path: Path, partitions: int
) -> None:
    log = store(tmp_path)
    await log.close()
    with pytest.raises(HubError, match=f"has 4 partitions, {partitions} were asked.*--partitions 4") as caught:
        store(tmp_path, partitions)
    assert caught.value.row is INVALID_OPERATION


@pytest.mark.parametrize("partitions", [0, -1, 33])
async def test_a_number_of_partitions_out_of_range_is_refused(
    store: Callable[..., TelemetryLog], tmp_path: Path, partitions: int
) -> None:
    with pytest.raises(HubError, match="from 1 to 32"):
        store(tmp_path, partitions)


async def test_closing_waits_for_commits_and_refuses_the_rest(opener: Opener) -> None:
    log = opener()
    futures = [commit(log, Write(0, number, 1, [b"x"])) for number in range(50)]
    await asyncio.gather(log.close(), log.close())
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(HubError):
        await log.read(0, 0, 1)
    log = opener()
    assert log.states()[0].next == 50
    await log.close()


async def test_readers_and_the_writer_do_not_hinder_each_other(log: TelemetryLog) -> None:
    seen: list[bytes] = []

    async def follow() -> None:
        while len(seen) < 600:
            for run in await log.read(0, len(seen), 2_000):
                assert run.base == len(seen)
                seen.extend(run.records)

    await asyncio.wait_for(asyncio.gather(follow(), fill(log, 0, [3] * 200), fill(log, 1, [1] * 100)), 60)
    assert seen == named(0, 0, 600)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(st.integers(0, 3), min_size=3, max_size=3)),
        st.tuples(st.just("many"), st.integers(1, 40)),
        st.tuples(st.just("trim age"), st.integers(0, 30)),
        st.tuples(st.just("trim size"), st.integers(0, 1000)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=25,
)


class Model:
    """What a log of three partitions should hold, as plain lists."""

    def __init__(self) -> None:
        self.slices: list[tuple[int, Slice]] = []
        self.next = [0, 0, 0]
        self.first = [0, 0, 0]
        self.last_ms = [0, 0, 0]
        self.ms = 0

    def commit(self, counts: Sequence[int]) -> list[Write]:
        self.ms += 1
        writes = []
        for partition, count in enumerate(counts):
            if count:
                records = named(partition, self.next[partition], count)
                writes.append(Write(partition, self.next[partition], self.ms, records))
                self.slices.append((partition, Slice(self.next[partition], self.ms, records)))
                self.next[partition] += count
                self.last_ms[partition] = self.ms
        return writes

    def trimmed(self, firsts: Sequence[int]) -> None:
        assert all(old <= new <= end for old, new, end in zip(self.first, firsts, self.next, strict=True))
        self.slices = [(partition, run) for partition, run in self.slices if run.base >= firsts[partition]]
        self.first = list(firsts)

    async def check(self, log: TelemetryLog) -> None:
        for partition in range(3):
            mine = [run for number, run in self.slices if number == partition]
            assert await everything(log, partition) == mine
            assert (mine[0].base if mine else self.next[partition]) == self.first[partition]
            for sequence in {0, self.first[partition] - 1, self.first[partition] + 1, self.next[partition] - 1}:
                page = await log.read(partition, sequence, 1)
                wanted = max(sequence, self.first[partition])
                assert [run.base for run in page] == [wanted] * (wanted < self.next[partition])
            for moment in (0, self.ms // 2, self.ms, self.ms + 1):
                later = next((run.base for run in mine if run.enqueued_ms > moment), self.next[partition])
                assert await log.sequence_at(partition, moment, inclusive=False) == later
                assert await log.sequence_at(partition, moment + 1, inclusive=True) == later


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_any_mix_of_commits_trims_and_restarts(
    store: Callable[..., TelemetryLog],
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, object]],
) -> None:
    directory = tmp_path_factory.mktemp("log")
    asyncio.run(play(lambda: store(directory, 3), steps))


async def play(opener: Opener, steps: list[tuple[str, object]]) -> None:
    model, log = Model(), opener()
    for kind, value in steps:
        match kind, value:
            case "commit", list(counts):
                await commit(log, *model.commit(counts))
            case "many", int(times):
                for _ in range(times):
                    await commit(log, *model.commit([0, 1, 0]))
            case "trim age", int(age):
                model.trimmed(await trim_all(log, model.ms - age))
                assert all(run.enqueued_ms >= model.ms - age for _, run in model.slices)
            case "trim size", int(size):
                model.trimmed(await trim_all(log, 0, size))
                assert sum(len(b"".join(run.records)) for _, run in model.slices) <= size
            case _:
                await log.close()
                log = opener()
                assert list(log.states()) == list(map(PartitionState, model.first, model.next, model.last_ms))
    await model.check(log)
    await log.close()


async def test_a_probe_changes_nothing(opener: Opener) -> None:
    log = opener()
    await log.probe()
    await commit(log, Write(1, 0, 5, [b"a"]))
    await log.probe()
    await log.close()
    again = opener()
    assert list(again.states())[1] == PartitionState(0, 1, 5)
    assert [run.records for run in await again.read(1, 0, EVERYTHING)] == [[b"a"]]
    await again.close()
