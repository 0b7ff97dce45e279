"""Whether one connection has the process to itself: what is done for it at once then keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Callable

from muster.core.ambient import SystemAmbient

ALONE_SECONDS = 1.0
"""So long nobody else must have been heard."""


class Company:
    """What connections were heard of last. Shared by all that read sockets; real time, as it is about transport."""

    __slots__ = ("_monotonic", "_since", "last")

    def __init__(self, monotonic: Callable[[], float] = SystemAmbient.monotonic) -> None:
        self._monotonic = monotonic
        self._since = monotonic()
        self.last = -1
        """The file descriptor of the connection that was heard last."""

    def joined(self, fd: int) -> None:
        """``fd`` was heard, and is not ``last``, or was not the only one."""
        self.last = fd
        self._since = self._monotonic()

    def alone(self) -> bool:
        """Whether for ``ALONE_SECONDS`` one connection at most was heard."""
        return self._monotonic() - self._since >= ALONE_SECONDS
