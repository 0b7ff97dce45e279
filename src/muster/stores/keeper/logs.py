"""The telemetry logs of all hubs at the keeper: it appends what workers commit, and tells those who follow.

Commits of all workers that come in one round, or while another is written, are one transaction of their log's writer.
The keeper remembers no messages: who follows is sent them as they are stored, and where he does not take them as fast,
they are read for him from the disk once he does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from struct import Struct

import orjson

from muster.core.errors import INVALID_OPERATION, UNAVAILABLE, HubError
from muster.messages.contract import PartitionState, Slice
from muster.stores.keeper.frames import RUNS
from muster.stores.keeper.runs import decode_commit, encode_slices
from muster.stores.keeper.server import Keeper, Worker
from muster.stores.sqlite.telemetry import SqliteTelemetryLog, check_partitions

PAGE_BYTES = 1024 * 1024
"""So much is read at a time for who is behind."""
RETRY_SECONDS = 1.0

WHICH = Struct("<I")
"""In front of all that concerns an open log: its number. Numbers are not used again, so nobody who still has a hub that
was removed writes to the next one of the same name."""


class Follower:
    """A worker that is told what is stored in a partition, from ``next`` on. ``number`` is the worker's own."""

    def __init__(self, log: KeptLog, partition: int, worker: Worker, number: int, next_: int) -> None:
        self.worker, self.number = worker, number
        self._log, self._partition, self._next = log, partition, next_
        self._behind: asyncio.Task[None] | None = None
        if next_ < log.states[partition].next:
            self._fall_behind()

    def take(self, end: int, parts: Sequence[bytes]) -> None:
        """Something was stored, up to ``end``; ``parts`` are its frame."""
        if self._behind is not None:
            return
        if self.worker.roomy:
            self._next = end
            self.worker.send(RUNS, self.number, parts)
        else:
            self._fall_behind()

    def stop(self) -> None:
        """Tell nothing more."""
        if self._behind is not None:
            self._behind.cancel()

    def _fall_behind(self) -> None:
        self._behind = asyncio.get_running_loop().create_task(self._catch_up())

    async def _catch_up(self) -> None:
        state = self._log.states
        while self._next < state[self._partition].next and not self.worker.lost:
            await self.worker.room()
            end = state[self._partition].next
            try:
                slices = await self._log.log.read(self._partition, self._next, PAGE_BYTES)
            except HubError:  # the disk; it was logged where it failed
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if slices:
                end = slices[-1].base + len(slices[-1].records)
                self.worker.send(RUNS, self.number, encode_slices(slices))
            self._next = end
        self._behind = None


class KeptLog:
    """One hub's log, with where its partitions stand and who follows them."""

    def __init__(self, name: str, log: SqliteTelemetryLog) -> None:
        self.name, self.log = name, log
        self.states: list[PartitionState] = list(log.states())
        self._followers: list[list[Follower]] = [[] for _ in self.states]
        log.listen(self._stored)

    def follow(self, partition: int, worker: Worker, number: int, next_: int | None) -> PartitionState:
        """Send ``worker`` what is stored from ``next_`` on, or from where it stands now, which this returns."""
        state = self.states[partition]
        follower = Follower(self, partition, worker, number, state.next if next_ is None else next_)
        self._followers[partition].append(follower)
        return state

    def leave(self, worker: Worker, number: int | None = None) -> None:
        """End what ``worker`` follows under ``number``, or all of it."""
        for followers in self._followers:
            for follower in tuple(followers):
                if follower.worker is worker and number in (None, follower.number):
                    followers.remove(follower)
                    follower.stop()

    async def trim(self, now_ms: int, keep_ms: int, limit_bytes: int) -> Sequence[int]:
        """See ``TelemetryLog.trim``."""
        firsts = await self.log.trim(now_ms, keep_ms, limit_bytes)
        self.states[:] = [
            state._replace(first=max(state.first, first)) for state, first in zip(self.states, firsts, strict=True)
        ]
        return firsts

    async def close(self) -> None:
        """Close it after the commits handed in so far."""
        for followers in self._followers:
            for follower in followers:
                follower.stop()
        await self.log.close()

    def _stored(self, partition: int, new: Slice) -> None:
        end = new.base + len(new.records)
        self.states[partition] = PartitionState(self.states[partition].first, end, new.enqueued_ms)
        if followers := self._followers[partition]:
            parts = encode_slices([new])
            for follower in followers:
                follower.take(end, parts)


