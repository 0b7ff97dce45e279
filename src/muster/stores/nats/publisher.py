"""Commits on JetStream: every share becomes messages of its partition's stream, and all must be acknowledged.

One commit is under way at a time, and in it one message a partition, so that nothing can overtake: a message that got
lost is published again before the one behind it. Its ``Nats-Msg-Id`` stays the same, so that the stream has it once,
also when only the acknowledgement was lost.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import orjson
from nats.aio.msg import Msg

from muster.core.errors import SERVER_ERROR, UNAVAILABLE, HubError
from muster.messages.contract import Share
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.positions import PROBE, bodies
from muster.stores.nats.replies import NOBODY, Replies, status_of
from muster.stores.nats.streams import Streams

PATIENCE_SECONDS = 15.0
"""A commit fails when it was not acknowledged by then. A new leader is chosen four to nine seconds after a loss."""
CLOSING_SECONDS = 3.0
"""The same for a log that is being closed: the process has to end."""
LEAVE_SECONDS = 10.0
"""A commit that lasts so long goes on by way of another server: this one may be cut off from its peers, and knows of
no leader. Not when the commit before has failed too: then it is not this server."""
RETRY_SECONDS = 0.25
"""Between attempts where a server says that it cannot now."""
ACK_SECONDS = 1.0
"""A message that was neither acknowledged nor refused by then is published again."""
MESSAGE_BYTES = 512 * 1024
"""A message of a stream has at most so many bytes of records, unless a single one is longer."""

_CONFLICT = 409
_NOT_NOW = {10008, 10009, 10076, 10118}
"""JetStream's numbers for: no leader, not the leader, not enabled (it starts), a stream that is offline."""

Done = Callable[[BaseException | None], None]


class _Sending:
    """What a commit brings to one partition: messages of its stream, the first of which is under way."""

    __slots__ = ("due", "left", "name", "reply", "subject", "token")

    def __init__(self, subject: str, left: Iterable[bytes]) -> None:
        self.subject = subject
        self.left = deque(left)
        self.name = self.token = self.reply = ""
        self.due = 0.0


