"""The REST calls that are being answered: what the hub waits for when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Calls:
    """Counts calls from their head to their answer. ``draining`` once the hub waits for their end."""

    def __init__(self) -> None:
        self.draining = False
        self._count = 0
        self._none: list[asyncio.Future[None]] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        """A call is in progress inside."""
        self.begun()
        try:
            yield
        finally:
            self.ended()

    def begun(self) -> None:
        """One more is in progress."""
        self._count += 1

    def ended(self) -> None:
        """One that has ``begun`` is not in progress any more."""
        self._count -= 1
        if not self._count:
            waiting, self._none = self._none, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def drain(self) -> None:
        """Wait until none is in progress. From now on each answer is the last on its connection."""
        self.draining = True
        if self._count:
            none = asyncio.get_running_loop().create_future()
            self._none.append(none)
            await none
