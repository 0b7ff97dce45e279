"""A worker's connection to the keeper: asked over, told over, and made anew as often as it ends.

The keeper's socket is a file in the directory that the workers share. It is reached by way of that directory's own
descriptor, for the path of a socket may have 107 bytes only.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import cast

from muster.core.bus import NoAnswerError
from muster.core.errors import HubError
from muster.core.memory_limits import WORKER_WAITING
from muster.core.node_bus import read_answer
from muster.stores.keeper.frames import (
    ABSENT,
    ANSWER,
    GONE,
    HELLO,
    NOTICE,
    QUESTION,
    RUNS,
    Decoder,
    Frame,
    FrameError,
    encode,
    words,
)

SOCKET = "keeper.sock"
OPENING_SECONDS = 15.0
"""A start waits so long for a keeper that is starting too."""
RETRY_SECONDS = 0.05
SILENCE_SECONDS = 10.0
"""A keeper that is asked and says nothing for so long is given up; half of it, and it is asked whether it is there."""

_LOOK_SECONDS, _GOODBYE_SECONDS = 1.0, 1.0
_PING = words("", "", "ping")

Done = Callable[[bytes, HubError | None], None]

log = logging.getLogger("muster.keeper")


@contextmanager
def socket_place(directory: Path) -> Iterator[str]:
    """A path of the keeper's socket in ``directory`` that is short, for as long as this lasts."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET}"
    finally:
        os.close(handle)


