"""Following a stream: every message from a place on, once and in order, whatever happens to servers and connection.

A consumer of JetStream without a memory of its own on disk (ephemeral, in memory, nothing is acknowledged) is asked for
more and more; when it skips something, falls silent or is gone, another one begins where this one was heard last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import orjson
from nats.aio.msg import Msg

from muster.core.errors import UNAVAILABLE, HubError
from muster.messages.contract import PartitionState, Slice
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.positions import place_of, slice_of
from muster.stores.nats.replies import NOBODY, Replies, status_of
from muster.stores.nats.streams import Streams

BATCH = 64
"""Messages of the stream that are asked for at a time, at most."""
HEARTBEAT_SECONDS = 1.0
"""In which a server that has nothing says so."""
SILENCE_SECONDS = 3.0
"""After which a consumer is given up."""
REQUEST_SECONDS = 30.0
IDLE_SECONDS = 30.0
"""A consumer that nobody asks is removed by its server."""
RETRY_SECONDS = 0.5
ABSENCES, ABSENT_SECONDS = 20, 0.1
"""A cluster knows a new consumer everywhere only after a moment."""

_SECOND = 1_000_000_000
_BEAT, _ENDED = "100", ("404", "408", NOBODY)
_DELIVERED = "Nats-Last-Consumer"
_PLACE, _NUMBER, _MOMENT = -4, -3, -2
_WITH_DOMAIN = 12
"""Tokens of ``$JS.ACK.<stream>.<consumer>.<times delivered>.<place>.<number>.<nanoseconds>.<pending>`` where servers
have a domain: it and an account stand in front, and one more token behind."""

_LOG = logging.getLogger("muster.nats")


class Follower:
    """Follows one partition until ``stop``. ``begun`` and ``stored`` are those of ``SharedLog``."""

    def __init__(
        self,
        connection: NatsConnection,
        replies: Replies,
        streams: Streams,
        partition: int,
        *,
        begun: Callable[[PartitionState], None],
        stored: Callable[[Slice], None],
        damaged: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._replies = replies
        self._streams = streams
        self._partition = partition
        self._name = streams.names[partition]
        self._begun, self._stored, self._damaged = begun, stored, damaged
        self._loop = asyncio.get_running_loop()
        self._next: int | None = None
        self._enqueued_ms = 0
        self._number = self._left = 0
        self._heard = 0.0
        self._ended: asyncio.Future[bool] = self._loop.create_future()
        self._ended.cancel()
        self._turn = asyncio.Event()
        self._troubled = False
        self._forget = connection.when_changed(self._changed)
        self._task = self._loop.create_task(self._run())

    def stop(self) -> None:
        """Tell nothing more."""
        self._forget()
        self._task.cancel()

    def _changed(self, _: bool) -> None:
        self._turn.set()
        self._give_up("the connection to NATS has changed")

    async def _run(self) -> None:
        while True:
            self._turn.clear()
            try:
                await self._consume()
            except HubError as error:
                if self._troubled:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._turn.wait(), RETRY_SECONDS)
                else:
                    _LOG.warning("stream %s is followed anew: %s", self._name, error.message)
                self._troubled = True

    async def _consume(self) -> None:
        if self._next is None:
            state = await self._streams.state(self._partition)
            self._enqueued_ms, self._next = state.enqueued_ms, place_of(state.next - 1) + 1 if state.next else 1
            self._begun(state)
        consumer = await self._create(self._next)
        self._number = 0
        inbox = self._replies.inbox()  # its messages come under their stream's subject
        unsubscribe = await self._replies.subscribe(inbox, self._arrived)
        try:
            absent = 0
            while True:
                if await self._fetch(f"$JS.API.CONSUMER.MSG.NEXT.{self._name}.{consumer}", inbox):
                    absent, self._troubled = 0, False
                elif (absent := absent + 1) > ABSENCES:
                    raise HubError(UNAVAILABLE, "its consumer is gone")
                else:
                    await asyncio.sleep(ABSENT_SECONDS)
        finally:
            await unsubscribe()
            with suppress(HubError):
                await self._replies.send(f"$JS.API.CONSUMER.DELETE.{self._name}.{consumer}", b"", "")

    async def _create(self, start: int) -> str:
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(IDLE_SECONDS * _SECOND),
        }
        made = await self._replies.ask(f"CONSUMER.CREATE.{self._name}", {"stream_name": self._name, "config": config})
        if made is None:
            raise HubError(UNAVAILABLE, "the stream is not there")
        return str(made["name"])

    async def _fetch(self, subject: str, inbox: str) -> bool:
        """Take the next messages, as many as come in a while; false when the consumer is not there, or not yet.

        Raises ``HubError`` when it is of no use any more.
        """
        self._left, self._heard, self._ended = BATCH, self._loop.time(), self._loop.create_future()
        request = {
            "batch": BATCH,
            "expires": int(REQUEST_SECONDS * _SECOND),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _SECOND),
        }
        try:
            await self._replies.send(subject, orjson.dumps(request), inbox)
            while not self._ended.done():
                await asyncio.wait([self._ended], timeout=SILENCE_SECONDS)
                if not self._ended.done() and self._loop.time() - self._heard >= SILENCE_SECONDS:
                    raise HubError(UNAVAILABLE, "the server that feeds it has fallen silent")
            return self._ended.result()
        finally:
            self._ended.cancel()

    def _arrived(self, message: Msg) -> None:
        self._heard = self._loop.time()
        status, headers = status_of(message), message.headers or {}
        if not status:
            self._take(message)
        elif status == _BEAT:
            if int(headers.get(_DELIVERED, 0)) > self._number:
                self._give_up("messages were lost on the way")
        elif status not in _ENDED:
            self._give_up(f"its consumer has ended: {headers.get('Description', status)}")
        elif not self._ended.done():
            self._ended.set_result(status != NOBODY)

    def _give_up(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_exception(HubError(UNAVAILABLE, why))

    def _take(self, message: Msg) -> None:
        tokens = message.reply.split(".")
        if len(tokens) >= _WITH_DOMAIN:
            tokens.pop()
        place, number = int(tokens[_PLACE]), int(tokens[_NUMBER])
        if self._ended.done():
            return
        if number != self._number + 1:
            self._give_up("messages were lost on the way")
            return
        self._number, self._next, self._left = number, place + 1, self._left - 1
        self._enqueued_ms = max(self._enqueued_ms, int(tokens[_MOMENT]) // 1_000_000)
        found = slice_of(place, self._enqueued_ms, message.data)
        if found is None:
            self._damaged(place)
        elif found.records:
            self._stored(found)
        if not self._left:
            self._ended.set_result(True)
