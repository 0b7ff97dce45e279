"""The bus of a deployment of several nodes on NATS core: notices to all, questions to one.

Subjects are ``muster.DEPLOYMENT.say.HUB.SUBJECT`` for notices and ``muster.DEPLOYMENT.ask.NODE.HUB.SUBJECT`` for
questions, so that a deployment is one account's permission, ``muster.DEPLOYMENT.>``. NATS core delivers at most once.
A node that was cut off hears ``MISSED`` when it is back, and so do all others if it had something to say meanwhile,
or shortly before: what it wrote then may be lost.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Protocol

from nats import errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from muster.core.bus import MISSED, Answer, NoAnswerError
from muster.core.errors import THROTTLED, HubError
from muster.core.node_bus import ANSWERED, CarriedBus, answered, check_question, read_answer, refusal

_DOUBT_SECONDS = 10.0
"""What was said so long before a loss was noticed may be lost: a server that is gone without a word is noticed after
some six seconds (``stores.nats.connection``)."""
_PROBE_SECONDS = 1.0
"""So often a node that works on an answer is asked whether it is there; at the second silence it is not."""
_MOST_QUESTIONS = 10_000
"""So many questions of others a node works on at once; more are refused."""
_ALL = "_"
"""In the place of a hub: what concerns the deployment. No hub is written so."""
_PROBE = "probe"
_LOST = (errors.Error, OSError)
"""Passed over where somebody waits who hears of it by his own deadline."""

_OTHER = re.compile(r"[^A-Za-z0-9-]")

log = logging.getLogger("muster.nats")


class Connection(Protocol):
    """The part of ``stores.nats.connection.NatsConnection`` that the bus needs."""

    client: Client
    connected: bool

    def when_changed(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Have ``listener`` told of a loss and of a return."""
        ...


