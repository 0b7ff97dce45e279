"""What every telemetry log promises, whatever it is built on. A store is one more entry in ``STORES``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.core.errors import INVALID_OPERATION, HubError
from muster.messages.contract import PartitionState, Share, Slice, TelemetryLog
from muster.stores.keeper.link import Link
from muster.stores.keeper.telemetry import KeeperLog
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.streams import Place
from muster.stores.nats.telemetry import JetStreamLog
from muster.stores.sqlite.telemetry import DEFAULT_TUNING, SqliteTelemetryLog, Tuning
from tests.always_inline import Always
from tests.contract.telemetry_book import (
    EVERYTHING,
    FOR_EVER,
    PATIENCE,
    Book,
    commit,
    end_of,
    everything,
    fill,
    named,
    now,
    records_of,
    trim_all,
)
from tests.keepers import KeeperHere
from tests.nats_servers import NatsCluster

Opener = Callable[..., Awaitable[TelemetryLog]]
"""Opens the same log each time, the one before having been closed; with that many partitions."""

CREATED_AT = 1_800_000_000.25


async def sqlite(
    directory: Path, partitions: int = 4, tuning: Tuning = DEFAULT_TUNING, inline: type[Always] | None = None
) -> TelemetryLog:
    loop = asyncio.get_running_loop()
    return SqliteTelemetryLog(
        directory / "telemetry.db", partitions, loop, created_at=CREATED_AT, durable=False, tuning=tuning,
        inline=None if inline is None else inline(),
    )  # fmt: skip


async def jetstream(directory: Path, partitions: int = 4, *, servers: NatsCluster) -> TelemetryLog:
    """A hub for each directory."""
    connection = await NatsConnection.open(servers.urls)
    place = Place("contract", str(directory))
    try:
        log = await JetStreamLog.open(connection, place, partitions, created_at=CREATED_AT)
    except HubError:
        await connection.close()
        raise
    return Closing(log, connection)


async def keeper(directory: Path, partitions: int = 4) -> TelemetryLog:
    """By a keeper that begins with the log, and ends with it."""
    here = KeeperHere(directory)
    await here.start()
    link = Link(directory, "a")
    await link.open()
    try:
        log = await KeeperLog.open(link, "telemetry.db", partitions, created_at=CREATED_AT)
    except HubError:
        await link.close()
        await here.die()
        raise
    return ClosingKeeper(log, link, here)


class ClosingKeeper(KeeperLog):
    """Takes its connection and its keeper along when it is closed."""

    def __init__(self, log: KeeperLog, link: Link, keeper: KeeperHere) -> None:
        self.__dict__ = log.__dict__
        self._own = link, keeper

    async def close(self) -> None:
        await super().close()
        for one in (self._own[0].close, self._own[1].die):
            await one()


class Closing(JetStreamLog):
    """Takes its connection along when it is closed."""

    def __init__(self, log: JetStreamLog, connection: NatsConnection) -> None:
        self.__dict__ = log.__dict__
        self._own = connection

    async def close(self) -> None:
        await super().close()
        await self._own.close()


SMALL = Tuning(page_size=512, checkpoint_bytes=8192, index_every=3)

STORES: dict[str, Callable[..., Awaitable[TelemetryLog]]] = {
    "sqlite": sqlite,
    "sqlite-small": partial(sqlite, tuning=SMALL),
    "sqlite-inline": partial(sqlite, inline=Always),
    "sqlite-small-inline": partial(sqlite, tuning=SMALL, inline=Always),
    "jetstream": jetstream,
    "keeper": keeper,
}
EXAMPLES = {
    "sqlite": 40,
    "sqlite-small": 40,
    "sqlite-inline": 40,
    "sqlite-small-inline": 40,
    "jetstream": 4,
    "keeper": 20,
}


@pytest.fixture(params=STORES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener:
    return opener_of(request.param, request, tmp_path)


def opener_of(store: str, request: pytest.FixtureRequest, directory: Path) -> Opener:
    if store == "jetstream":
        return partial(jetstream, directory, servers=request.getfixturevalue("nats"))
    return partial(STORES[store], directory)


@pytest.fixture
async def log(opener: Opener) -> AsyncIterator[TelemetryLog]:
    log = await opener()
    yield log
    await log.close()


@pytest.fixture
async def book(log: TelemetryLog) -> Book:
    return await Book(log).ready()


async def test_a_new_log_is_empty(log: TelemetryLog) -> None:
    assert log.partitions == 4
    assert log.created_at == CREATED_AT
    assert list(log.states()) == [PartitionState(0, 0, 0)] * 4
    assert list(await log.read(0, 0, 1000)) == []
    assert await log.sequence_at(3, 0, inclusive=True) == 0
    assert list(await log.trim(now(), 0, 0)) == [0, 0, 0, 0]


async def test_what_was_committed_is_told_and_read_back(book: Book) -> None:
    await book.commit(Share(0, [b"a", b"", b"c" * 1000]), Share(2, [b"z"]))
    await book.commit(Share(0, [b"d"]))
    assert [list(run.records) for run in book.told[0]] == [[b"a", b"", b"c" * 1000], [b"d"]]
    assert [list(run.records) for run in book.told[2]] == [[b"z"]]
    assert book.told[0][0].base == book.told[2][0].base == 0
    for partition in range(4):
        assert list(await book.log.read(partition, 0, EVERYTHING)) == book.told[partition]


async def test_reading_starts_at_the_very_message(book: Book) -> None:
    await fill(book, 1, [3, 4])
    first, second = book.told[1]
    log = book.log
    assert list(await log.read(1, first.base + 2, EVERYTHING)) == [
        Slice(first.base + 2, first.enqueued_ms, [b"1/2"]),
        second,
    ]
    assert list(await log.read(1, second.base + 2, EVERYTHING)) == [second.since(second.base + 2)]
    assert list(await log.read(1, first.base + 3, 1)) == [second]
    assert list(await log.read(1, -7, 1)) == [first]
    for beyond in (end_of([second]), end_of([second]) + 1, 1 << 40, 1 << 70):
        assert list(await log.read(1, beyond, EVERYTHING)) == []


async def test_pages_are_bounded(book: Book) -> None:
    for _ in range(20):
        await book.commit(Share(0, [bytes(1000)]))
    assert len(await book.log.read(0, 0, 1)) == 1
    assert 4 <= len(await book.log.read(0, 0, 5000)) <= 6
    assert len(await book.log.read(0, 0, EVERYTHING)) == 20


async def test_a_large_share_is_stored_in_order_whatever_its_size(book: Book) -> None:
    chance = random.Random(7)
    records = [chance.randbytes(chance.choice((0, 10, 5_000, 262_144))) for _ in range(60)]
    if isinstance(book.log, SqliteTelemetryLog):
        records.insert(30, bytes(2_500_000))
    await book.commit(Share(3, records))
    slices = await everything(book.log, 3)
    assert slices_joined(slices) == slices_joined(book.told[3])
    assert records_of(slices) == records
    assert len(slices) > 3
    largest = max(sum(map(len, run.records)) for run in slices if len(run.records) > 1)
    assert largest <= 1024 * 1024


def slices_joined(slices: Sequence[Slice]) -> dict[int, tuple[int, bytes]]:
    """By sequence number: what was told as one may be read as several."""
    return {run.base + n: (run.enqueued_ms, record) for run in slices for n, record in enumerate(run.records)}


async def test_a_share_of_very_many_messages_is_stored_whole(book: Book) -> None:
    records = named(0, 0, 20_000)
    await book.commit(Share(0, records))
    assert records_of(await everything(book.log, 0)) == records
    assert records_of(book.told[0]) == records


async def test_commits_end_in_order(book: Book) -> None:
    order: list[int] = []
    for number in range(100):
        shares = [Share(0, [b"%d" % number])]
        book.log.commit(shares, now(), lambda error, number=number: order.append(number))
    await commit(book.log, Share(0, [b"100"]))
    assert order == list(range(100))
    assert records_of(await book.until(0, 101)) == [b"%d" % number for number in range(101)]


async def test_time_never_goes_back(book: Book) -> None:
    moment = now()
    for earlier in (0, 5000, 10_000):
        await book.commit(Share(0, [b"x"]), now_ms=moment - earlier)
    times = [run.enqueued_ms for run in book.told[0]]
    assert times == sorted(times)
    assert [run.enqueued_ms for run in await book.log.read(0, 0, EVERYTHING)] == times


async def test_everything_is_there_after_a_restart(opener: Opener) -> None:
    log = await opener()
    book = await Book(log).ready()
    await fill(book, 0, [1, 2, 3])
    await fill(book, 3, [5])
    await log.close()
    again = await opener()
    for partition, told in enumerate(book.told):
        wanted = PartitionState(0, end_of(told), told[-1].enqueued_ms) if told else PartitionState(0, 0, 0)
        assert again.states()[partition] == wanted
        assert await everything(again, partition) == told
    assert again.created_at == CREATED_AT
    more = await Book(again).ready()
    await fill(more, 0, [1], start=6)
    assert more.begun[0] == again.states()[0]
    assert records_of(await everything(again, 0)) == named(0, 0, 7)
    await again.close()


async def test_positions_never_go_back_when_retention_has_emptied_a_partition(opener: Opener) -> None:
    log = await opener()
    book = await Book(log).ready()
    await fill(book, 1, [4, 4])
    last = book.told[1][-1]
    firsts = await trim_all(log, limit_bytes=0)
    assert firsts[1] >= end_of([last])
    assert list(await log.read(1, 0, EVERYTHING)) == []
    assert await log.sequence_at(1, 0, inclusive=True) == firsts[1]
    await trim_all(log)
    await log.close()
    log = await opener()
    assert log.states()[1] == PartitionState(firsts[1], firsts[1], last.enqueued_ms)
    book = await Book(log).ready()
    await book.commit(Share(1, [b"new"]), now_ms=0)
    assert list(await log.read(1, 0, EVERYTHING)) == book.told[1]
    assert book.told[1][0].base == firsts[1]
    assert book.told[1][0].enqueued_ms >= last.enqueued_ms
    await log.close()


async def test_trimming_by_age_drops_whole_slices_only(book: Book) -> None:
    await fill(book, 0, [2, 2])
    await asyncio.sleep(1.5)
    await fill(book, 0, [2, 2], start=4)
    await fill(book, 2, [1])
    old, new = book.told[0][:2], book.told[0][2:]
    keep = now() - (old[-1].enqueued_ms + new[0].enqueued_ms) // 2
    async with asyncio.timeout(PATIENCE):  # servers do it in the background
        while (firsts := await trim_all(book.log, keep))[0] == 0:
            await asyncio.sleep(0.05)
    assert list(firsts) == [new[0].base, 0, 0, 0]
    assert list(await trim_all(book.log)) == list(firsts)
    assert list(await book.log.read(0, 0, EVERYTHING)) == new


async def test_trimming_by_size_drops_the_oldest_first(book: Book) -> None:
    for number in range(40):
        await book.commit(Share(number % 4, [bytes(10_000)]))
    firsts = await trim_all(book.log, limit_bytes=205_000)
    for partition, told in enumerate(book.told):
        kept = await everything(book.log, partition)
        assert kept == told[-5:]
        assert firsts[partition] == kept[0].base
    firsts = await trim_all(book.log, limit_bytes=0)
    assert all(first >= end_of(told) for first, told in zip(firsts, book.told, strict=True))


async def test_one_call_of_trim_is_short(opener: Opener) -> None:
    log = await opener()
    if not isinstance(log, SqliteTelemetryLog):
        await log.close()
        pytest.skip("its servers do it in the background")
    book = await Book(log).ready()
    for _ in range(24):
        await book.commit(Share(0, [bytes(1_000_000)]))
    first = (await log.trim(now(), FOR_EVER, 0))[0]
    assert 0 < first < 24
    assert [run.base for run in await log.read(0, 0, 1)] == [first]
    assert (await trim_all(log, limit_bytes=0))[0] == 24
    await log.close()


async def test_positions_by_time(book: Book) -> None:
    start = now()
    for wait in (0, 0, 10, 10, 0, 10):
        await asyncio.sleep(wait / 1000)
        await book.commit(Share(0, [b"a", b"b"]), now_ms=now() // 10 * 10)
    told = book.told[0]
    for moment in [start - 100, *{run.enqueued_ms + off for run in told for off in (-1, 0, 1)}]:
        after = next((run.base for run in told if run.enqueued_ms > moment), end_of(told))
        at = next((run.base for run in told if run.enqueued_ms >= moment), end_of(told))
        assert await book.log.sequence_at(0, moment, inclusive=False) == after
        assert await book.log.sequence_at(0, moment, inclusive=True) == at


@pytest.mark.parametrize("partitions", [1, 5, 32])
async def test_another_number_of_partitions_is_refused(opener: Opener, partitions: int) -> None:
    log = await opener()
    await log.close()
    with pytest.raises(HubError, match=f"has 4 partitions, {partitions} were asked.*--partitions 4") as caught:
        await opener(partitions)
    assert caught.value.row is INVALID_OPERATION


@pytest.mark.parametrize("partitions", [0, -1, 33])
async def test_a_number_of_partitions_out_of_range_is_refused(opener: Opener, partitions: int) -> None:
    with pytest.raises(HubError, match="from 1 to 32"):
        await opener(partitions)


async def test_closing_waits_for_commits_and_refuses_the_rest(opener: Opener) -> None:
    log = await opener()
    futures = [commit(log, Share(0, [b"x"])) for _ in range(50)]
    await asyncio.gather(log.close(), log.close())
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(HubError):
        await log.read(0, 0, 1)
    log = await opener()
    assert len(await everything(log, 0)) == 50
    await log.close()


async def test_readers_and_the_writer_do_not_hinder_each_other(book: Book) -> None:
    seen: list[bytes] = []

    async def follow() -> None:
        at = 0
        while len(seen) < 600:
            for run in await book.log.read(0, at, 2_000):
                assert run.base >= at
                at = run.base + len(run.records)
                seen.extend(run.records)

    await asyncio.wait_for(asyncio.gather(follow(), fill(book, 0, [3] * 200), fill(book, 1, [1] * 100)), 120)
    assert seen == named(0, 0, 600)
    assert await everything(book.log, 0) == book.told[0]
    assert await everything(book.log, 1) == book.told[1]


async def test_a_probe_changes_nothing_that_is_read(opener: Opener) -> None:
    log = await opener()
    book = await Book(log).ready()
    await log.probe()
    await book.commit(Share(1, [b"a"]))
    await log.probe()
    await book.commit(Share(1, [b"b"]))
    await log.probe()
    await log.close()
    again = await opener()
    assert records_of(await everything(again, 1)) == [b"a", b"b"]
    assert await everything(again, 1) == book.told[1]
    assert again.states()[1].next >= end_of(book.told[1])
    assert await everything(again, 0) == book.told[0] == []
    await again.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(st.integers(0, 3), min_size=3, max_size=3)),
        st.tuples(st.just("many"), st.integers(1, 40)),
        st.tuples(st.just("trim size"), st.integers(0, 1000)),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=25,
)


class Model:
    """What a log of three partitions should hold, by what it has told."""

    def __init__(self) -> None:
        self.slices: list[list[Slice]] = [[], [], []]
        self.next = [0, 0, 0]
        self.first = [0, 0, 0]
        self.count = 0

    def shares(self, counts: Sequence[int]) -> list[Share]:
        self.count += 1
        return [
            Share(n, [b"%d/%d/%d" % (n, self.count, i) for i in range(count)])
            for n, count in enumerate(counts)
            if count
        ]

    async def hear(self, book: Book) -> None:
        """Take over what was told."""
        for partition, told in enumerate(book.told):
            self.slices[partition] += told
            if told:
                self.next[partition] = end_of(told)
            told.clear()

    def trimmed(self, firsts: Sequence[int]) -> None:
        assert all(old <= new for old, new in zip(self.first, firsts, strict=True))
        for partition, first in enumerate(firsts):
            kept = [run for run in self.slices[partition] if run.base >= first]
            assert bool(kept) == (first < self.next[partition])
            assert not kept or kept[0].base == first
            self.slices[partition] = kept
            self.first[partition], self.next[partition] = first, max(first, self.next[partition])

    async def check(self, log: TelemetryLog) -> None:
        for partition, mine in enumerate(self.slices):
            next_ = self.next[partition]
            assert await everything(log, partition) == mine
            assert (mine[0].base if mine else next_) == self.first[partition]
            for run in mine[:1] + mine[-1:]:
                last = run.base + len(run.records) - 1
                assert list(await log.read(partition, last, 1)) == [run.since(last)]
            assert list(await log.read(partition, next_, 1)) == []
            for moment in {0, *(run.enqueued_ms for run in mine[:3] + mine[-3:]), FOR_EVER}:
                later = next((run.base for run in mine if run.enqueued_ms > moment), next_)
                assert await log.sequence_at(partition, moment, inclusive=False) == later
                assert await log.sequence_at(partition, moment + 1, inclusive=True) == later


async def play(opener: Opener, steps: list[tuple[str, object]]) -> None:
    model, log = Model(), await opener(3)
    book = await Book(log).ready()
    for kind, value in steps:
        match kind, value:
            case "commit", list(counts):
                if shares := model.shares(counts):
                    await book.commit(*shares)
            case "many", int(times):
                for _ in range(times):
                    await book.commit(*model.shares([0, 1, 0]))
            case "trim size", int(size):
                await model.hear(book)
                model.trimmed(await trim_all(log, limit_bytes=size))
                assert sum(len(b"".join(run.records)) for mine in model.slices for run in mine) <= size
                await trim_all(log)
            case _:
                await model.hear(book)
                await log.close()
                log = await opener(3)
                states = log.states()
                assert [state.first for state in states] == model.first
                assert [state.next for state in states] == model.next
                book = await Book(log).ready()
        await model.hear(book)
    await model.check(log)
    await log.close()


@pytest.mark.parametrize("store", STORES)
def test_any_mix_of_commits_trims_and_restarts(
    store: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    @settings(max_examples=EXAMPLES[store], deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=steps)
    def any_mix(steps: list[tuple[str, object]]) -> None:
        asyncio.run(play(opener_of(store, request, tmp_path_factory.mktemp("log")), steps))

    any_mix()
