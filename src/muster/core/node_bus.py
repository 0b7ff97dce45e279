"""What all buses between nodes have in common, whatever carries them: a hub's bus on a node, and answers as bytes."""

from __future__ import annotations

import logging
from typing import Protocol

from muster.core.bus import MOST_BYTES, Answer, LocalBus
from muster.core.errors import BY_CODE, MESSAGE_TOO_LARGE, NOT_FOUND, SERVER_ERROR, HubError

ANSWERED, REFUSED = b"+", b"-"

log = logging.getLogger("muster.nodes")


class Carrier(Protocol):
    """Carries what the buses of a node say. ``hub`` is a name of the carrier's own making."""

    name: str

    def publish(self, hub: str, subject: str, payload: str) -> None:
        """Tell the other nodes; see ``core.bus.Bus``."""
        ...

    async def ask(self, node: str, hub: str, subject: str, question: bytes, seconds: float) -> bytes:
        """See ``core.bus.NodeBus``."""
        ...


class CarriedBus(LocalBus):
    """The bus of one hub on a node: implements ``core.bus.NodeBus``. Its own listeners hear at once, by a call."""

    def __init__(self, carrier: Carrier, name: str) -> None:
        super().__init__()
        self.node = carrier.name
        self.answers: dict[str, Answer] = {}
        self._carrier, self._name = carrier, name

    def publish(self, subject: str, payload: str) -> None:
        """See ``core.bus.Bus``."""
        super().publish(subject, payload)
        self._carrier.publish(self._name, subject, payload)

    def tell(self, subject: str, payload: str) -> None:
        """Another node has published. A listener that fails is not the end of those behind it."""
        for listener in tuple(self._listeners.get(subject, ())):
            try:
                listener(payload)
            except Exception:
                log.exception("a listener of %s failed", subject)

    async def ask(self, node: str, subject: str, question: bytes, seconds: float) -> bytes:
        """See ``core.bus.NodeBus``."""
        return await self._carrier.ask(node, self._name, subject, question, seconds)

    def answer(self, subject: str, answer: Answer) -> None:
        """See ``core.bus.NodeBus``."""
        self.answers[subject] = answer


def check_question(question: bytes) -> None:
    """Raise ``HubError`` 413001 for one that is too large for any carrier."""
    if len(question) > MOST_BYTES:
        raise HubError(MESSAGE_TOO_LARGE, f"A question of {len(question)} bytes, {MOST_BYTES} go between nodes.")


async def answered(answer: Answer | None, question: bytes, subject: str) -> bytes:
    """What to say to ``question``, refusals too; ``answer`` is ``None`` where nobody answers."""
    try:
        if answer is None:
            raise HubError(NOT_FOUND, "the node has no such hub, or does not answer this")
        said = await answer(question)
        if len(said) > MOST_BYTES:
            raise HubError(MESSAGE_TOO_LARGE, f"An answer of {len(said)} bytes, {MOST_BYTES} go between nodes.")
        return ANSWERED + said
    except HubError as error:
        return refusal(error)
    except Exception:
        log.exception("a question of another node could not be answered: %s", subject)
        return refusal(HubError(SERVER_ERROR))


def refusal(error: HubError) -> bytes:
    """``error`` as an answer."""
    return REFUSED + f"{error.row.code} {error.message}".encode()


def read_answer(said: bytes) -> bytes:
    """What ``answered`` has made, without its mark. Raises ``HubError`` where that was a refusal."""
    if said.startswith(ANSWERED):
        return said[1:]
    code, _, message = said[1:].decode(errors="replace").partition(" ")
    raise HubError(BY_CODE.get(int(code) if code.isdigit() else 0, SERVER_ERROR), message)
