"""Getting what is behind a URL: revocation lists, responders' answers, issuers' keys, in threads of its own.

Only what has changed is asked for (ETag, If-Modified-Since). What hangs holds up others that fetch, no other work.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from muster.core.fetching import Fetch, Fetched, Request

_threads = ThreadPoolExecutor(16, thread_name_prefix="fetch")
_MOST_VALIDATOR = 256
"""Characters of an ETag; a longer one is not sent back."""
_SETTLED_SECONDS = 2


async def fetch(request: Request, most: int, seconds: float) -> Fetched:
    """See ``core.fetching.Fetch``. Follows no redirects; HTTPS is verified by the system's roots."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _fetch, request, most, seconds)


def fetch_trusting(authorities: Path | None) -> Fetch:
    """``fetch`` that trusts the certificates in a file (PEM) besides the system's roots.

    Raises ``OSError`` that names the file when there is none in it.
    """
    if authorities is None:
        return fetch
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(authorities)
    except (ssl.SSLError, OSError) as error:
        raise OSError(f"{authorities} holds no certificates that can be read (PEM): {error}") from error

    async def fetch_with(request: Request, most: int, seconds: float) -> Fetched:
        work = partial(_fetch, request, most, seconds, context)
        return await asyncio.get_running_loop().run_in_executor(_threads, work)

    return fetch_with


def _fetch(request: Request, most: int, seconds: float, context: ssl.SSLContext | None = None) -> Fetched:
    try:
        parts = urlsplit(request.url)
        kinds: dict[str, Callable[..., http.client.HTTPConnection]] = {
            "http": http.client.HTTPConnection, "https": partial(http.client.HTTPSConnection, context=context),
        }  # fmt: skip
        connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=seconds)
        deadline = time.monotonic() + seconds
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        try:
            connection.request("GET" if request.body is None else "POST", path, request.body, _headers(request))
            answer = connection.getresponse()
            if answer.status == HTTPStatus.NOT_MODIFIED and (request.etag or request.modified):
                return Fetched(None, request.etag, request.modified)
            if answer.status != HTTPStatus.OK:
                raise OSError(f"the answer was {answer.status}")
            content, etag, modified = _read(answer, most, deadline), _header(answer, "ETag"), ""
            if not etag and _settled(answer):
                modified = _header(answer, "Last-Modified")
            return Fetched(content, etag, modified, bool(etag or _header(answer, "Last-Modified")))
        finally:
            connection.close()
    except (http.client.HTTPException, ValueError, KeyError) as error:
        raise OSError(f"no good answer ({type(error).__name__})") from error


def _headers(request: Request) -> dict[str, str]:
    named = {
        "Content-Type": request.media_type, "If-None-Match": request.etag, "If-Modified-Since": request.modified,
    }  # fmt: skip
    return {name: text for name, text in named.items() if text}


def _header(answer: http.client.HTTPResponse, name: str) -> str:
    text = answer.headers.get(name) or ""
    return text if len(text) <= _MOST_VALIDATOR and text.isascii() and text.isprintable() else ""


def _settled(answer: http.client.HTTPResponse) -> bool:
    """Whether the time of the last change, in whole seconds, tells another change apart (RFC 9110 section 8.8.2.2)."""
    try:
        changed = parsedate_to_datetime(_header(answer, "Last-Modified"))
        return (parsedate_to_datetime(_header(answer, "Date")) - changed).total_seconds() >= _SETTLED_SECONDS
    except (TypeError, ValueError):
        return False


def _read(answer: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    content = bytearray()
    while part := answer.read1(65_536):
        content += part
        if len(content) > most:
            raise OSError(f"the answer has more than {most} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer took too long")
    return bytes(content)
