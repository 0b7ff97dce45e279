"""The keeper: what the workers of a machine connect to. It carries their bus, and answers what is asked of itself.

Bounded: from a worker that does not take what it is sent nothing more is read, followers of it wait (``room``), and one
that notices and questions of others pile up for is cut off; it comes back, and looks at everything anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import NamedTuple, cast

from muster.core.errors import NOT_FOUND, SERVER_ERROR, HubError
from muster.core.memory_limits import WORKER_WAITING
from muster.core.node_bus import ANSWERED, refusal
from muster.stores.keeper.frames import (
    ABSENT,
    ANSWER,
    GONE,
    HELLO,
    LOST,
    NOTICE,
    QUESTION,
    Decoder,
    Frame,
    FrameError,
    encode,
    take_words,
)

ROOM_BYTES = 8 * 1024 * 1024
"""When so much waits for a worker, nothing more is read for it or from it until it has taken most of that."""

log = logging.getLogger("muster.keeper")


class Worker(asyncio.Protocol):
    """The connection of one worker."""

    def __init__(self, keeper: Keeper) -> None:
        self.name = ""
        self.lost = False
        self.hangs = False
        """Whether it was cut off, so that it may go on without knowing that."""
        self._keeper = keeper
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._room = asyncio.Event()
        self._room.set()

    # --- for those who answer

    @property
    def roomy(self) -> bool:
        """Whether it takes what it is sent."""
        return self._room.is_set()

    async def room(self) -> None:
        """Return when it takes what it is sent, or is lost."""
        await self._room.wait()

    def send(self, kind: int, number: int, parts: Sequence[bytes]) -> None:
        """Send a frame, unless the connection has ended."""
        if self.lost or self._transport is None:
            return
        self._transport.writelines(encode(kind, number, parts))
        if self._transport.get_write_buffer_size() > WORKER_WAITING.open:
            log.error("the worker %s does not take what it is sent, it is cut off", self.name)
            self.hangs = True
            self.cut()

    def answer(self, number: int, parts: Sequence[bytes]) -> None:
        """Answer its question."""
        self.send(ANSWER, number, (ANSWERED, *parts))

    def refuse(self, number: int, error: BaseException) -> None:
        """Refuse its question."""
        told = error if isinstance(error, HubError) else HubError(SERVER_ERROR)
        self.send(ANSWER, number, (refusal(told),))

    # --- as its transport sees it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._transport.set_write_buffer_limits(high=ROOM_BYTES, low=ROOM_BYTES // 8)

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._room.clear()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._room.set()
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._decoder.feed(data):
                self._keeper.took(self, frame)
        except FrameError as error:
            log.error("a worker does not speak as its keeper does: %s", error)
            assert self._transport is not None
            self._transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self.lost = True
        self._room.set()
        self._keeper.left(self)

    def cut(self) -> None:
        """End the connection."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()


class _Route(NamedTuple):
    """A question that was handed on: whose it is, and who works on it."""

    asker: Worker
    number: int
    asked: Worker


Handler = Callable[[Worker, int, bytes, int], None]
"""Answers a question of a worker, now or later: its number, and the frame's body with where the question begins."""


class Keeper:
    """The workers that are connected. ``answers`` holds who answers what is asked of the keeper itself."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self.answers: dict[str, Handler] = {"ping": lambda worker, number, *_: worker.answer(number, ())}
        self.when_left: list[Callable[[Worker], None]] = []
        """Told of each worker that has gone."""
        self.empty = asyncio.Event()
        """Whether nobody is connected."""
        self.empty.set()
        self._connected: set[Worker] = set()
        self._routes: dict[int, _Route] = {}
        self._numbers = count(1)
        self._tasks: set[asyncio.Future[None]] = set()

    def connection(self) -> Worker:
        """A new connection, for the loop's server."""
        worker = Worker(self)
        self._connected.add(worker)
        self.empty.clear()
        return worker

    def left(self, worker: Worker) -> None:
        """The connection has ended: who waits for an answer of that worker hears so at once."""
        self._connected.discard(worker)
        if not self._connected:
            self.empty.set()
        for number, route in tuple(self._routes.items()):
            if worker in (route.asker, route.asked):
                del self._routes[number]
                route.asker.send(ABSENT, route.number, (LOST,))
        if self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
            for listener in self.when_left:
                listener(worker)

    def cut(self) -> None:
        """End all connections."""
        for worker in tuple(self._connected):
            worker.cut()

    def took(self, worker: Worker, frame: Frame) -> None:
        """A worker has sent ``frame``. Raises ``FrameError``."""
        kind, number, body = frame
        if kind == QUESTION:
            self._asked(worker, number, body)
        elif kind == ANSWER:
            route = self._routes.get(number)
            if route is not None and route.asked is worker:
                del self._routes[number]
                route.asker.send(ANSWER, route.number, (body,))
        elif kind == NOTICE:
            for other in self.workers.values():
                if other is not worker:
                    other.send(NOTICE, 0, (body,))
        elif kind == HELLO:
            worker.name = body.decode(errors="replace")
            older = self.workers.get(worker.name)
            if older is not None:
                older.cut()
                self.left(older)
            self.workers[worker.name] = worker
            worker.send(HELLO, 0, ())
        else:
            raise FrameError(f"a worker sends no frame of kind {kind}")

    def _asked(self, worker: Worker, number: int, body: bytes) -> None:
        (node, _, subject), end = take_words(body, 3)
        if not node:
            handler = self.answers.get(subject)
            if handler is None:
                worker.refuse(number, HubError(NOT_FOUND, f"the keeper does not answer {subject}"))
                return
            try:
                handler(worker, number, body, end)
            except Exception as error:
                self._failed(subject, error)
                worker.refuse(number, error)
            return
        asked = self.workers.get(node)
        if asked is None:
            worker.send(ABSENT, number, (GONE,))
            return
        own = next(self._numbers) & 0xFFFFFFFF
        self._routes[own] = _Route(worker, number, asked)
        asked.send(QUESTION, own, (body,))

    # --- for those who answer

    def later(self, worker: Worker, number: int, subject: str, work: Awaitable[Sequence[bytes]]) -> None:
        """Answer with what becomes of ``work``."""
        task = asyncio.ensure_future(self._finish(worker, number, subject, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def handle(self, subject: str, work: Callable[[bytes], Awaitable[Sequence[bytes]]]) -> None:
        """Have ``work`` answer the questions about ``subject``."""

        def handler(worker: Worker, number: int, body: bytes, at: int) -> None:
            self.later(worker, number, subject, work(body[at:]))

        self.answers[subject] = handler

    async def settled(self) -> None:
        """Return when all that is being worked on is answered."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _finish(self, worker: Worker, number: int, subject: str, work: Awaitable[Sequence[bytes]]) -> None:
        try:
            answer = await work
        except Exception as error:
            self._failed(subject, error)
            worker.refuse(number, error)
        else:
            worker.answer(number, answer)

    def _failed(self, subject: str, error: Exception) -> None:
        if not isinstance(error, HubError):
            log.error("%s cannot be answered", subject, exc_info=error)
