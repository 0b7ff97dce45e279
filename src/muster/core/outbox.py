"""What a change leaves behind in its own transaction, to be told later: the contract of the outbox.

So nothing that was changed is left untold when the hub dies between the change and its telling; it may then be told
a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol


class Entry(NamedTuple):
    """Something to be told of a device: a stored message."""

    device_id: str
    record: bytes


class Numbered(NamedTuple):
    """An entry with its number. Numbers grow, in the order of the changes of each device."""

    number: int
    entry: Entry


class Outbox(Protocol):
    """Entries that wait to be told, in the order in which the changes of each device were made.

    Promises: an entry is there exactly when its change is, and stays until it is taken out. Does not promise that
    numbers follow without gaps. Where it is ``shared`` by several processes one of them takes, and the others are given
    nothing until that one has gone; who wants all looks again now and then.
    """

    shared: bool

    def put(self, entries: Sequence[Entry]) -> None:
        """Keep entries that belong to no change of the store, behind those of all changes of their devices asked for
        before. Returns at once: they are durable a little later, or lost if the disk fails meanwhile."""
        ...

    async def take(self, told: int, limit: int, limit_bytes: int) -> Sequence[Numbered]:
        """Remove the entries up to number ``told`` that were returned before, and return the next ones, at most
        ``limit``, ending with the one that reaches ``limit_bytes``. Raises ``HubError`` when the store fails; then none
        is removed."""
        ...

    def when_filled(self, listener: Callable[[], None]) -> None:
        """From now on call ``listener`` on the loop after this process has kept entries, once for many; ``take`` sees
        them, and those of other processes."""
        ...