class Link:
    """The connection of the worker ``name``, a name that no other run of any worker has. ``open`` it.

    ``connected`` tells whether it is there; what is asked meanwhile fails at once. ``heard`` gets notices, ``asked``
    the number and the body of questions, ``runs`` what comes for each follower's number.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.connected = False
        self.heard: Callable[[bytes], None] = _ignore
        self.asked: Callable[[int, bytes], None] = _ignore
        self.runs: dict[int, Callable[[bytes], None]] = {}
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._numbers = count(1)
        self._waiting: dict[int, Done] = {}
        self._since = 0.0
        """When the keeper was heard last, or something was asked after nothing had been."""
        self._pinged = False
        self._listeners: dict[object, Callable[[bool], None]] = {}
        self._closed = False
        self._there, self._over = asyncio.Event(), asyncio.Event()
        self._again: asyncio.Task[None] | None = None
        self._look: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Connect. Raises ``NoAnswerError`` when there is no keeper within ``OPENING_SECONDS``."""
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                await self._connect()
                await self._there.wait()
        except TimeoutError:
            raise NoAnswerError(f"there is no keeper at {self._directory / SOCKET}", gone=False) from None
        self._look = self._loop.call_later(_LOOK_SECONDS, self._watch)

    async def close(self) -> None:
        """End it, after what was sent. Harmless when repeated."""
        self._closed = True
        if self._look is not None:
            self._look.cancel()
        if self._again is not None:
            self._again.cancel()
        if self._transport is not None:
            self._transport.close()
            try:
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._over.wait()
            except TimeoutError:
                self._transport.abort()

    def when_changed(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """From now on tell ``listener`` of a loss, and of a return; what this returns ends that."""
        token = object()
        self._listeners[token] = listener

        def leave() -> None:
            self._listeners.pop(token, None)

        return leave

    # --- what is said

    def ask(self, head: bytes, *content: bytes) -> asyncio.Future[bytes]:
        """Ask what ``head`` names (three words: node, hub, subject). Questions are sent in the order of the calls.

        The future raises ``HubError``: what the other side refused, or ``NoAnswerError``.
        """
        future: asyncio.Future[bytes] = self._loop.create_future()

        def done(answer: bytes, error: HubError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(answer)
            else:
                future.set_exception(error)

        number = self.call(head, content, done)
        future.add_done_callback(lambda _: self._waiting.pop(number, None))
        return future

    def call(self, head: bytes, content: Sequence[bytes], done: Done) -> int:
        """As ``ask``, with ``done`` called on the loop, a round earlier, or before this returns; the question's
        number."""
        number = next(self._numbers) & 0xFFFFFFFF
        if not self.connected:
            done(b"", NoAnswerError("the keeper of this machine's workers is away", gone=False))
        elif self._transport is not None and self._transport.get_write_buffer_size() > WORKER_WAITING.open:
            done(b"", NoAnswerError("the keeper of this machine's workers does not keep up", gone=False))
        else:
            if not self._waiting:
                self._since = self._loop.time()
            self._waiting[number] = done
            self._send(QUESTION, number, (head, *content))
        return number

    def number(self) -> int:
        """A number for a follower, as no other has."""
        return next(self._numbers) & 0xFFFFFFFF

    def say(self, notice: bytes) -> None:
        """Tell all other workers, if the keeper is there."""
        if self.connected:
            self._send(NOTICE, 0, (notice,))

    def answer(self, number: int, answer: bytes) -> None:
        """Answer the question of that number, if the keeper that asked is still there."""
        if self.connected:
            self._send(ANSWER, number, (answer,))

    def _send(self, kind: int, number: int, parts: Sequence[bytes]) -> None:
        assert self._transport is not None
        self._transport.writelines(encode(kind, number, parts))  # one round's writes are one, the loop sees to that

    # --- what is heard

    def took(self, frame: Frame) -> None:
        """The keeper has sent ``frame``."""
        kind, number, body = frame
        if kind == ANSWER:
            done = self._waiting.pop(number, None)
            if done is not None:
                try:
                    answer = read_answer(body)
                except HubError as error:
                    done(b"", error)
                else:
                    done(answer, None)
        elif kind == RUNS:
            run = self.runs.get(number)
            if run is not None:
                run(body)
        elif kind == NOTICE:
            self.heard(body)
        elif kind == QUESTION:
            self.asked(number, body)
        elif kind == HELLO:
            self.greeted()
        elif kind == ABSENT:
            done = self._waiting.pop(number, None)
            if done is not None:
                done(b"", _absent(body))

    def heard_at(self) -> None:
        """The keeper has sent something."""
        self._since, self._pinged = self._loop.time(), False

    # --- there and away

    async def _connect(self) -> None:
        while True:
            with suppress(OSError), socket_place(self._directory) as place:
                await self._loop.create_unix_connection(lambda: _Wire(self), place)
                return
            await asyncio.sleep(RETRY_SECONDS)

    def made(self, transport: asyncio.Transport) -> None:
        """There is a connection; it is good for something once the keeper has greeted back, and so knows this worker:
        from then on no notice passes it by."""
        self._transport = transport
        self._send(HELLO, 0, (self.name.encode(),))

    def greeted(self) -> None:
        """The keeper knows this worker."""
        self.connected = True
        self._there.set()
        self._tell(True)

    def lost(self) -> None:
        """The connection has ended."""
        self._transport = None
        if self._closed:
            self._over.set()
        else:
            self._again = self._loop.create_task(self._connect())
        if not self.connected:
            return
        self.connected = False
        if not self._closed:
            log.error("the keeper of this machine's workers is away")
        waiting, self._waiting = self._waiting, {}
        self._tell(False)
        for done in waiting.values():
            self._call(done, b"", NoAnswerError("the keeper of this machine's workers has gone", gone=False))

    def _tell(self, connected: bool) -> None:
        for listener in tuple(self._listeners.values()):
            self._call(listener, connected)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception:
            log.exception("what hangs on the keeper's connection failed")

    def _watch(self) -> None:
        self._look = self._loop.call_later(_LOOK_SECONDS, self._watch)
        quiet = self._loop.time() - self._since
        if not self._waiting or self._transport is None:
            return
        if quiet > SILENCE_SECONDS:
            self._transport.abort()
        elif quiet > SILENCE_SECONDS / 2 and not self._pinged:
            self._pinged = True
            self.call(_PING, (), _answered)


class _Wire(asyncio.Protocol):
    """One connection of a ``Link``."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._link.made(self._transport)

    def data_received(self, data: bytes) -> None:
        self._link.heard_at()
        try:
            frames = self._decoder.feed(data)
        except FrameError as error:
            log.error("the keeper does not speak as this worker does: %s", error)
            assert self._transport is not None
            self._transport.abort()
            return
        for frame in frames:
            try:
                self._link.took(frame)
            except Exception:
                log.exception("a frame of the keeper could not be taken")

    def connection_lost(self, _: Exception | None) -> None:
        self._link.lost()


def _absent(body: bytes) -> NoAnswerError:
    if body == GONE:
        return NoAnswerError("the worker that was asked is not there", gone=True)
    return NoAnswerError("the worker that was asked has gone while it worked on an answer", gone=False)


def _ignore(*_: object) -> None:
    """Nobody listens yet."""


def _answered(_: bytes, __: HubError | None) -> None:
    """It is there; or not, and the next look finds that."""
