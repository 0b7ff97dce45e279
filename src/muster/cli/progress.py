"""How far a long command is, on standard error: a line written over on a terminal, now and then one elsewhere."""

from __future__ import annotations

import sys
import time

_TERMINAL_SECONDS, _LOG_SECONDS = 0.5, 10.0


class Progress:
    """Counts what is done."""

    def __init__(self, unit: str, *, shown: bool | None, total: int = 0) -> None:
        """``unit`` is what is counted; ``shown`` (``None``: on a terminal only) whether to say anything; ``total`` the
        bytes that there are to do, 0 where nobody knows."""
        self._unit = unit
        self._terminal = sys.stderr.isatty()
        self._shown = self._terminal if shown is None else shown
        self._total = total
        self._done = self._bytes = 0
        self._first: int | None = None
        self._begun = self._told = time.monotonic()

    def step(self, done: int, size: int) -> None:
        """``done`` are done by now, of which the last one has ``size`` bytes."""
        if self._first is None:
            self._first = done - 1
        self._done = done
        self._bytes += size
        if self._shown and done % 64 == 0:
            now = time.monotonic()
            if now - self._told >= (_TERMINAL_SECONDS if self._terminal else _LOG_SECONDS):
                self._told = now
                self._say(now)

    def end(self) -> None:
        """No more is to come: say where it ended."""
        if self._shown:
            self._say(time.monotonic())
            if self._terminal:
                sys.stderr.write("\n")
                sys.stderr.flush()

    def _say(self, now: float) -> None:
        rate = (self._done - (self._first or 0)) / max(now - self._begun, 0.001)
        share = f", {min(self._bytes / self._total, 1):.0%}" if self._total else ""
        text = f"{self._done:,} {self._unit}{share}, {rate:,.0f} a second"
        sys.stderr.write(f"\r{text}\x1b[K" if self._terminal else f"{text}\n")
        sys.stderr.flush()
