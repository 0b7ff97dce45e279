"""Queries over the twins of a hub, page by page."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.query_limits import QUERY_PAGE, QUERY_PAGE_DEFAULT
from muster.twins.query.contract import Position, QueryStore
from muster.twins.query.parser import parse_condition, parse_query
from muster.twins.query.syntax import Binary, Item, ItemType, Literal, Logical, Path, Query, Source

_DIGEST_CHARACTERS = 16
_LONG = 1000
"""Texts from so many characters on are read in a thread: the longest take some tens of milliseconds."""
_DEVICE_ID = Path(0, "deviceId")
_condition = lru_cache(256)(parse_condition)


class Answer(NamedTuple):
    """One page: what its rows are, the JSON text of each, and what asks for the next page, ``None`` at the end."""

    item_type: ItemType
    rows: Sequence[bytes]
    continuation: str | None


class Queries:
    """The queries of ``hub``.

    A continuation says where to go on and how much TOP leaves, not what to find: it is bound to the text of its query,
    and nothing is kept for it here, so it is good for ever and on every node.
    """

    def __init__(self, hub: str, store: QueryStore) -> None:
        self._hub = hub
        self._store = store

    async def page(self, text: str, size: int | None = None, continuation: str | None = None) -> Answer:
        """A page of the query ``text``: at most ``size`` rows (default 100, at most 1,000), after ``continuation``.

        Raises ``HubError``: 400005 and 400004 as ``parse_query``, 400004 for a continuation of another query, and as
        ``QueryStore.page``.
        """
        query = parse_query(text) if len(text) < _LONG else await asyncio.to_thread(parse_query, text)
        after, left = (None, query.top) if continuation is None else self._read(text, continuation)
        most = min(size or QUERY_PAGE_DEFAULT.open, QUERY_PAGE.open)
        if left is not None:
            most = min(most, left)
        if query.source is Source.JOBS or most == 0:
            return Answer(query.item_type, (), None)
        page = await self._store.page(self._hub, query, after, most)
        if left is not None:
            left -= len(page.rows)
        more = page.next is not None and left != 0
        return Answer(query.item_type, page.rows, self._continuation(text, page.next, left) if more else None)

    async def matches(self, device_id: str, conditions: Sequence[str]) -> bool:
        """Whether the device is there and one of ``conditions`` (texts as behind WHERE) is true of it now.

        A change that was answered before the call is seen. Raises ``HubError``: 400004 as ``parse_condition``, and as
        ``QueryStore.page``.
        """
        if not conditions:
            return False
        asked = tuple(map(_condition, conditions))
        one = asked[0] if len(asked) == 1 else Logical(0, "OR", asked, 1 + max(each.depth for each in asked))
        itself = Binary(0, "=", _DEVICE_ID, Literal(0, device_id), 2)
        both = Logical(0, "AND", (itself, one), 1 + max(itself.depth, one.depth))
        query = Query(Source.DEVICES, (Item("deviceId", _DEVICE_ID),), both)
        after: Position | None = None
        while True:
            page = await self._store.page(self._hub, query, after, 1)
            if page.rows or page.next is None:
                return bool(page.rows)
            after = page.next

    def _digest(self, text: str) -> str:
        return hashlib.sha256(f"{self._hub}\0{text}".encode()).hexdigest()[:_DIGEST_CHARACTERS]

    def _continuation(self, text: str, after: Position | None, left: int | None) -> str:
        content = json.dumps([self._digest(text), left, after], ensure_ascii=False, separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).decode()

    def _read(self, text: str, continuation: str) -> tuple[Position, int | None]:
        try:
            digest, left, after = json.loads(base64.b64decode(continuation, b"-_", validate=True))
            known = all(isinstance(part, str) for part in after) and (left is None or (type(left) is int and left > 0))
        except (ValueError, TypeError, RecursionError):
            known, digest, left, after = False, "", None, ()
        if not known or digest != self._digest(text):
            raise HubError(
                ARGUMENT_INVALID,
                "x-ms-continuation is not one that this query gave; send the query with the very text it had, "
                "or leave the header out to begin anew.",
            )
        return tuple(after), left
