"""The telemetry log on NATS JetStream: a stream for each partition, written and read by every node alike.

Nobody owns a partition. Each node publishes its batches itself, the stream puts them in order and gives them their
time, and a place in the stream makes sequence numbers (``stores.nats.positions``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from muster.core.errors import INVALID_OPERATION, UNAVAILABLE, HubError
from muster.messages.contract import PartitionState, Share, Slice, Stored
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.follower import Follower
from muster.stores.nats.positions import base_of, place_of, slice_of
from muster.stores.nats.publisher import Publisher
from muster.stores.nats.replies import Replies
from muster.stores.nats.streams import Place, Streams, delete_streams

OPENING_SECONDS = 15.0
"""A start waits so long for servers that are starting too."""
RETRY_SECONDS = 0.25

_LAST_SEQUENCE = (1 << 62) - 1
_LOOKS = 3
_DISAGREE = "the NATS servers do not agree yet on what a stream holds; read again"
_LEAST_PAYLOAD = 1_000_000
"""Servers take 1 MiB by default. Runs are of half of that, a longer message of a device or the hub fits too."""

_LOG = logging.getLogger("muster.nats")


class JetStreamLog:
    """``SharedLog`` on the streams of one hub; made by ``open``.

    ``damaged`` holds partition and first sequence number of each damaged message of a stream that was come upon.
    """

    def __init__(
        self,
        connection: NatsConnection,
        replies: Replies,
        streams: Streams,
        *,
        states: Sequence[PartitionState],
    ) -> None:
        self.partitions = streams.partitions
        self.created_at = streams.created_at
        self.damaged: set[tuple[int, int]] = set()
        self._connection = connection
        self._replies = replies
        self._streams = streams
        self._states = states
        self._stored: Stored | None = None
        self._heard = [0] * streams.partitions  # the newest place that was followed, for each
        self._publisher = Publisher(connection, replies, streams)
        self._followers: set[Follower] = set()
        self._closed = False

    @classmethod
    async def open(
        cls,
        connection: NatsConnection,
        place: Place,
        partitions: int,
        *,
        created_at: float,
        replicas: int | None = None,
    ) -> JetStreamLog:
        """The log of the hub at ``place``; a new one gets ``partitions`` and ``created_at`` (seconds since 1970).

        ``replicas`` of each stream are kept; by default three where the servers are a cluster, one where there is one
        server. Raises ``HubError``: 400003 for a number of partitions that is out of range or not that of the log,
        503001 when the servers cannot be used.
        """
        if connection.client.max_payload < _LEAST_PAYLOAD:
            raise HubError(
                INVALID_OPERATION,
                f"the NATS servers take messages of {connection.client.max_payload} bytes at most; leave their "
                "max_payload at 1MB",
            )
        replies = Replies(connection)
        streams = Streams(replies, place, partitions)
        await replies.open()
        try:
            states = await _prepared(streams, created_at, replicas)
        except BaseException:
            await replies.close()
            raise
        return cls(connection, replies, streams, states=states)

    @staticmethod
    async def delete(connection: NatsConnection, place: Place) -> None:
        """Delete all that is kept of a hub's telemetry. Harmless when repeated. Raises ``HubError`` (503001)."""
        replies = Replies(connection)
        await replies.open()
        try:
            await delete_streams(replies, place)
        finally:
            await replies.close()

    @property
    def reachable(self) -> bool:
        """See ``SharedLog.reachable``."""
        return self._connection.connected

    def states(self) -> Sequence[PartitionState]:
        """See ``TelemetryLog.states``."""
        return self._states

    def listen(self, stored: Stored) -> None:
        """See ``TelemetryLog.listen``."""
        self._stored = stored

    def follow(self, partition: int, begun: Callable[[PartitionState], None]) -> Callable[[], None]:
        """See ``SharedLog.follow``."""
        follower = Follower(
            self._connection,
            self._replies,
            self._streams,
            partition,
            begun=partial(self._begin, partition, begun),
            stored=partial(self._tell, partition),
            damaged=partial(self._report, partition),
        )
        self._followers.add(follower)

        def stop() -> None:
            self._followers.discard(follower)
            follower.stop()

        return stop

    async def state(self, partition: int) -> PartitionState:
        """See ``SharedLog.state``."""
        self._check_open()
        heard = self._heard[partition]  # before it is asked: more may come meanwhile
        state = await self._streams.state(partition)
        if place_of(state.next) < heard:  # of a leader that was cut off, see _doubt
            raise HubError(UNAVAILABLE, _DISAGREE)
        return state

    def commit(self, shares: Sequence[Share], now_ms: int, done: Callable[[BaseException | None], None]) -> None:
        """See ``TelemetryLog.commit``. ``now_ms`` counts for nothing: streams have clocks of their own."""
        del now_ms
        self._publisher.store(shares, done)

    async def read(self, partition: int, sequence: int, limit_bytes: int) -> Sequence[Slice]:
        """See ``TelemetryLog.read``. Messages of the stream whose checksum is wrong are left out, and logged."""
        slices: list[Slice] = []
        sequence = min(sequence, _LAST_SEQUENCE)
        while not slices:
            self._check_open()
            heard = self._heard[partition]  # before it is asked: more may come meanwhile
            found = await self._streams.page(partition, sequence, limit_bytes)
            if not found:
                await self._doubt(partition, place_of(sequence), heard)
                break
            latest = 0
            for place, enqueued_ms, body in found:
                latest = max(latest, enqueued_ms)
                run = slice_of(place, latest, body)
                if run is None:
                    self._report(partition, place)
                elif run.base + len(run.records) > sequence and run.records:
                    slices.append(run.since(sequence))
            sequence = base_of(found[-1].place + 1)
        return slices

    async def sequence_at(self, partition: int, enqueued_ms: int, *, inclusive: bool) -> int:
        """See ``TelemetryLog.sequence_at``."""
        self._check_open()
        earliest = enqueued_ms if inclusive else enqueued_ms + 1
        for _ in range(_LOOKS):
            found = await self._streams.first_since(partition, earliest)
            if found is not None:
                return base_of(found.place)
            state = await self.state(partition)
            if state.enqueued_ms < earliest or state.first == state.next:
                return state.next  # else something came in between, and would be skipped
        raise HubError(UNAVAILABLE, _DISAGREE)

    async def _doubt(self, partition: int, place: int, heard: int) -> None:
        """Raise ``HubError`` (503001) unless there is nothing at ``place`` and behind it, as a leader has said: one
        that was cut off takes itself for the leader still, for a while. What this node had ``heard`` of when it asked
        is not there any more only where it was removed, and with it all that is older."""
        if place <= heard and await self._streams.oldest(partition) <= heard:
            raise HubError(UNAVAILABLE, _DISAGREE)

    async def trim(self, now_ms: int, keep_ms: int, limit_bytes: int) -> Sequence[int]:
        """See ``TelemetryLog.trim``: servers are told the limits and hold the streams to them, each to its part of
        ``limit_bytes``."""
        del now_ms
        self._check_open()
        keeping = [self._streams.keep(partition, keep_ms, limit_bytes) for partition in range(self.partitions)]
        return await asyncio.gather(*keeping)

    def hurry(self) -> None:
        """See ``SharedLog.hurry``."""
        self._publisher.hurry()

    async def probe(self) -> None:
        """See ``TelemetryLog.probe``."""
        await self._publisher.probe()

    async def close(self) -> None:
        """See ``TelemetryLog.close``. The connection stays."""
        self._closed = True
        await self._publisher.close()
        for follower in self._followers:
            follower.stop()
        self._followers.clear()
        await self._replies.close()

    def _check_open(self) -> None:
        if self._closed:
            raise HubError(UNAVAILABLE, "the telemetry log is closed; nothing can be read any more")

    def _begin(self, partition: int, begun: Callable[[PartitionState], None], state: PartitionState) -> None:
        if state.first < state.next:
            self._heard[partition] = max(self._heard[partition], place_of(state.next - 1))
        begun(state)

    def _tell(self, partition: int, new: Slice) -> None:
        self._heard[partition] = place_of(new.base)
        if self._stored is not None:
            self._stored(partition, new)

    def _report(self, partition: int, place: int) -> None:
        damaged = partition, base_of(place)
        if damaged not in self.damaged:
            self.damaged.add(damaged)
            _LOG.error(
                "stream %s: the message %d is damaged and not served; check the disks of the NATS servers",
                self._streams.names[partition],
                place,
            )


async def _prepared(streams: Streams, created_at: float, replicas: int | None) -> Sequence[PartitionState]:
    """Where each partition stands, its stream having been made if need be."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + OPENING_SECONDS
    while True:
        try:
            await streams.prepare(created_at, replicas)
            return await asyncio.gather(*map(streams.state, range(streams.partitions)))
        except HubError as error:
            if error.row is not UNAVAILABLE or loop.time() > deadline:
                raise
        await asyncio.sleep(RETRY_SECONDS)
