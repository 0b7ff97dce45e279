"""The body of a request as it comes: who sends too slowly, or not at all, is not waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from muster.core.errors import REQUEST_TIMEOUT, HubError
from muster.core.limits import HTTP_BODY_RATE, HTTP_BODY_WAIT


async def chunks(request: web.Request) -> AsyncIterator[bytes]:
    """The pieces of the body, of whatever length it has.

    The caller has ``HTTP_BODY_WAIT`` seconds, and earns them back at ``HTTP_BODY_RATE``: a long body may take long, a
    pause may not. What we do between the pieces takes none of that time. Raises ``HubError`` 408000 when it is over.
    """
    time, most = asyncio.get_running_loop().time, float(HTTP_BODY_WAIT.open)
    left = most
    while True:
        since = time()
        try:
            async with asyncio.timeout(left):
                chunk = await request.content.readany()
        except TimeoutError:
            message = f"The body stops or comes too slowly, send at least {HTTP_BODY_RATE.open} bytes a second."
            raise HubError(REQUEST_TIMEOUT, message) from None
        if not chunk:
            return
        left = min(most, left - (time() - since) + len(chunk) / HTTP_BODY_RATE.open)
        yield chunk


async def read_body(request: web.Request) -> bytes:
    """The whole body. Raises ``HubError`` 408000, and ``HTTPRequestEntityTooLarge`` when it is too long."""
    body = bytearray()
    async for chunk in chunks(request):
        body += chunk
        if len(body) > request.client_max_size:
            raise web.HTTPRequestEntityTooLarge(request.client_max_size)
    return bytes(body)
