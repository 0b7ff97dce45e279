"""Those who want to hear of a change before the one who made it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Listener = Callable[[], Awaitable[None] | None]


class Listeners:
    """Told of each change, in the order in which they were added, those that have to be awaited last."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []

    def add(self, listener: Listener) -> None:
        """From now on tell ``listener``."""
        self._listeners.append(listener)

    async def tell(self) -> None:
        """Tell all. What is awaited may raise: by then everybody who only has to forget something has done so."""
        for pending in [listener() for listener in self._listeners]:
            if pending is not None:
                await pending
