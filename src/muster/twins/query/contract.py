"""What the query language asks of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from muster.twins.query.syntax import Query

Position = tuple[str, ...]
"""Where in a query's result a page ended. Only the store that gave it knows what it means."""


class Page(NamedTuple):
    """Rows of a result, each the JSON text of one, and where the next page begins: ``None`` when this is the last."""

    rows: Sequence[bytes]
    next: Position | None


class QueryStore(Protocol):
    """Answers queries over the twins of a hub.

    Promises: a change that was answered before the call is seen; a row that matches during the whole time that a
    client goes through the pages is given exactly once, whatever changes beside it; other work on the loop goes on
    meanwhile. Does not promise that the rows of a result are of one moment, nor any order.
    """

    async def page(self, hub: str, query: Query, after: Position | None, most: int) -> Page:
        """The result's rows after ``after`` (``None``: from its beginning), at most ``most`` (1 or more).

        A page may have fewer rows though more follow. Raises ``HubError``: 400004 for a position that no page of this
        query can have, 429001 when too many queries are in progress, 500001 when the disk fails.
        """
        ...
