"""For tests: every commit that may be is run on the loop's thread, however long it takes."""

from __future__ import annotations

import asyncio

from muster.stores.sqlite.database import Writer


class Always:
    """``stores.sqlite.inline.Inline`` that never says no, and keeps what it hears."""

    def __init__(self) -> None:
        self.here: list[float] = []
        self.in_thread: list[float] = []

    def may(self, now: float) -> bool:
        return True

    def took(self, seconds: float, now: float, *, here: bool) -> None:
        (self.here if here else self.in_thread).append(seconds)


async def let_go(writer: Writer) -> None:
    """Wait until the writer's thread, whose outcomes have all been told, holds the connection no longer."""
    await asyncio.to_thread(writer._held.acquire)
    writer._held.release()
