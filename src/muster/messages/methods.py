"""Direct methods: a service calls, the device answers, or the call ends with a reason. Nothing is queued or repeated.

A call finds the session that takes methods, or waits for one; from then on it belongs to that session. When the
session ends before the answer, by a cut, a takeover or the registry, the call ends at once with 404104
(service.md 2.11): whether the device acted is unknown, so the hub neither sends it again nor lets another
connection answer it. An answer that comes late or from elsewhere is passed over.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from muster.core.ambient import Ambient
from muster.core.errors import (
    ARGUMENT_INVALID,
    BAD_METHOD_ANSWER,
    CONNECTION_CLOSED,
    DEVICE_NOT_ONLINE,
    MESSAGE_TOO_LARGE,
    METHOD_TIMEOUT,
    METHODS_IN_FLIGHT_FULL,
    SERVER_ERROR,
    THROTTLED,
    UNAVAILABLE,
    ErrorRow,
    HubError,
)
from muster.core.json_text import decode
from muster.core.limit import Limit
from muster.core.meters import Meters
from muster.core.method_limits import (
    METHOD_HISTORY,
    METHOD_LEAST_RESPONSE,
    METHOD_MOST_TIMEOUT,
    METHOD_NAME_CHARACTERS,
    METHOD_PAYLOAD_BYTES,
    METHODS_IN_FLIGHT,
    METHODS_OF_HUB,
)
from muster.core.throttles import METHODS
from muster.core.values import value
from muster.identity.model import Identity, IdentityKey

DEFAULT_RESPONSE_SECONDS = 30
ANSWER_MARGIN_SECONDS = 0.1
"""So much before its end a call gives up: Node's client gives up at the very end (service.md 2.11) and would never
be told why."""

CANCELLED = "Cancelled"
"""The outcome of a call whose caller went away."""

_NAME = re.compile(r"[!%&'*\-.0-9A-Z^_`a-z|~]+")


class MethodRequest(NamedTuple):
    """What a device is asked. ``request_id`` is 16 random bytes in hex digits, ``payload`` JSON text."""

    request_id: str
    name: str
    payload: bytes


class MethodAnswer(NamedTuple):
    """What a device answered: any status, and JSON text in UTF-8 (``null`` when it said nothing)."""

    status: int
    payload: bytes


class MethodSession(Protocol):
    """A connection that takes methods."""

    def invoke(self, request: MethodRequest) -> None:
        """Send the request to the device. Does not wait, and does not promise that it arrives.

        Raises ``HubError`` 429001 when the device has too much unread already.
        """
        ...


class MethodSessions(Protocol):
    """Who takes methods now; answered by the session table."""

    def taker(self, key: IdentityKey, name: str) -> MethodSession | None:
        """The live session of ``key`` that takes the method ``name`` at this moment."""
        ...

    def when_methods_taken(self, listener: Callable[[IdentityKey], None]) -> None:
        """From now on call ``listener`` whenever an identity begins to take methods, or other ones than before."""
        ...

    def when_ended(self, listener: Callable[[MethodSession], None]) -> None:
        """From now on call ``listener`` with every session that has ended."""
        ...


class Identities(Protocol):
    """The part of ``identity.registry.Registry`` that tells who exists."""

    async def get(self, key: IdentityKey) -> Identity:
        """The identity. Raises ``HubError`` 404001 or 404010 when there is none."""
        ...


class Elsewhere(Protocol):
    """Sessions on other nodes; see ``messages.methods_elsewhere``."""

    async def invoke(self, key: IdentityKey, name: str, payload: bytes, seconds: float) -> MethodAnswer | None:
        """Have the node that has the session call the method; ``None`` when it is taken nowhere now, and so was not
        called. Raises ``HubError`` as ``Methods.invoke``."""
        ...

    def want(self, key: IdentityKey, name: str) -> None:
        """A call waits until ``key`` takes the method ``name``: whoever finds that it takes methods calls ``wake``."""
        ...


class MethodTimeoutError(HubError):
    """404103 or 504101; ``seconds`` is the time given, which the wire tells too."""

    def __init__(self, row: ErrorRow, message: str, seconds: float) -> None:
        super().__init__(row, message)
        self.seconds = seconds


@value(frozen=True, slots=True)
class Invocation:
    """One call that has ended. ``outcome`` is the device's status, or the error's name, or ``CANCELLED``.

    ``at`` is when it began (seconds since 1970), ``seconds`` how long it took, ``caller`` who called.
    """

    tracking_id: str
    caller: str
    key: IdentityKey
    name: str
    at: float
    seconds: float
    outcome: int | str


class Methods:
    """All method calls of one hub on this node; ``in_flight`` is how many there are now."""

    def __init__(
        self, identities: Identities, sessions: MethodSessions, ambient: Ambient, meters: Meters | None = None
    ) -> None:
        self._meters = Meters(ambient) if meters is None else meters
        self.elsewhere: Elsewhere | None = None
        self._identities = identities
        self._sessions = sessions
        self._ambient = ambient
        self._calls: dict[MethodSession, dict[str, asyncio.Future[MethodAnswer]]] = {}
        self._waiting: dict[IdentityKey, set[asyncio.Future[None]]] = {}
        self._of_identity: dict[IdentityKey, int] = {}
        self.in_flight = 0
        self._closed = False
        self._history: deque[Invocation] = deque(maxlen=METHOD_HISTORY.open)
        sessions.when_methods_taken(self._taken)
        sessions.when_ended(self._ended)

    # --- for services

    async def invoke(
        self,
        key: IdentityKey,
        name: str,
        payload: bytes | None,
        *,
        connect_timeout: float = 0,
        response_timeout: float = DEFAULT_RESPONSE_SECONDS,
        caller: str = "",
        tracking_id: str = "",
    ) -> MethodAnswer:
        """Call a method of a device or module and wait for its answer; cancel to forget the call.

        Args:
            key: whom.
            name: the method (device.md 8: 1 to 100 of printable ASCII without separators, ``+`` and ``#``).
            payload: JSON text, which the caller vouches for; ``None`` goes to the device as ``null``.
            connect_timeout: seconds to wait until the identity takes the method, 0 to 300.
            response_timeout: seconds to wait for the answer from then on, 5 to 300.
            caller: who calls, for the history.
            tracking_id: of the request, for the history.

        Raises ``HubError``: 400004 (name, timeouts), 413001 (payload), 404001, 404010, 403800 and 429001 (too many
        calls, or too much that the device has not read), as ``Meters.take``, 404103, 504101, 404104 (the connection
        ended meanwhile), 502000 (no JSON, or too much of it).
        """
        _check(name, payload, connect_timeout, response_timeout)
        self._meters.take(METHODS, size=len(payload or b""))
        self._enter(key)
        began, since = self._ambient.now(), self._ambient.monotonic()
        outcome: int | str = CANCELLED
        try:
            sent = b"null" if payload is None else payload
            answer = await self._answer_here(key, name, sent, response_timeout)
            if answer is None:
                await self._identities.get(key)
                answer = await self._later(key, MethodRequest("", name, sent), connect_timeout, response_timeout)
            self._meters.charge(len(payload or b""))
            self._meters.charge(len(answer.payload))
            outcome = answer.status
            return answer
        except HubError as error:
            outcome = error.row.name
            raise
        except Exception:
            outcome = SERVER_ERROR.name
            raise
        finally:
            self._leave(key)
            took = self._ambient.monotonic() - since
            self._history.append(Invocation(tracking_id, caller, key, name, began, took, outcome))

    async def invoke_here(self, key: IdentityKey, name: str, payload: bytes, seconds: float) -> MethodAnswer | None:
        """Another node has the call: ask the session that takes the method at this moment; ``None`` when none does.

        What a caller is told of and charged for is the other node's matter. Raises ``HubError`` as ``invoke``.
        """
        self._enter(key)
        try:
            return await self._answer_here(key, name, payload, seconds)
        finally:
            self._leave(key)

    def history(self, device_id: str | None, count: int) -> Sequence[Invocation]:
        """The latest calls, newest first; with ``device_id`` only those to it and its modules."""
        found = (one for one in reversed(self._history) if device_id is None or one.key.device_id == device_id)
        return [one for one, _ in zip(found, range(count), strict=False)]

    def close(self) -> None:
        """Refuse new calls and those that wait for a device; those under way end with their sessions."""
        self._closed = True
        for waiting in list(self._waiting.values()):
            for future in waiting:
                _fail(future, HubError(UNAVAILABLE))

    # --- for heads

    def answer(self, session: MethodSession, request_id: str, status: int, payload: bytes) -> None:
        """What ``session`` said to a request; passed over when nobody waits for it (any more)."""
        future = self._calls.get(session, {}).get(request_id)
        if future is None or future.done():
            return
        try:
            future.set_result(MethodAnswer(status, _json_text(payload)))
        except HubError as error:
            future.set_exception(error)

    # --- inside

    def _enter(self, key: IdentityKey) -> None:
        if self._closed:
            raise HubError(UNAVAILABLE)
        present, most = self._of_identity.get(key, 0), METHODS_IN_FLIGHT.open
        if present >= most:
            raise HubError(METHODS_IN_FLIGHT_FULL, f"{key} has {most} method calls in flight, let some end.")
        if self.in_flight >= METHODS_OF_HUB.open:
            raise HubError(THROTTLED, f"The hub has {METHODS_OF_HUB.open} method calls in flight, retry later.")
        self._of_identity[key] = present + 1
        self.in_flight += 1

    def _leave(self, key: IdentityKey) -> None:
        self.in_flight -= 1
        left = self._of_identity[key] - 1
        if left:
            self._of_identity[key] = left
        else:
            del self._of_identity[key]

    async def _answer_here(self, key: IdentityKey, name: str, payload: bytes, seconds: float) -> MethodAnswer | None:
        session = self._sessions.taker(key, name)
        return None if session is None else await self._ask(session, name, payload, seconds)

    async def _later(self, key: IdentityKey, call: MethodRequest, wait: float, seconds: float) -> MethodAnswer:
        """The answer of the session that takes the method elsewhere, or of one that takes it within ``wait``."""
        deadline, elsewhere = self._ambient.now() + wait, self.elsewhere
        while True:
            if elsewhere is not None:
                answer = await elsewhere.invoke(key, call.name, call.payload, seconds)
                if answer is not None:
                    return answer
            answer = await self._answer_here(key, call.name, call.payload, seconds)
            if answer is not None:
                return answer
            if self._closed:
                raise HubError(UNAVAILABLE)
            if self._ambient.now() >= deadline:
                raise MethodTimeoutError(DEVICE_NOT_ONLINE, "Timed out waiting for device to connect.", wait)
            if elsewhere is not None:
                elsewhere.want(key, call.name)
            await self._news(key, deadline)

    async def _news(self, key: IdentityKey, deadline: float) -> None:
        """Return when ``key`` takes other methods than before, or time is up."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, set())
        waiting.add(news)
        timer = self._ambient.at(deadline, partial(_wake, news))
        try:
            await news
        finally:
            timer.cancel()
            waiting.discard(news)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    async def _ask(self, session: MethodSession, name: str, payload: bytes, seconds: float) -> MethodAnswer:
        future: asyncio.Future[MethodAnswer] = asyncio.get_running_loop().create_future()
        request_id = self._ambient.fresh_id()
        calls = self._calls.setdefault(session, {})
        calls[request_id] = future
        timer = self._ambient.at(
            self._ambient.now() + seconds - ANSWER_MARGIN_SECONDS, partial(_too_late, future, seconds)
        )
        try:
            session.invoke(MethodRequest(request_id, name, payload))
            return await future
        finally:
            timer.cancel()
            del calls[request_id]
            if not calls:
                self._calls.pop(session, None)

    def wake(self, key: IdentityKey) -> None:
        """``key`` takes methods somewhere: calls that wait for it look again."""
        self._taken(key)

    def _taken(self, key: IdentityKey) -> None:
        for future in self._waiting.get(key, ()):
            _wake(future)

    def _ended(self, session: MethodSession) -> None:
        for future in self._calls.pop(session, {}).values():
            _fail(future, HubError(CONNECTION_CLOSED, "The device's connection ended before it answered."))


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[MethodAnswer] | asyncio.Future[None], error: HubError) -> None:
    if not future.done():
        future.set_exception(error)


