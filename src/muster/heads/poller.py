"""Which sockets are ready: an epoll of our own, itself watched by the event loop.

Not ``loop.add_reader``: uvloop stops watching a socket for good once it has an error. When there is still input
before the error, as when a client sends and then resets, nobody would ever hear of that connection again. And not
``selectors``, which spends on each event what a message costs elsewhere here.
"""

from __future__ import annotations

import asyncio
import select
from typing import Protocol

from muster.core.company import Company

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
EVENTS_A_ROUND = 256
"""Of so many sockets is told before the loop does something else. Thousands become ready at the same moment, when a
node or a balancer dies, and the lease of this node must be renewed in time all the same. The kernel gives each its
turn."""


class Watcher(Protocol):
    """Who is told. It must not mind being told once more after it has stopped watching, or for nothing."""

    def ready(self, events: int) -> None:
        """The socket is ready for ``events`` (``READ``, ``WRITE``); an error counts as both."""


class Poller:
    """Tells watchers, again and again for as long as their sockets are ready (level-triggered)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, company: Company) -> None:
        self._loop = loop
        self._company = company
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        loop.add_reader(self._epoll.fileno(), self._tell)

    def change(self, fd: int, before: int, after: int, watcher: Watcher) -> None:
        """Tell ``watcher`` when ``fd`` is ready for ``after``, no longer ``before``; 0 stands for nothing."""
        if not before:
            self._watchers[fd] = watcher
            self._epoll.register(fd, after)
        elif after:
            self._epoll.modify(fd, after)
        else:
            del self._watchers[fd]
            self._epoll.unregister(fd)

    def _tell(self) -> None:
        watchers = self._watchers
        ready = self._epoll.poll(0, EVENTS_A_ROUND)
        if ready and (len(ready) > 1 or ready[0][0] != self._company.last):
            self._company.joined(ready[0][0])
        for fd, events in ready:
            watcher = watchers.get(fd)
            if watcher is not None:
                watcher.ready(events if events in (READ, WRITE) else READ | WRITE)

    def close(self) -> None:
        """Watch nothing any more; harmless when repeated."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
