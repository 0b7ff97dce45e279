"""What a telemetry log has told, kept to hold the log to it; and short ways to use one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from muster.messages.contract import PartitionState, Share, SharedLog, Slice, TelemetryLog

PATIENCE = 60.0
EVERYTHING = 1 << 60
LOTS = 1 << 36
"""Bytes that no test stores; servers may set them aside."""
FOR_EVER = 1 << 50


def now() -> int:
    """Real time in milliseconds: a shared log knows no other."""
    return int(time.time() * 1000)


class Book:
    """Hears of every partition of ``log`` from now on. To be made before anything is committed."""

    def __init__(self, log: TelemetryLog) -> None:
        self.log = log
        self.told: list[list[Slice]] = [[] for _ in range(log.partitions)]
        self.begun: dict[int, PartitionState] = {}
        self._news = asyncio.Event()
        log.listen(self._stored)
        self.unfollow = []
        if isinstance(log, SharedLog):
            self.unfollow = [log.follow(partition, self._begin(partition)) for partition in range(log.partitions)]
        else:
            self.begun = dict(enumerate(log.states()))

    def _begin(self, partition: int) -> Callable[[PartitionState], None]:
        def begun(state: PartitionState) -> None:
            assert partition not in self.begun, "it begins once"
            self.begun[partition] = state
            self._news.set()

        return begun

    def _stored(self, partition: int, new: Slice) -> None:
        assert partition in self.begun, "nothing is told before it has begun"
        last = self.told[partition][-1] if self.told[partition] else None
        assert new.records
        assert new.base >= (self.begun[partition].next if last is None else last.base + len(last.records))
        assert last is None or new.enqueued_ms >= last.enqueued_ms, "time never goes back"
        self.told[partition].append(new)
        self._news.set()

    async def until(self, partition: int, records: int) -> list[Slice]:
        """What was told of ``partition``, once that is as much as ``records``."""
        async with asyncio.timeout(PATIENCE):
            while sum(len(run.records) for run in self.told[partition]) < records or partition not in self.begun:
                self._news.clear()
                await self._news.wait()
        return self.told[partition]

    async def ready(self) -> Book:
        """Itself, once every partition has begun."""
        for partition in range(self.log.partitions):
            await self.until(partition, 0)
        return self

    async def commit(self, *shares: Share, now_ms: int | None = None) -> None:
        """Commit, and wait until it was told of."""
        wanted = [sum(len(run.records) for run in told) for told in self.told]
        for share in shares:
            wanted[share.partition] += len(share.records)
        await commit(self.log, *shares, now_ms=now_ms)
        for partition, records in enumerate(wanted):
            await self.until(partition, records)


def commit(log: TelemetryLog, *shares: Share, now_ms: int | None = None) -> asyncio.Future[None]:
    """Commit ``shares``, by default at the time it is."""
    future = asyncio.get_running_loop().create_future()

    def done(error: BaseException | None) -> None:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    log.commit(shares, now() if now_ms is None else now_ms, done)
    return future


def named(partition: int, start: int, count: int) -> list[bytes]:
    """Records that say which they are."""
    return [f"{partition}/{number}".encode() for number in range(start, start + count)]


async def fill(book: Book, partition: int, counts: Sequence[int], *, start: int = 0) -> None:
    """Commit after commit of ``counts`` records."""
    for count in counts:
        await book.commit(Share(partition, named(partition, start, count)))
        start += count


async def everything(log: TelemetryLog, partition: int, sequence: int = 0) -> list[Slice]:
    """All that is kept from ``sequence`` on, read in small pages."""
    slices: list[Slice] = []
    while page := await log.read(partition, sequence, 1):
        slices += page
        sequence = page[-1].base + len(page[-1].records)
    return slices


def records_of(slices: Sequence[Slice]) -> list[bytes]:
    """The messages alone, in order."""
    return [record for run in slices for record in run.records]


def end_of(slices: Sequence[Slice]) -> int:
    """The first sequence number behind ``slices``."""
    return slices[-1].base + len(slices[-1].records)


async def trim_all(
    log: TelemetryLog, keep_ms: int = FOR_EVER, limit_bytes: int = LOTS, now_ms: int | None = None
) -> Sequence[int]:
    """Trim until that finds nothing more."""
    moment = now() if now_ms is None else now_ms
    before, after = None, await log.trim(moment, keep_ms, limit_bytes)
    while after != before:
        before, after = after, await log.trim(moment, keep_ms, limit_bytes)
    return after