def _too_late(future: asyncio.Future[MethodAnswer], seconds: float) -> None:
    _fail(future, MethodTimeoutError(METHOD_TIMEOUT, "Timed out waiting for the response from device.", seconds))


def _check(name: str, payload: bytes | None, connect_timeout: float, response_timeout: float) -> None:
    most = METHOD_NAME_CHARACTERS.open
    if not name or len(name) > most:
        raise HubError(ARGUMENT_INVALID, f"methodName has {len(name)} characters, give 1 to {most}.")
    if not _NAME.fullmatch(name):
        message = "methodName holds a character that is not allowed, use letters, digits and !%&'*-.^_`|~ only."
        raise HubError(ARGUMENT_INVALID, message)
    if payload is not None and len(payload) > METHOD_PAYLOAD_BYTES.open:
        most = METHOD_PAYLOAD_BYTES.open
        raise HubError(MESSAGE_TOO_LARGE, f"payload has {len(payload)} bytes as JSON text, send at most {most}.")
    _check_seconds("connectTimeoutInSeconds", connect_timeout, 0, METHOD_MOST_TIMEOUT)
    _check_seconds("responseTimeoutInSeconds", response_timeout, METHOD_LEAST_RESPONSE.open, METHOD_MOST_TIMEOUT)


def _check_seconds(name: str, value: float, least: int, most: Limit) -> None:
    if not least <= value <= most.open:
        raise HubError(ARGUMENT_INVALID, f"{name} must be {least} to {most.open} seconds.")


def _json_text(payload: bytes) -> bytes:
    """A device's answer as UTF-8 JSON text without a byte order mark. Raises ``HubError`` 502000."""
    if len(payload) > METHOD_PAYLOAD_BYTES.open:
        message = f"The device answered {len(payload)} bytes, {METHOD_PAYLOAD_BYTES.open} are allowed."
        raise HubError(BAD_METHOD_ANSWER, message)
    text = payload.removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        return b"null"
    try:
        decode(text.decode())
    except (ValueError, RecursionError):
        raise HubError(BAD_METHOD_ANSWER, "The device's answer is not JSON.") from None
    return text