class NatsNode:
    """This node on the bus of ``deployment``. ``open`` it; ``bus`` gives the bus of each hub."""

    def __init__(self, connection: Connection, deployment: str, node: str) -> None:
        """``node`` is a name that no other run of any node has."""
        self.name = node
        self._connection = connection
        self._client = connection.client
        self._prefix = f"muster.{token(deployment)}."
        self._buses: dict[str, CarriedBus] = {}
        self._outbox: list[tuple[str, bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._saying = False
        self._said = float("-inf")
        self._untold = False
        self._questions = 0
        self._watches: dict[str, _Watch] = {}
        self._subscriptions: list[Any] = []
        self._unlisten: Callable[[], None] | None = None

    async def open(self) -> None:
        """Hear what other nodes say from now on. Raises ``HubError`` 503001 when the server does not answer."""
        client, prefix = self._client, self._prefix
        self._unlisten = self._connection.when_changed(self._changed)
        try:
            for subject, heard in ((f"{prefix}say.>", self._heard), (f"{prefix}ask.{token(self.name)}.>", self._asked)):
                self._subscriptions.append(await client.subscribe(subject, cb=heard))
            await self._flush()
        except errors.Error as error:
            raise NoAnswerError(f"NATS does not answer: {error}", gone=False) from None

    async def close(self) -> None:
        """Say what is left to say, hear and answer nothing more."""
        if self._unlisten is not None:
            self._unlisten()
        for subscription in self._subscriptions:
            with suppress(*_LOST):
                await subscription.unsubscribe()
        for watch in self._watches.values():
            watch.end()
        with suppress(*_LOST):
            await self._say()
            await self._flush()
        for task in tuple(self._tasks):
            task.cancel()

    async def _flush(self) -> None:
        """Return when the server has all that was handed over."""
        for _ in range(2):  # nats-py's PING overtakes what is not written yet; behind the first one's PONG that is
            await self._client.flush()

    def bus(self, hub: str = "") -> CarriedBus:
        """The bus of ``hub``; of what concerns all hubs without a name."""
        name = token(hub) if hub else _ALL
        found = self._buses.get(name)
        if found is None:
            found = self._buses[name] = CarriedBus(self, name)
        return found

    def forget(self, hub: str) -> None:
        """``hub`` has closed on this node: what is said of it is passed over."""
        self._buses.pop(token(hub), None)

    # --- notices

    def publish(self, hub: str, subject: str, payload: str) -> None:
        """Tell the other nodes; see ``CarriedBus.publish``."""
        self._said = asyncio.get_running_loop().time()
        if not self._connection.connected:
            self._untold = True
            return
        self._outbox.append((f"{self._prefix}say.{hub}.{subject}", f"{self.name}\n{payload}".encode()))
        if not self._saying:
            self._saying = True
            self._run(self._say())

    async def _say(self) -> None:
        """Hand over what was published, in its order."""
        try:
            while self._outbox:
                waiting, self._outbox = self._outbox, []
                for subject, payload in waiting:
                    await self._client.publish(subject, payload)
        except errors.Error as error:
            self._untold = True
            log.warning("other nodes are not told of changes now: %s", error)
        finally:
            self._saying = False

    async def _heard(self, message: Msg) -> None:
        sender, _, payload = message.data.decode(errors="replace").partition("\n")
        if sender == self.name:
            return
        hub, _, subject = message.subject.removeprefix(f"{self._prefix}say.").partition(".")
        if subject == MISSED:
            self._missed()
        elif hub in self._buses:
            self._buses[hub].tell(subject, payload)

    def _changed(self, connected: bool) -> None:
        if not connected:
            self._untold = self._untold or asyncio.get_running_loop().time() - self._said < _DOUBT_SECONDS
            return
        if self._untold:
            self._untold = False
            self.publish(_ALL, MISSED, "")
        self._missed()

    def _missed(self) -> None:
        for bus in tuple(self._buses.values()):
            bus.tell(MISSED, "")

    # --- questions

    async def ask(self, node: str, hub: str, subject: str, question: bytes, seconds: float) -> bytes:
        """See ``core.bus.NodeBus.ask``."""
        check_question(question)
        answer = asyncio.ensure_future(self._request(node, f"{hub}.{subject}", question, seconds))
        if seconds <= 2 * _PROBE_SECONDS:
            return await answer
        watch = self._watches.get(node)
        if watch is None:
            watch = self._watches[node] = _Watch(self, node)
        watch.users += 1
        try:
            await asyncio.wait((answer, watch.gone), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            raise NoAnswerError(f"the node {node} has gone while it worked on an answer", gone=False)
        finally:
            answer.cancel()
            watch.users -= 1
            if not watch.users and self._watches.get(node) is watch:
                del self._watches[node]
                watch.end()

    async def is_there(self, node: str) -> bool | None:
        """Whether ``node`` is on the bus; ``None`` when that cannot be said."""
        try:
            await self._request(node, f"{_ALL}.{_PROBE}", b"", _PROBE_SECONDS)
        except NoAnswerError as error:
            return False if error.gone else None
        return True

    async def _request(self, node: str, subject: str, question: bytes, seconds: float) -> bytes:
        if not self._connection.connected:
            raise NoAnswerError(f"the node {node} cannot be asked, there is no connection to NATS", gone=False)
        try:
            reply = await self._client.request(f"{self._prefix}ask.{token(node)}.{subject}", question, seconds)
        except errors.NoRespondersError:
            raise NoAnswerError(f"the node {node} is not there", gone=True) from None
        except (errors.Error, TimeoutError) as error:
            why = f"{type(error).__name__} after {seconds:g} s"
            raise NoAnswerError(f"the node {node} does not answer ({why})", gone=False) from None
        return read_answer(reply.data)

    async def _asked(self, message: Msg) -> None:
        hub, _, subject = message.subject.removeprefix(f"{self._prefix}ask.{token(self.name)}.").partition(".")
        if subject == _PROBE:
            with suppress(*_LOST):
                await message.respond(ANSWERED)
        elif self._questions >= _MOST_QUESTIONS:
            refused = HubError(THROTTLED, f"The node works on {self._questions} questions of others, retry later.")
            with suppress(*_LOST):
                await message.respond(refusal(refused))
        else:
            self._questions += 1
            bus = self._buses.get(hub)
            self._run(self._answer(message, None if bus is None else bus.answers.get(subject)))

    async def _answer(self, message: Msg, answer: Answer | None) -> None:
        try:
            reply = await answered(answer, message.data, message.subject)
            with suppress(*_LOST):
                await message.respond(reply)
        finally:
            self._questions -= 1

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Watch:
    """Looks whether a node is there, as long as somebody waits for an answer of it."""

    def __init__(self, owner: NatsNode, node: str) -> None:
        self.users = 0
        self.gone = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._look(owner, node))

    def end(self) -> None:
        """Nobody waits any more."""
        self._task.cancel()

    async def _look(self, owner: NatsNode, node: str) -> None:
        silences = 0
        while silences < 2:
            await asyncio.sleep(_PROBE_SECONDS)
            there = await owner.is_there(node)
            silences = 0 if there else silences + (2 if there is False else 1)
        self.gone.set_result(None)


def token(name: str) -> str:
    """``name`` as one token of a subject: letters, digits and ``-`` stay, all else is ``_`` with four hex digits or
    more and another ``_``."""
    return _OTHER.sub(lambda found: f"_{ord(found[0]):04x}_", name)
