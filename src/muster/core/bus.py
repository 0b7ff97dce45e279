"""What rooms tell each other without knowing one another: a subject, a payload, those who listen.

``Bus`` does not promise delivery to a listener that subscribes later, nor order between subjects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Listener = Callable[[str], None]

IDENTITY_CHANGED = "identity.changed"
"""Payload ``device`` or ``device/module``: that identity was changed or deleted; sessions must look again.
A device's concerns its modules too."""

QUEUE_WAITING = "queue.waiting"
"""Payload: a queue's name. Something in it may be taken; it may be gone again by the time one looks."""

AUTHORITIES_CHANGED = "authorities.changed"
"""Payload: an authority's name. It, or what it has revoked, was changed: what hangs on it must be looked at again."""


class Bus(Protocol):
    """Fire-and-forget notices."""

    def publish(self, subject: str, payload: str) -> None:
        """Tell every present listener of ``subject``, in the order they subscribed."""

    def subscribe(self, subject: str, listener: Listener) -> None:
        """From now on call ``listener`` with each payload of ``subject``."""


class LocalBus:
    """The bus of one process: a call."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Listener]] = {}

    def publish(self, subject: str, payload: str) -> None:
        for listener in self._listeners.get(subject, ()):
            listener(payload)

    def subscribe(self, subject: str, listener: Listener) -> None:
        self._listeners.setdefault(subject, []).append(listener)
