"""The telemetry log of a hub as a worker has it: what the keeper keeps, asked for over the socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from muster.core.errors import UNAVAILABLE, HubError
from muster.messages.contract import PartitionState, Share, Stored
from muster.stores.keeper.frames import words
from muster.stores.keeper.link import Link
from muster.stores.keeper.logs import RETRY_SECONDS, WHICH
from muster.stores.keeper.runs import decode_slices, encode_commit
from muster.stores.sqlite.ledger import LAST_SEQUENCE

_OPEN, _FORGET, _COMMIT, _FOLLOW, _LEAVE, _READ, _STATE, _SEQUENCE, _TRIM, _PROBE = (
    words("", "", f"log.{what}")
    for what in ("open", "forget", "commit", "follow", "leave", "read", "state", "sequence", "trim", "probe")
)

log = logging.getLogger("muster.keeper")


class _Follower:
    """One ``SharedLog.follow``; ``next`` is ``None`` until it has begun."""

    def __init__(self, partition: int, begun: Callable[[PartitionState], None], number: int) -> None:
        self.partition, self.begun, self.number = partition, begun, number
        self.next: int | None = None
        self.stopped = False


class KeeperLog:
    """``SharedLog`` on the file ``name`` of the keeper's directory; made by ``open``.

    When another keeper has come it is opened there, and who follows goes on behind what was heard last.
    """

    def __init__(self, link: Link, name: str, partitions: int, created_at: float) -> None:
        self.partitions = partitions
        self.created_at = created_at
        self._link, self._name = link, name
        self._states: Sequence[PartitionState] = ()
        self._which = b""
        """The log's number at the keeper; empty while it is not open there."""
        self._stored: Stored = _ignore_stored
        self._followers: dict[int, _Follower] = {}
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        self._opening: asyncio.Task[None] | None = None
        self._unlisten: Callable[[], None] = lambda: None

    @classmethod
    async def open(cls, link: Link, name: str, partitions: int, *, created_at: float) -> KeeperLog:
        """The log in the file ``name``; a new one gets ``partitions`` and ``created_at`` (seconds since 1970).

        Raises ``HubError``: 400003 for a number of partitions that is out of range or not that of the log, 503001 when
        the keeper is away.
        """
        made = cls(link, name, partitions, created_at)
        made._states = await made._open()
        made._unlisten = link.when_changed(made._changed)
        return made

    @staticmethod
    async def delete(link: Link, name: str) -> None:
        """Have the keeper give up the file ``name``, whoever uses it. Harmless when repeated. Raises ``HubError``."""
        await link.ask(_FORGET, name.encode())

    @property
    def reachable(self) -> bool:
        """See ``SharedLog.reachable``."""
        return bool(self._which)

    def hurry(self) -> None:
        """See ``SharedLog.hurry``: commits fail when the keeper goes, and it goes last."""

    def states(self) -> Sequence[PartitionState]:
        """See ``TelemetryLog.states``."""
        return self._states

    def listen(self, stored: Stored) -> None:
        """See ``TelemetryLog.listen``."""
        self._stored = stored

    def commit(self, shares: Sequence[Share], now_ms: int, done: Callable[[BaseException | None], None]) -> None:
        """See ``TelemetryLog.commit``."""
        if not self._which:
            done(self._away())
            return
        self._under_way += 1
        self._idle.clear()

        def ended(_: bytes, error: HubError | None) -> None:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
            done(error)

        self._link.call(_COMMIT, (self._which, *encode_commit(shares, now_ms)), ended)

    def follow(self, partition: int, begun: Callable[[PartitionState], None]) -> Callable[[], None]:
        """See ``SharedLog.follow``."""
        follower = _Follower(partition, begun, self._link.number())
        self._followers[follower.number] = follower
        self._link.runs[follower.number] = lambda body: self._heard(follower, body)
        if self._which:
            self._begin(follower)

        def stop() -> None:
            follower.stopped = True
            if self._followers.pop(follower.number, None) is None:
                return
            del self._link.runs[follower.number]
            if self._which:
                self._link.call(_LEAVE, (self._which, orjson.dumps(follower.number)), _ignore_end)

        return stop

    async def state(self, partition: int) -> PartitionState:
        """See ``SharedLog.state``."""
        return PartitionState(*await self._ask(_STATE, partition))

    async def read(self, partition: int, sequence: int, limit_bytes: int) -> Any:
        """See ``TelemetryLog.read``."""
        asked = orjson.dumps([partition, min(max(0, sequence), LAST_SEQUENCE), min(limit_bytes, LAST_SEQUENCE)])
        return decode_slices(await self._link.ask(_READ, self._open_log(), asked))

    async def sequence_at(self, partition: int, enqueued_ms: int, *, inclusive: bool) -> int:
        """See ``TelemetryLog.sequence_at``."""
        found: int = await self._ask(_SEQUENCE, [partition, enqueued_ms, inclusive])
        return found

    async def trim(self, now_ms: int, keep_ms: int, limit_bytes: int) -> Sequence[int]:
        """See ``TelemetryLog.trim``."""
        firsts: list[int] = await self._ask(_TRIM, [now_ms, keep_ms, limit_bytes])
        return firsts

    async def probe(self) -> None:
        """See ``TelemetryLog.probe``."""
        await self._link.ask(_PROBE, self._open_log())

    async def close(self) -> None:
        """See ``TelemetryLog.close``. The keeper has the log on, for the other workers."""
        self._closed = True
        self._unlisten()
        if self._opening is not None:
            self._opening.cancel()
        for follower in self._followers.values():
            follower.stopped = True
            del self._link.runs[follower.number]
            if self._which:
                self._link.call(_LEAVE, (self._which, orjson.dumps(follower.number)), _ignore_end)
        self._followers.clear()
        await self._idle.wait()
        self._which = b""

    # --- within

    def _away(self) -> HubError:
        why = "the telemetry log is closed" if self._closed else "the keeper of the telemetry log is away"
        return HubError(UNAVAILABLE, why)

    def _open_log(self) -> bytes:
        if not self._which or self._closed:
            raise self._away()
        return self._which

    async def _ask(self, head: bytes, what: Any) -> Any:
        return orjson.loads(await self._link.ask(head, self._open_log(), orjson.dumps(what)))

    async def _open(self) -> list[PartitionState]:
        asked = orjson.dumps([self._name, self.partitions, self.created_at])
        number, self.created_at, states = orjson.loads(await self._link.ask(_OPEN, asked))
        self._which = WHICH.pack(number)
        return [PartitionState(*state) for state in states]

    def _changed(self, connected: bool) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        if connected:
            self._opening = asyncio.get_running_loop().create_task(self._open_again())
        else:
            self._which = b""

    async def _open_again(self) -> None:
        while True:
            try:
                await self._open()
                break
            except HubError as error:
                log.error("the telemetry log %s cannot be opened: %s", self._name, error)
                await asyncio.sleep(RETRY_SECONDS)
        for follower in self._followers.values():
            self._begin(follower)

    def _begin(self, follower: _Follower) -> None:
        def answered(answer: bytes, error: HubError | None) -> None:
            if error is None and follower.next is None and not follower.stopped:
                state = PartitionState(*orjson.loads(answer))
                follower.next = state.next
                follower.begun(state)

        asked = orjson.dumps([follower.partition, follower.number, follower.next])
        self._link.call(_FOLLOW, (self._which, asked), answered)

    def _heard(self, follower: _Follower, body: bytes) -> None:
        for new in decode_slices(body):
            end = new.base + len(new.records)
            assert follower.next is not None, "it is told after it has begun"
            if end > follower.next:  # else it was heard of the keeper before
                self._stored(follower.partition, new.since(follower.next))
                follower.next = end


def _ignore_stored(*_: object) -> None:
    """Nobody listens yet."""


def _ignore_end(_: bytes, __: HubError | None) -> None:
    """Nobody waits for this."""
