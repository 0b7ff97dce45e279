"""An issuer on a loopback address: its configuration and keys over HTTP, its tokens from within the test."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator

from aiohttp import web

from muster.core.fetching import Request
from tests.addresses import loopback
from tests.issuer_parts import TestIssuer

AUDIENCES = [
    "https://iothubs.azure.net",
    "https://eventhubs.azure.net",
    "https://azure-devices-provisioning.net",
    "https://management.azure.com",
]


@contextlib.asynccontextmanager
async def issuer_server() -> AsyncIterator[TestIssuer]:
    """Its tokens are good for every surface unless they say otherwise: ``issuer.token(aud=AUDIENCES)``."""
    address = loopback()
    issuer: TestIssuer

    async def answer(request: web.Request) -> web.Response:
        fetched = await issuer.fetch(Request(f"{issuer.url}{request.path}"), 1_000_000, 1)
        return web.Response(body=fetched.content, content_type="application/json")

    server = web.Server(answer)  # type: ignore[arg-type]
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, address, 0)
    await site.start()
    port = runner.addresses[0][1]
    issuer = TestIssuer(time.time, f"http://{address}:{port}")
    try:
        yield issuer
    finally:
        await runner.cleanup()


def bearer(issuer: TestIssuer, **claims: object) -> str:
    """An Authorization header of a token for every surface."""
    return f"Bearer {issuer.token(**{'aud': AUDIENCES, **claims})}"  # type: ignore[arg-type]
