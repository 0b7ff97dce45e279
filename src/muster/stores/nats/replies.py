"""Requests to NATS whose answers are many, or are not worth a task each: one subscription hears all of a process."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import orjson
from nats import errors
from nats.aio.msg import Msg

from muster.core.errors import UNAVAILABLE, HubError
from muster.stores.nats.connection import NatsConnection

ANSWER_SECONDS = 5.0
AGAIN_SECONDS = 2.0
"""A request of which nothing was heard for so long is sent again: when the leader of a stream changes, that which comes
to the old one and the new one between is answered by nobody."""
NOBODY = "503"
"""The status that NATS answers with where nobody takes a request."""

_PENDING_BYTES = 64 * 1024 * 1024
_NOT_FOUND = 404

Handler = Callable[[Msg], None]


def status_of(message: Msg) -> str:
    """The status of a message without content of its own, else empty."""
    return message.headers.get("Status", "") if message.headers else ""


class Replies:
    """An inbox whose subjects end in a token; each token's handler gets the answers, on the loop, in order."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._prefix = f"{connection.client.new_inbox()}."
        self._handlers: dict[str, Handler] = {}
        self._tokens = itertools.count(1)
        self._closing: Callable[[], Awaitable[None]] | None = None

    async def open(self) -> None:
        """Begin to hear. Raises ``HubError`` (503001)."""
        self._closing = await self.subscribe(f"{self._prefix}*", self._arrived)

    async def close(self) -> None:
        """Hear nothing any more."""
        self._handlers.clear()
        if self._closing is not None:
            await self._closing()

    async def subscribe(self, subject: str, handler: Handler) -> Callable[[], Awaitable[None]]:
        """Have ``handler`` called with what comes under ``subject`` until the answer is; ``HubError`` 503001."""

        async def arrived(message: Msg) -> None:
            handler(message)

        client = self._connection.client
        try:
            subscription = await client.subscribe(subject, cb=arrived, pending_bytes_limit=_PENDING_BYTES)
        except errors.Error as error:
            raise unreachable(error) from error

        async def unsubscribe() -> None:
            with suppress(errors.Error):  # the connection is closed
                await subscription.unsubscribe()

        return unsubscribe

    def inbox(self) -> str:
        """A subject that nobody else uses: another one each time, in all processes ever."""
        return self._connection.client.new_inbox()

    def add(self, handler: Handler) -> tuple[str, str]:
        """A fresh token, and the subject whose messages ``handler`` gets until ``forget``."""
        token = str(next(self._tokens))
        self._handlers[token] = handler
        return token, self._prefix + token

    def forget(self, token: str) -> None:
        """What comes for ``token`` is dropped from now on."""
        self._handlers.pop(token, None)

    def _arrived(self, message: Msg) -> None:
        handler = self._handlers.get(message.subject[len(self._prefix) :])
        if handler is not None:
            handler(message)

    async def send(self, subject: str, body: bytes, reply: str, headers: dict[str, str] | None = None) -> None:
        """Publish. Raises ``HubError`` (503001) while there is no connection: nothing waits for the next one."""
        if not self._connection.connected:
            raise HubError(UNAVAILABLE, "there is no connection to NATS")
        try:
            await self._connection.client.publish(subject, body, reply=reply, headers=headers)
        except errors.Error as error:
            raise unreachable(error) from error

    async def gather(self, subject: str, request: dict[str, Any], last: Callable[[Msg], bool]) -> list[Msg]:
        """What comes in answer to ``request``, up to the message that ``last`` says is the last one.

        It may be asked several times. Raises ``HubError`` (503001) when nobody takes it or an answer is late.
        """
        heard: asyncio.Future[list[Msg]] = asyncio.get_running_loop().create_future()
        body, tokens = orjson.dumps(request), list[str]()

        def hearing() -> Handler:
            answers: list[Msg] = []  # of one time that it is asked: those of two must not mix

            def hear(message: Msg) -> None:
                if not heard.done():
                    answers.append(message)
                    if status_of(message) == NOBODY or last(message):
                        heard.set_result(answers)

            return hear

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                while not heard.done():
                    token, reply = self.add(hearing())
                    tokens.append(token)
                    await self.send(subject, body, reply)
                    await asyncio.wait([heard], timeout=AGAIN_SECONDS)
        except TimeoutError:
            raise HubError(UNAVAILABLE, "NATS has not answered in time") from None
        finally:
            for token in tokens:
                self.forget(token)
        answers = heard.result()
        if status_of(answers[-1]) == NOBODY:
            raise HubError(
                UNAVAILABLE, "NATS keeps no streams at the moment: JetStream has no leader, or is not enabled"
            )
        return answers

    async def ask(self, what: str, request: dict[str, Any]) -> dict[str, Any] | None:
        """JetStream's answer to a request of its API, ``what`` being the subject behind ``$JS.API.``; ``None`` when
        what it is about is not there. Raises ``HubError``: 503001 when there is no answer, or one that says no.
        """
        (message,) = await self.gather(f"$JS.API.{what}", request, lambda _: True)
        answer: dict[str, Any] = orjson.loads(message.data)
        error = answer.get("error")
        if error is None:
            return answer
        if error.get("code") == _NOT_FOUND:
            return None
        raise Refused(error)


class Refused(HubError):
    """JetStream has said no. ``number`` is its own number of the error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(UNAVAILABLE, f"JetStream refuses: {error.get('description', 'it does not say why')}")
        self.number = error.get("err_code", 0)
        self.status = error.get("code", 0)


def unreachable(error: Exception) -> HubError:
    """For what nats-py raises."""
    return HubError(UNAVAILABLE, f"NATS cannot be used: {error or type(error).__name__}")