class Publisher:
    """Stores shares, in the order they were handed in."""

    def __init__(self, connection: NatsConnection, replies: Replies, streams: Streams) -> None:
        self._connection = connection
        self._replies = replies
        self._streams = streams
        self._loop = asyncio.get_running_loop()
        self._names = (f"{mine}.{number}" for mine in (replies.inbox(),) for number in itertools.count())
        self._queue: deque[tuple[Sequence[tuple[int, Iterable[bytes]]], Done]] = deque()
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._sendings: dict[str, _Sending] = {}
        self._refusal: HubError | None = None
        self._hopeless = False
        self._patience = PATIENCE_SECONDS
        self._deadline = self._leave_at = 0.0
        self._closing = False
        self._forget = connection.when_changed(self._changed)
        self._task = self._loop.create_task(self._run())

    def store(self, shares: Sequence[Share], done: Done) -> None:
        """See ``TelemetryLog.commit``."""
        self._put([(partition, bodies(records, MESSAGE_BYTES)) for partition, records in shares], done)

    async def probe(self) -> None:
        """Publish to every stream what has no records. Raises ``HubError``."""
        ended: asyncio.Future[BaseException | None] = self._loop.create_future()

        def done(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(error)

        self._put([(partition, (PROBE,)) for partition in range(self._streams.partitions)], done)
        if (error := await ended) is not None:
            raise error

    def hurry(self) -> None:
        """See ``SharedLog.hurry``."""
        self._patience = CLOSING_SECONDS
        self._deadline = min(self._deadline, self._loop.time() + CLOSING_SECONDS)
        self._news.set()

    async def close(self) -> None:
        """End after what was handed in so far."""
        self._closing = True
        self._wanted.set()
        await asyncio.shield(self._task)
        self._forget()

    def _put(self, messages: Sequence[tuple[int, Iterable[bytes]]], done: Done) -> None:
        if self._closing:
            raise HubError(UNAVAILABLE, "the telemetry log is closed; nothing can be stored any more")
        self._queue.append((messages, done))
        self._wanted.set()

    async def _run(self) -> None:
        while self._queue or not self._closing:
            if not self._queue:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            messages, done = self._queue.popleft()
            error: BaseException | None = None
            try:
                await self._commit(messages)
            except HubError as problem:
                error = problem
            except Exception as problem:  # a defect; who waits must hear of it
                self._loop.call_exception_handler({"message": "a commit to JetStream failed", "exception": problem})
                error = HubError(SERVER_ERROR, f"telemetry was not stored: {problem}")
            self._hopeless = error is not None
            try:
                done(error)
            except Exception as problem:
                self._loop.call_exception_handler({"message": "a callback after a commit failed", "exception": problem})

    async def _commit(self, messages: Sequence[tuple[int, Iterable[bytes]]]) -> None:
        if self._hopeless and not self._connection.connected:
            raise HubError(UNAVAILABLE, f"the connection to NATS at {self._connection.servers} is lost")
        self._deadline = self._loop.time() + self._patience
        self._leave_at = self._deadline if self._hopeless else self._loop.time() + LEAVE_SECONDS
        self._refusal = None
        try:
            for partition, left in messages:
                self._begin(_Sending(self._streams.subjects[partition], left))
            while self._sendings:
                self._news.clear()
                await self._send_due()
                await self._wait()
                if self._refusal is not None:
                    raise self._refusal
        finally:
            for token in self._sendings:
                self._replies.forget(token)
            self._sendings.clear()

    def _begin(self, sending: _Sending) -> None:
        sending.name = next(self._names)
        sending.due = 0.0
        sending.token, sending.reply = self._replies.add(self._answered)
        self._sendings[sending.token] = sending

    async def _send_due(self) -> None:
        now = self._loop.time()
        for sending in list(self._sendings.values()):
            if sending.due <= now and self._connection.connected:
                sending.due = now + ACK_SECONDS
                with suppress(HubError):  # it is tried again
                    headers = {"Nats-Msg-Id": sending.name}
                    await self._replies.send(sending.subject, sending.left[0], sending.reply, headers)

    async def _wait(self) -> None:
        """Until there is something to do. Raises ``HubError`` (503001) when patience has ended."""
        if not self._sendings or self._news.is_set():
            return
        due = min(sending.due for sending in self._sendings.values()) if self._connection.connected else self._deadline
        timer = self._loop.call_at(min(max(due, self._loop.time()), self._deadline), self._news.set)
        await self._news.wait()
        timer.cancel()
        if self._leave_at <= self._loop.time() < self._deadline:
            self._leave_at = self._deadline
            await self._connection.leave_server()
        if self._loop.time() >= self._deadline:
            raise HubError(
                UNAVAILABLE,
                "NATS has not acknowledged telemetry in time; devices send it again, though it may be stored already"
                if self._connection.connected
                else f"the connection to NATS at {self._connection.servers} is lost",
            )

    def _changed(self, connected: bool) -> None:
        for sending in self._sendings.values():
            sending.due = 0.0
        if connected:
            self._news.set()

    def _answered(self, message: Msg) -> None:
        sending = self._sendings[message.subject.rpartition(".")[2]]
        if status_of(message) == NOBODY:
            self._again(sending)
            return
        answer = orjson.loads(message.data)
        error = answer.get("error")
        if error is None:
            self._acknowledged(sending)
        elif error.get("code") == _CONFLICT or error.get("err_code") in _NOT_NOW:
            self._again(sending)
        else:
            self._refusal = HubError(SERVER_ERROR, f"JetStream does not store telemetry: {error.get('description')}")
            self._news.set()

    def _acknowledged(self, sending: _Sending) -> None:
        del self._sendings[sending.token]
        self._replies.forget(sending.token)
        sending.left.popleft()
        if sending.left:
            self._begin(sending)
        if sending.left or not self._sendings:
            self._news.set()

    def _again(self, sending: _Sending) -> None:
        sending.due = self._loop.time() + RETRY_SECONDS
        self._news.set()
