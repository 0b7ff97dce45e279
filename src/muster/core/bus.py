"""What rooms tell each other without knowing one another: a subject, a payload, those who listen.

``Bus`` does not promise delivery to a listener that subscribes later, nor order between subjects. Where a deployment
has several nodes its bus is a ``NodeBus``: notices are heard on all of them, and one node may ask another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from muster.core.errors import UNAVAILABLE, HubError

Listener = Callable[[str], None]

IDENTITY_CHANGED = "identity.changed"
"""Payload ``device`` or ``device/module``: that identity was changed or deleted; sessions must look again.
A device's concerns its modules too."""

QUEUE_WAITING = "queue.waiting"
"""Payload: a queue's name. Something in it may be taken; it may be gone again by the time one looks."""

AUTHORITIES_CHANGED = "authorities.changed"
"""Payload: an authority's name. It, or what it has revoked, was changed: what hangs on it must be looked at again."""

METHOD_WANTED = "method.wanted"
"""Payload: an identity and, on a line of its own, a method. A call waits until it is taken; whoever has the session
then says so."""

METHODS_TAKEN = "methods.taken"
"""Payload: an identity that somebody wanted. It takes methods now."""

TWIN_CHANGED = "twin.changed"
"""Payload: an identity. Its desired properties were changed, and the node with its session could not be told how."""

MISSED = "bus.missed"
"""No payload. Notices of other nodes may have been lost: whoever remembers anything by them must look at all of it
anew. Never on the bus of one process."""

MOST_BYTES = 512 * 1024
"""The largest question or answer between nodes: two fit into a message that NATS takes by default (1 MiB)."""


class Bus(Protocol):
    """Fire-and-forget notices."""

    def publish(self, subject: str, payload: str) -> None:
        """Tell every present listener of ``subject``, in the order they subscribed. Those of other nodes hear it
        soon, or ``MISSED``."""

    def subscribe(self, subject: str, listener: Listener) -> None:
        """From now on call ``listener`` with each payload of ``subject``."""


Answer = Callable[[bytes], Awaitable[bytes]]
"""Answers a question. Raises ``HubError`` to refuse; the asker's call raises the same."""


class NoAnswerError(HubError):
    """503001: the node that was asked did not answer. ``gone``: nobody of that name is on the bus, so that the question
    came to nobody; else it may have been heard, and what it asks for may happen yet."""

    def __init__(self, message: str, *, gone: bool) -> None:
        super().__init__(UNAVAILABLE, message)
        self.gone = gone


class NodeBus(Bus, Protocol):
    """The bus of a deployment of several nodes. ``node`` is this node's name on it, unique among all runs of all nodes.

    Does not promise any order between questions.
    """

    node: str

    async def ask(self, node: str, subject: str, question: bytes, seconds: float) -> bytes:
        """What ``node`` answers to ``question``, within ``seconds`` of real time.

        Raises ``HubError``: as the other side's ``Answer``, 404000 when it has no such hub or answer, 413001 for more
        than ``MOST_BYTES``, and ``NoAnswerError``, soon when the node is gone, also when it goes while it works on the
        answer.
        """
        ...

    def answer(self, subject: str, answer: Answer) -> None:
        """From now on ``answer`` the questions about ``subject``; each in a task of its own."""
        ...


class LocalBus:
    """The bus of one process: a call."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def publish(self, subject: str, payload: str) -> None:
        for listener in self._listeners.get(subject, ()):
            listener(payload)

    def subscribe(self, subject: str, listener: Listener) -> None:
        self._listeners.setdefault(subject, []).append(listener)
