"""Telemetry: what devices send, batched into the log's commits, and handed to those who read along.

Runs on the loop's thread only. One commit is under way at a time; what is appended meanwhile forms the next. A commit
to a shared log costs its servers much and a message in it little, so there it pays to have more of them together:
behind a commit of several messages the next one waits a moment for as many, as devices that were acknowledged send on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b

from muster.core.ambient import Ambient
from muster.core.errors import UNAVAILABLE, HubError
from muster.core.limits import TELEMETRY_PENDING_BYTES, TELEMETRY_TAIL_BYTES
from muster.messages.contract import Share, TelemetryLog
from muster.messages.partitions import Partitions
from muster.messages.retention import Retention
from muster.messages.trouble import Trouble

Durable = Callable[[BaseException | None], None]
"""Called with ``None`` once the batch is durable, or with what went wrong: then it has to be sent again."""

GATHER_PART, GATHER_SECONDS, GATHERED = 1.0, 0.01, 500
"""How long that moment is: this part of the time that the last commit took, at most so long; and up to how many
messages of a commit it makes a difference."""

_LOOKS_PER_LIMIT = 16


class Batch:
    """Messages that are committed together. Compare batches by identity."""

    __slots__ = ("bytes", "callbacks", "messages", "shares")

    def __init__(self, partitions: int) -> None:
        self.shares: list[list[bytes]] = [[] for _ in range(partitions)]
        self.callbacks: list[Durable] = []
        self.bytes = self.messages = 0

    def when_durable(self, callback: Durable) -> None:
        """Have ``callback`` called on the loop when the batch is on disk or has failed, in order of registration."""
        self.callbacks.append(callback)


class Telemetry(Partitions):
    """The hub's device-to-cloud messages; what is stored of them is read by the methods of ``Partitions``.

    A message is acknowledged to its device only after ``Batch.when_durable`` said so. When a commit fails,
    the batch under way **and the one forming behind it** fail together: a device may have messages in both, and
    would send the earlier ones again after the later ones had been stored. It
    is up to the head to end such a connection (or to reject such deliveries), so that the device sends again
    all that was not acknowledged, in its own order.

    ``messages``, ``bytes``, ``commits`` and ``failed_commits`` count since the start, for meters.
    """

    def __init__(
        self,
        log: TelemetryLog,
        ambient: Ambient,
        *,
        retention_seconds: float,
        retention_bytes: int,
        tail_bytes: int = TELEMETRY_TAIL_BYTES.open,
        max_pending_bytes: int = TELEMETRY_PENDING_BYTES.open,
    ) -> None:
        """Take over ``log``. To be made on a running loop.

        ``retention_bytes`` and ``tail_bytes`` (kept in memory) count all partitions together. With more than
        ``max_pending_bytes`` not yet on disk ``congested`` holds: heads should stop reading their sockets.
        """
        super().__init__(log, tail_bytes)
        self.pending_bytes = 0
        self.congested = False
        self.messages = self.bytes = self.commits = self.failed_commits = 0
        self._ambient = ambient
        self._max_pending = max_pending_bytes
        self._forming = Batch(self.partitions)
        self._scheduled = False
        self._running: Batch | None = None
        self._began = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._awaited = 0
        """While gathering: how many messages are still waited for."""
        self._closed = False
        self._idle: list[asyncio.Future[None]] = []
        self._held_back: deque[Callable[[], None]] = deque()
        self._retention = Retention(
            log, ambient, seconds=retention_seconds, limit_bytes=retention_bytes, trimmed=self._trimmed
        )
        self._trouble = Trouble(log, ambient)
        self._look_every = max(1, retention_bytes // _LOOKS_PER_LIMIT)
        self._look_at = self._look_every

    def retain(self, seconds: float) -> None:
        """From now on keep what is up to ``seconds`` old."""
        self._retention.keep(seconds)

    def partition_of(self, device_id: str) -> int:
        """Where the device's messages (and those of its modules) go: BLAKE2b, 8 bytes, big endian, modulo partitions.

        It never changes for a data directory. Sessions keep the answer.
        """
        digest = blake2b(device_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.partitions

    def append(self, partition: int, record: bytes) -> Batch:
        """Put ``record`` (a stored message) behind the others of ``partition``; the answer is the forming batch.

        All records appended before the next commit starts share one batch, so a caller registers one callback
        for many. Raises ``HubError`` (503001) after ``close``.
        """
        if not self._scheduled:
            self._schedule()
        forming = self._forming
        forming.shares[partition].append(record)
        self.pending_bytes += len(record)
        if self.pending_bytes > self._max_pending:
            self.congested = True
        if self._awaited:
            self._awaited -= 1
            if not self._awaited:
                self._loop.call_soon(self._gathered)
        return forming

    def when_stored(self, callback: Durable) -> None:
        """Have ``callback`` called when all that was appended so far is on disk, or has failed, behind those that were
        registered before."""
        batch = self._forming if self._scheduled else self._running
        if batch is None:
            self._loop.call_soon(callback, None)
        else:
            batch.when_durable(callback)

    async def settled(self) -> None:
        """Return when all that was appended so far is on disk, or has failed."""
        over: asyncio.Future[None] = self._loop.create_future()

        def done(_: BaseException | None) -> None:
            if not over.done():  # who waited was cancelled
                over.set_result(None)

        self.when_stored(done)
        await over

    async def store(self, records: Sequence[tuple[int, bytes]]) -> None:
        """Have the partitions take ``records`` (partition and stored message, one at least); returns when they are on
        disk.

        All go into one batch: they are stored together or not at all. While ``congested`` it waits for room first.
        Raises ``HubError`` as ``append``, and what made the commit fail.
        """
        while self.congested:
            clear = asyncio.Event()
            self.when_clear(clear.set)
            await clear.wait()
        durable: asyncio.Future[None] = self._loop.create_future()

        def done(error: BaseException | None) -> None:
            if durable.done():  # who waited was cancelled
                return
            if error is None:
                durable.set_result(None)
            else:
                durable.set_exception(error)

        for partition, record in records:
            batch = self.append(partition, record)
        batch.when_durable(done)
        await durable

    @property
    def failing(self) -> bool:
        """Whether messages cannot be stored, as far as is known: the disk is full or broken, or a shared log cannot be
        reached."""
        return self._trouble.present or (self._shared is not None and not self._shared.reachable)

    def when_clear(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once, soon after ``congested`` has ceased to hold."""
        if self.congested:
            self._held_back.append(callback)
        else:
            self._loop.call_soon(callback)

    def start(self) -> None:
        """Begin to remove what retention does not keep."""
        self._retention.start()

    async def stop(self) -> None:
        """End what ``start`` began; messages are still taken."""
        await self._retention.stop()

    async def trim(self) -> None:
        """Remove now what retention does not keep. Raises ``HubError`` (500001) when the disk fails."""
        await self._retention.trim()

    async def close(self) -> None:
        """Take nothing more, commit what was appended, close the log. Harmless when repeated."""
        self._closed = True
        if self._shared is not None:
            self._shared.hurry()
        await self.stop()
        while self._running is not None or self._scheduled:
            idle = self._loop.create_future()
            self._idle.append(idle)
            await idle
        await self._trouble.close()
        await self._log.close()

    def _schedule(self) -> None:
        if self._closed:
            raise HubError(UNAVAILABLE, "the hub is closing and takes no messages; send again to the next one")
        self._scheduled = True
        if self._running is None and self._gathering is None:
            self._loop.call_soon(self._start)

    def _gather(self, batch: Batch) -> None:
        """Wait for as many messages as ``batch`` had, which has just been stored, but not for long."""
        self._awaited = batch.messages
        moment = min(GATHER_PART * (self._loop.time() - self._began), GATHER_SECONDS)
        self._gathering = self._loop.call_later(moment, self._gathered)

    def _gathered(self) -> None:
        if self._gathering is None:
            return  # all came in the moment when the time was over
        self._gathering.cancel()
        self._gathering, self._awaited = None, 0
        if self._scheduled:
            self._start()

    def _start(self) -> None:
        """Commit the forming batch."""
        batch, self._forming = self._forming, Batch(self.partitions)
        self._scheduled = False
        self._running, self._began = batch, self._loop.time()
        batch.bytes = self.pending_bytes
        shares = [Share(partition, records) for partition, records in enumerate(batch.shares) if records]
        batch.messages = sum([len(share.records) for share in shares])
        self._log.commit(shares, int(self._ambient.now() * 1000), self._ended)

    def _ended(self, error: BaseException | None) -> None:
        batch, self._running = self._running, None
        if batch is None:
            raise RuntimeError("the log ended a commit twice")
        self.pending_bytes -= batch.bytes
        self.congested = self.pending_bytes > self._max_pending
        if error is None:
            self._settle(batch)
            if self._shared is not None and 1 < batch.messages < GATHERED:
                self._gather(batch)
            elif self._scheduled:  # the disk works while the acknowledgements below are written
                self._start()
            self._tell(batch, None)
        else:
            self._refuse(batch, error)
        while self._held_back and not self.congested:
            self._call(self._held_back.popleft())
        if self._running is None and not self._scheduled:
            idle, self._idle = self._idle, []
            for future in idle:
                future.set_result(None)

    def _settle(self, batch: Batch) -> None:
        self.messages += batch.messages
        self.bytes += batch.bytes
        self.commits += 1
        if self._trouble.failures:
            self._trouble.over()
        if self.bytes >= self._look_at:
            self._look_at = self.bytes + self._look_every
            self._retention.look()

    def _refuse(self, batch: Batch, error: BaseException) -> None:
        self.failed_commits += 1
        self._trouble.failed(error)
        behind, self._forming = self._forming, Batch(self.partitions)
        self._scheduled = False
        self.pending_bytes = 0
        self.congested = False
        self._tell(batch, error)
        self._tell(behind, error)

    def _tell(self, batch: Batch, error: BaseException | None) -> None:
        for callback in batch.callbacks:
            try:  # a call less than by _call, for every message
                callback(error)
            except Exception as problem:
                self._failed(problem)
