"""The contract of getting what is behind a URL; ``node.fetch`` implements it."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Request(NamedTuple):
    """What is fetched: by POST of ``body``, else by GET. ``etag`` and ``modified`` are those of what is known."""

    url: str
    body: bytes | None = None
    media_type: str = ""
    etag: str = ""
    modified: str = ""


class Fetched(NamedTuple):
    """What was there, ``None`` for what is known already; ``etag`` and ``modified`` are to be sent with the next
    request. ``conditional``: whether the server can be asked for changes only."""

    content: bytes | None
    etag: str = ""
    modified: str = ""
    conditional: bool = True


class Fetch(Protocol):
    """Gets what is behind a URL, off the loop."""

    async def __call__(self, request: Request, most: int, seconds: float) -> Fetched:
        """At most ``most`` bytes within ``seconds``. Raises ``OSError``."""
        ...
