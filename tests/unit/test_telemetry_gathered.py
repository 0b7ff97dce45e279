"""Commits to a shared log: behind one of several messages the next waits a moment for as many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from muster.core.errors import UNAVAILABLE, HubError
from muster.messages import telemetry as module
from muster.messages.contract import PartitionState, Share, SharedLog, Slice, Stored
from muster.messages.telemetry import Telemetry
from muster.testing.clock import VirtualAmbient


class HeldSharedLog:
    """A shared log that ends each commit when the test says so."""

    partitions, created_at, reachable = 2, 5.0, True

    def __init__(self) -> None:
        self.commits: list[list[bytes]] = []
        self._done: list[Callable[[BaseException | None], None]] = []

    def states(self) -> Sequence[PartitionState]:
        return [PartitionState(0, 0, 0)] * self.partitions

    def listen(self, stored: Stored) -> None: ...

    def follow(self, _partition: int, _begun: Callable[[PartitionState], None]) -> Callable[[], None]:
        return lambda: None

    async def state(self, _partition: int) -> PartitionState:
        return PartitionState(0, 0, 0)

    def hurry(self) -> None: ...

    def commit(self, shares: Sequence[Share], _now_ms: int, done: Callable[[BaseException | None], None]) -> None:
        self.commits.append([record for share in shares for record in share.records])
        self._done.append(done)

    def end(self, error: BaseException | None = None) -> None:
        self._done.pop(0)(error)

    async def read(self, _partition: int, _sequence: int, _limit_bytes: int) -> Sequence[Slice]:
        return []

    async def sequence_at(self, _partition: int, _enqueued_ms: int, *, inclusive: bool) -> int:
        return int(inclusive)

    async def trim(self, _now_ms: int, _keep_ms: int, _limit_bytes: int) -> Sequence[int]:
        return [0] * self.partitions

    async def probe(self) -> None: ...

    async def close(self) -> None: ...


@pytest.fixture
def log() -> HeldSharedLog:
    return HeldSharedLog()


@pytest.fixture
async def telemetry(log: HeldSharedLog) -> Telemetry:
    assert isinstance(log, SharedLog)
    return Telemetry(log, VirtualAmbient(now=1000.0), retention_seconds=86_400.0, retention_bytes=1 << 40)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for ever."""
    monkeypatch.setattr(module, "GATHER_PART", 1e12)
    monkeypatch.setattr(module, "GATHER_SECONDS", 1e6)


async def commits(log: HeldSharedLog, count: int) -> list[bytes]:
    async with asyncio.timeout(20):
        while len(log.commits) < count:
            await asyncio.sleep(0)
    return log.commits[-1]


async def several(telemetry: Telemetry, log: HeldSharedLog, *records: bytes) -> None:
    """A commit of ``records`` is under way for a while."""
    for record in records:
        telemetry.append(0, record)
    await commits(log, 1)
    await asyncio.sleep(0.01)


@pytest.mark.usefixtures("patient")
async def test_behind_several_messages_as_many_are_waited_for(telemetry: Telemetry, log: HeldSharedLog) -> None:
    await several(telemetry, log, b"1", b"2", b"3")
    telemetry.append(1, b"4")
    log.end()
    for record in (b"5", b"6"):
        await asyncio.sleep(0.01)
        assert len(log.commits) == 1
        telemetry.append(0, record)
    await asyncio.sleep(0.01)
    assert len(log.commits) == 1
    telemetry.append(0, b"7")  # the third since
    telemetry.append(0, b"8")  # in the same round
    assert await commits(log, 2) == [b"5", b"6", b"7", b"8", b"4"]


async def test_it_waits_a_moment_only(telemetry: Telemetry, log: HeldSharedLog) -> None:
    await several(telemetry, log, b"1", b"2", b"3")
    telemetry.append(0, b"4")
    log.end()
    assert len(log.commits) == 1
    assert await commits(log, 2) == [b"4"]


@pytest.mark.usefixtures("patient")
async def test_behind_a_lone_message_nothing_is_waited_for(telemetry: Telemetry, log: HeldSharedLog) -> None:
    await several(telemetry, log, b"1")
    telemetry.append(0, b"2")
    log.end()
    assert log.commits[-1] == [b"2"]


@pytest.mark.usefixtures("patient")
async def test_nothing_is_waited_for_behind_a_failure(telemetry: Telemetry, log: HeldSharedLog) -> None:
    await several(telemetry, log, b"1", b"2")
    log.end(HubError(UNAVAILABLE, "no leader"))
    telemetry.append(0, b"1")
    assert await commits(log, 2) == [b"1"]


async def test_a_message_after_the_moment_is_committed_at_once(telemetry: Telemetry, log: HeldSharedLog) -> None:
    await several(telemetry, log, b"1", b"2")
    log.end()
    await asyncio.sleep(2 * module.GATHER_SECONDS)
    telemetry.append(0, b"3")
    assert await commits(log, 2) == [b"3"]
    log.end()
    await telemetry.close()