class KeptLogs:
    """The logs of all hubs, in files of ``directory``; answers what workers ask of them."""

    def __init__(self, keeper: Keeper, directory: Path, *, durable: bool) -> None:
        self._directory, self._durable = directory, durable
        self._keeper = keeper
        self._logs: dict[int, KeptLog] = {}
        self._numbers = count(1)
        self._changing = asyncio.Lock()
        keeper.when_left.append(self._left)
        keeper.answers["log.commit"] = self._commit
        keeper.answers["log.follow"] = self._follow
        keeper.answers["log.leave"] = self._leave
        for subject, work in {
            "log.open": self._open, "log.forget": self._forget, "log.read": self._read, "log.state": self._state,
            "log.sequence": self._sequence, "log.trim": self._trim, "log.probe": self._probe,
        }.items():  # fmt: skip
            keeper.handle(subject, work)

    async def close(self) -> None:
        """Close all."""
        async with self._changing:
            logs, self._logs = self._logs, {}
            await asyncio.gather(*(log.close() for log in logs.values()))

    # --- all of it

    async def _open(self, question: bytes) -> Sequence[bytes]:
        name, partitions, created_at = orjson.loads(question)
        async with self._changing:
            number = next((number for number, log in self._logs.items() if log.name == name), None)
            if number is None:
                number = next(self._numbers)
                self._logs[number] = KeptLog(name, self._opened(name, partitions, created_at))
        kept = self._logs[number]
        check_partitions(self._directory / name, len(kept.states), partitions)
        return [orjson.dumps([number, kept.log.created_at, [*map(tuple, kept.states)]])]

    def _opened(self, name: str, partitions: int, created_at: float) -> SqliteTelemetryLog:
        if Path(name).name != name:
            raise HubError(INVALID_OPERATION, f"{name} is not the name of a file")
        loop = asyncio.get_running_loop()
        return SqliteTelemetryLog(
            self._directory / name, partitions, loop, created_at=created_at, durable=self._durable, packed=True
        )

    async def _forget(self, question: bytes) -> Sequence[bytes]:
        async with self._changing:
            for number, log in tuple(self._logs.items()):
                if log.name == question.decode():
                    del self._logs[number]
                    await log.close()
        return ()

    def _left(self, worker: Worker) -> None:
        for log in self._logs.values():
            log.leave(worker)

    def _log(self, body: bytes, at: int = 0) -> KeptLog:
        log = self._logs.get(WHICH.unpack_from(body, at)[0])
        if log is None:
            raise HubError(UNAVAILABLE, "the telemetry log is not open; the hub was removed, or the keeper is another")
        return log

    # --- one of them

    def _commit(self, worker: Worker, number: int, body: bytes, at: int) -> None:
        now_ms, shares = decode_commit(body, at + WHICH.size)

        def done(error: BaseException | None) -> None:
            if error is None:
                worker.answer(number, ())
            else:
                worker.refuse(number, error)

        self._log(body, at).log.commit(shares, now_ms, done)

    def _follow(self, worker: Worker, number: int, body: bytes, at: int) -> None:
        partition, follower, next_ = orjson.loads(body[at + WHICH.size :])
        log = self._log(body, at)
        worker.answer(number, [orjson.dumps(tuple(log.follow(partition, worker, follower, next_)))])

    def _leave(self, worker: Worker, number: int, body: bytes, at: int) -> None:
        self._log(body, at).leave(worker, orjson.loads(body[at + WHICH.size :]))
        worker.answer(number, ())

    async def _read(self, question: bytes) -> Sequence[bytes]:
        partition, sequence, limit_bytes = orjson.loads(question[WHICH.size :])
        return encode_slices(await self._log(question).log.read(partition, sequence, limit_bytes))

    async def _state(self, question: bytes) -> Sequence[bytes]:
        return [orjson.dumps(tuple(self._log(question).states[orjson.loads(question[WHICH.size :])]))]

    async def _sequence(self, question: bytes) -> Sequence[bytes]:
        partition, enqueued_ms, inclusive = orjson.loads(question[WHICH.size :])
        found = await self._log(question).log.sequence_at(partition, enqueued_ms, inclusive=inclusive)
        return [orjson.dumps(found)]

    async def _trim(self, question: bytes) -> Sequence[bytes]:
        return [orjson.dumps(await self._log(question).trim(*orjson.loads(question[WHICH.size :])))]

    async def _probe(self, question: bytes) -> Sequence[bytes]:
        await self._log(question).log.probe()
        return ()
