"""When a commit may be run on the loop's thread, which saves two changes of thread and costs everybody the wait.

The way is open while commits are known to be quick and nobody would wait. What another connection can see is bounded:
it was silent for ``core.company.ALONE_SECONDS`` as all others were, for once it is heard the way is closed for as
long; it then waits for one commit at most, of ``QUICK_SECONDS`` at most. For a longer one it waits only when it comes
just while a disk is slow that was quick ``QUICK_COMMITS`` times in a row; those take an ``PAUSE_FACTOR``-th of the
time at most, whatever the disk does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

QUICK_SECONDS = 0.001
"""A commit that takes longer is slow. Half a TLS handshake's time, and a fifth of what a thread that computes may keep
the interpreter's lock for."""

QUICK_COMMITS = 16
"""So many must have been quick in a row, in whichever thread."""

PAUSE_FACTOR = 10
"""After a slow commit on the loop's thread there is none for so many times as long."""


class Inline(Protocol):
    """Decides for a ``Writer``, and hears how long its commits take. Times are monotonic, in seconds."""

    def may(self, now: float) -> bool:
        """Whether a commit may be run on the loop's thread now."""
        ...

    def took(self, seconds: float, now: float, *, here: bool) -> None:
        """A commit took ``seconds``; ``here``: on the loop's thread."""
        ...


class WhileQuick:
    """``Inline`` by what was measured. ``alone`` says whether nobody else is there who would wait."""

    def __init__(self, alone: Callable[[], bool], quick_seconds: float = QUICK_SECONDS) -> None:
        self._alone = alone
        self._quick_seconds = quick_seconds
        self._quick = 0
        self._closed_until = 0.0

    def may(self, now: float) -> bool:
        """See ``Inline.may``."""
        return self._quick >= QUICK_COMMITS and now >= self._closed_until and self._alone()

    def took(self, seconds: float, now: float, *, here: bool) -> None:
        """See ``Inline.took``."""
        if seconds <= self._quick_seconds:
            self._quick += 1
            return
        self._quick = 0
        if here:
            self._closed_until = now + PAUSE_FACTOR * seconds
