"""Getting what is behind a URL: for revocation lists and responders, rarely and in a thread of its own."""

from __future__ import annotations

import asyncio
import http.client
import time
from urllib.parse import urlsplit


async def fetch(url: str, body: bytes | None, media_type: str, most: int, seconds: float) -> bytes:
    """See ``identity.revocation_news.Fetch``. Follows no redirects; HTTPS is verified by the system's roots."""
    return await asyncio.to_thread(_fetch, url, body, media_type, most, seconds)


def _fetch(url: str, body: bytes | None, media_type: str, most: int, seconds: float) -> bytes:
    try:
        parts = urlsplit(url)
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[parts.scheme]
        connection = kind(parts.hostname or "", parts.port, timeout=seconds)
        deadline = time.monotonic() + seconds
        path = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        headers = {"Content-Type": media_type} if body is not None else {}
        try:
            connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise OSError(f"the answer was {answer.status}")
            return _read(answer, most, deadline)
        finally:
            connection.close()
    except (http.client.HTTPException, ValueError, KeyError) as error:
        raise OSError(f"no good answer ({type(error).__name__})") from error


def _read(answer: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    content = bytearray()
    while part := answer.read1(65_536):
        content += part
        if len(content) > most:
            raise OSError(f"the answer has more than {most} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("the answer took too long")
    return bytes(content)
