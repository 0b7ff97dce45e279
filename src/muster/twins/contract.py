"""What the twins room asks of others: a store, and somebody to tell about desired properties."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from muster.identity.model import IdentityKey
from muster.twins.document import Content, Twin

Change = Callable[[Twin], Twin]
"""Returns what the twin shall be; the very twin it got for no change. Pure and quick; raises ``HubError`` to refuse.
Runs inside the store's transaction and may run again if that is retried."""


class TwinStore(Protocol):
    """Keeps twins, by hub.

    The identity store of the same database makes an empty twin with each identity and removes it with it, in the
    same transaction, so that there is a twin exactly where there is an identity. Promises: an ``edit`` that returned
    is durable and seen by every later read; edits of a twin are made in the order they were asked for. Does not
    promise any order between different twins.
    """

    async def get(self, hub: str, key: IdentityKey) -> Twin | None:
        """The twin; ``None`` when there is no such identity."""
        ...

    async def edit(self, hub: str, key: IdentityKey, change: Change, then: Callable[[Twin], None]) -> Twin:
        """Apply ``change``; returns what the twin is now.

        ``then`` is called with it on the loop, once it is durable and before this returns: in the order of the
        edits, and also when the caller does not wait any more. Raises what ``change`` raises, and ``HubError``
        404001 or 404010 when there is no such identity; then nothing is changed and ``then`` not called.
        """
        ...


class DesiredListener(Protocol):
    """Hears of desired properties; answered by the session table."""

    def desired_changed(self, key: IdentityKey, patch: Content, version: int) -> None:
        """The desired properties of ``key`` now have ``version``, made by ``patch``, nulls included; when they were
        replaced as a whole, ``patch`` is that whole. Called in the order of the versions."""
        ...
