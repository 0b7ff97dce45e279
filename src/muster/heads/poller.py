"""Which sockets are ready: a selector of our own, itself watched by the event loop.

Not ``loop.add_reader``: uvloop stops watching a socket for good once it has an error. When there is still input
before the error, as when a client sends and then resets, nobody would ever hear of that connection again.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Protocol

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Watcher(Protocol):
    """Who is told. It must not mind being told once more after it has stopped watching."""

    def ready(self, events: int) -> None:
        """The socket is ready for ``events`` (``READ``, ``WRITE``); an error counts as whatever is watched for."""


class Poller:
    """Tells watchers, again and again for as long as their sockets are ready (level-triggered)."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._selector = selectors.DefaultSelector()
        loop.add_reader(self._selector.fileno(), self._tell)

    def change(self, fd: int, before: int, after: int, watcher: Watcher) -> None:
        """Tell ``watcher`` when ``fd`` is ready for ``after``, no longer ``before``; 0 stands for nothing."""
        if not before:
            self._selector.register(fd, after, watcher)
        elif after:
            self._selector.modify(fd, after, watcher)
        else:
            self._selector.unregister(fd)

    def _tell(self) -> None:
        for key, events in self._selector.select(0):
            key.data.ready(events)

    def close(self) -> None:
        """Watch nothing any more; harmless when repeated."""
        if self._selector.get_map() is not None:
            self._loop.remove_reader(self._selector.fileno())
            self._selector.close()
