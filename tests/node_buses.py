"""Several nodes in one process: their bus without a network, for tests of what nodes tell each other."""

from __future__ import annotations

import asyncio

from muster.core.bus import MISSED, Answer, LocalBus, NoAnswerError
from muster.core.errors import NOT_FOUND, HubError


class Nodes:
    """The nodes of a deployment with one hub. What is said comes in the next round of the loop."""

    def __init__(self) -> None:
        self._buses: dict[str, NodeBusHere] = {}
        self.tasks: set[asyncio.Future[object]] = set()

    def bus(self, node: str) -> NodeBusHere:
        """A new node of that name."""
        made = self._buses[node] = NodeBusHere(self, node)
        return made

    def cut(self, node: str) -> NodeBusHere:
        """Take ``node`` off the bus: it hears and says nothing any more."""
        return self._buses.pop(node)

    def join(self, bus: NodeBusHere) -> None:
        """Put a node back that was cut; all look at everything anew."""
        self._buses[bus.node] = bus
        for present in self._buses.values():
            present.tell(MISSED, "")

    def others(self, bus: NodeBusHere) -> list[NodeBusHere]:
        """The nodes that hear ``bus``."""
        return [one for one in self._buses.values() if one is not bus] if self.has(bus) else []

    def has(self, bus: NodeBusHere) -> bool:
        """Whether the node is on the bus."""
        return self._buses.get(bus.node) is bus

    async def asked(self, bus: NodeBusHere, node: str, subject: str, question: bytes) -> bytes:
        """What ``node`` says to a question of ``bus``."""
        other = self._buses.get(node)
        if not self.has(bus) or other is None:
            raise NoAnswerError(f"the node {node} is not there", gone=self.has(bus))
        answer = other.answers.get(subject)
        if answer is None:
            raise HubError(NOT_FOUND, "the node has no such hub, or does not answer this")
        await asyncio.sleep(0)
        return await answer(question)


class NodeBusHere(LocalBus):
    """Implements ``core.bus.NodeBus``."""

    def __init__(self, nodes: Nodes, node: str) -> None:
        super().__init__()
        self.node, self._nodes = node, nodes
        self.answers: dict[str, Answer] = {}

    def publish(self, subject: str, payload: str) -> None:
        super().publish(subject, payload)
        for other in self._nodes.others(self):
            asyncio.get_running_loop().call_soon(other.tell, subject, payload)

    def tell(self, subject: str, payload: str) -> None:
        """What another node says."""
        super().publish(subject, payload)

    async def ask(self, node: str, subject: str, question: bytes, seconds: float) -> bytes:
        asking = asyncio.ensure_future(self._nodes.asked(self, node, subject, question))
        self._nodes.tasks.add(asking)
        asking.add_done_callback(self._nodes.tasks.discard)
        try:
            return await asyncio.wait_for(asyncio.shield(asking), seconds)
        except TimeoutError:
            raise NoAnswerError(f"the node {node} does not answer", gone=False) from None

    def answer(self, subject: str, answer: Answer) -> None:
        self.answers[subject] = answer
