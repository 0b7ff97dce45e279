"""The heartbeat of an AMQP connection: what is said so that the client does not give up, and when the hub does.

Of a client that is there, something is heard in time: frames, empty ones if need be, or that it takes what waits for
it. One whose machine or network is gone ends nothing, and is ended here (AMQP 1.0 section 2.4.5, device.md 4.1).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from muster.core.amqp_limits import AMQP_IDLE
from muster.core.errors import CONNECTION_CLOSED, HubError

_SHORTEST_BEAT = 0.5
_BEATS_UNTIL_IDLE = 4


class Beating(Protocol):
    """The connection, as far as its heartbeat needs it."""

    transport: Any
    writable: bool

    @property
    def held(self) -> bool:
        """Whether the hub itself does not read at the moment."""
        ...

    def heartbeat(self) -> None:
        """Send an empty frame, if there is anybody who could take it."""
        ...

    def end(self, problem: HubError | None) -> None:
        """Close."""
        ...

    def abort(self) -> None:
        """Cut."""
        ...


class Heartbeat:
    """That of one connection. ``heard`` and ``spoke`` are set whenever something comes or goes."""

    __slots__ = ("_connection", "_demanded", "_interval", "_left", "_loop", "_silent", "_timer", "heard", "spoke")

    def __init__(self, connection: Beating, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self.heard = self.spoke = self._demanded = False
        self._silent = self._left = 0
        self._interval = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, wanted: int | None) -> None:
        """Begin, once the client has opened; ``wanted`` is its own time-out in milliseconds, if it has one."""
        self._interval = AMQP_IDLE.open / _BEATS_UNTIL_IDLE
        self._demanded = bool(wanted)
        if wanted:
            self._interval = min(self._interval, max(_SHORTEST_BEAT, wanted / 2000))
        self._timer = self._loop.call_later(self._interval, self._on_beat)

    def stop(self) -> None:
        """Harmless when repeated."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_beat(self) -> None:
        """Say something if nothing was said for half the client's time-out; end what has been silent for ours."""
        self._silent = 0 if self.heard or self._connection.held or self._takes() else self._silent + 1
        self.heard = False
        if self._silent * self._interval >= AMQP_IDLE.open:
            self._end()
            return
        if self._demanded and not self.spoke:
            self._connection.heartbeat()
        self.spoke = False
        self._timer = self._loop.call_later(self._interval, self._on_beat)

    def _end(self) -> None:
        if self._connection.writable:
            message = f"The connection was inactive for more than the allowed {AMQP_IDLE.open * 1000} milliseconds."
            self._connection.end(HubError(CONNECTION_CLOSED, message))
        else:  # what would tell it stands behind all that it does not take
            self._connection.abort()

    def _takes(self) -> bool:
        """Whether the client took something of what waits for it: until it has, the hub does not read either."""
        if self._connection.writable:
            self._left = 0
            return False
        before, self._left = self._left, self._connection.transport.get_write_buffer_size()
        return self._left < before
