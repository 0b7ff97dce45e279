"""The bus between the workers of one machine, by way of their keeper: notices to all, questions to one.

The keeper hands everything on in the order in which it comes, and knows at once when a worker is gone. Notices get lost
only with the keeper, or with a connection that was cut off because a worker did not keep up: whoever has lost his
connection hears ``MISSED`` when it is back, and tells all others too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from muster.core.bus import MISSED, NoAnswerError
from muster.core.errors import THROTTLED, HubError
from muster.core.node_bus import CarriedBus, answered, check_question, refusal
from muster.stores.keeper.frames import take_words, words
from muster.stores.keeper.link import Link

MOST_QUESTIONS = 10_000
"""So many questions of others a worker works on at once; more are refused."""


class WorkerNode:
    """This worker on the bus. ``bus`` gives the bus of each hub."""

    def __init__(self, link: Link) -> None:
        """To be made before ``link`` is opened."""
        self.name = link.name
        self._link = link
        self._buses: dict[str, CarriedBus] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        link.heard, link.asked = self._heard, self._asked
        self._unlisten: Callable[[], None] = link.when_changed(self._changed)
        self._lost = False

    def close(self) -> None:
        """Hear and answer nothing more."""
        self._unlisten()
        for task in tuple(self._tasks):
            task.cancel()

    def bus(self, hub: str = "") -> CarriedBus:
        """The bus of ``hub``; of what concerns all hubs without a name."""
        found = self._buses.get(hub)
        if found is None:
            found = self._buses[hub] = CarriedBus(self, hub)
        return found

    def forget(self, hub: str) -> None:
        """``hub`` has closed on this node: what is said of it is passed over."""
        self._buses.pop(hub, None)

    # --- notices

    def publish(self, hub: str, subject: str, payload: str) -> None:
        """See ``core.node_bus.Carrier``."""
        self._link.say(words(hub, subject) + payload.encode())

    def _heard(self, notice: bytes) -> None:
        (hub, subject), end = take_words(notice, 2)
        if subject == MISSED:
            self._missed()
        elif hub in self._buses:
            self._buses[hub].tell(subject, notice[end:].decode(errors="replace"))

    def _changed(self, connected: bool) -> None:
        if not connected:
            self._lost = True
        elif self._lost:
            self._lost = False
            self.publish("", MISSED, "")
            self._missed()

    def _missed(self) -> None:
        for bus in tuple(self._buses.values()):
            bus.tell(MISSED, "")

    # --- questions

    async def ask(self, node: str, hub: str, subject: str, question: bytes, seconds: float) -> bytes:
        """See ``core.node_bus.Carrier``."""
        check_question(question)
        try:
            return await asyncio.wait_for(self._link.ask(words(node, hub, subject), question), seconds)
        except TimeoutError:
            raise NoAnswerError(f"the worker {node} does not answer within {seconds:g} s", gone=False) from None

    def _asked(self, number: int, body: bytes) -> None:
        (_, hub, subject), end = take_words(body, 3)
        if len(self._tasks) >= MOST_QUESTIONS:
            refused = HubError(THROTTLED, f"The node works on {MOST_QUESTIONS} questions of others, retry later.")
            self._link.answer(number, refusal(refused))
            return
        task = asyncio.get_running_loop().create_task(self._answer(number, hub, subject, body[end:]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, hub: str, subject: str, question: bytes) -> None:
        bus = self._buses.get(hub)
        answer = None if bus is None else bus.answers.get(subject)
        self._link.answer(number, await answered(answer, question, subject))
