"""What the audit room asks of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from muster.audit.chain import Mark
from muster.core.audit import Draft


class Head(NamedTuple):
    """How far the log goes: the last record that is there, and the number of the last one ever written. They differ
    when the end was cut off."""

    mark: Mark
    written: int


class Kept(NamedTuple):
    """A line, without its end, and the place where it is kept: its number, if nobody has moved it."""

    place: int
    line: bytes


class AuditLog(Protocol):
    """The records of a deployment, one chain for all its hubs.

    Records of changes are written by the stores of those changes, in the same transaction. Promises: numbers follow
    without gaps, in the order of the commits; nothing is changed or removed. Does not promise that somebody who can
    write to the files cannot: that is what the chain shows.
    """

    async def record(self, draft: Draft) -> None:
        """Write a record by itself, for a change that lies in no store; durable when this returns. Raises ``HubError``
        500001, and then the change must not be made."""
        ...

    def note(self, draft: Draft) -> None:
        """Write a record a little later, nobody waits for it; lost when the disk fails or the hub dies meanwhile."""
        ...

    async def lines(self, after: int, limit: int) -> Sequence[Kept]:
        """Up to ``limit`` lines from behind place ``after``, in the order of their places."""
        ...

    async def head(self) -> Head:
        """How far the log goes."""
        ...
