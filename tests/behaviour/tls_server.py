"""A TLS server that echoes, on the hub's transport, for tests of that transport."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from OpenSSL import SSL

from muster.core.ambient import SystemAmbient
from muster.heads.listener import TlsListener
from muster.heads.tls import server_context
from muster.issuing.authority import issue_server_certificate, make_authority


class Echo:
    """Sends back what it gets; ``quit`` makes it answer and close, ``fail`` makes it raise."""

    def __init__(self, made: list[Echo]) -> None:
        made.append(self)
        self.lost: list[Exception | None] = []
        self.paused = self.ended = False
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data == b"fail":
            raise RuntimeError("a fault in a protocol")
        self.transport.write(data)
        if data.endswith(b"quit"):
            self.transport.close()
            self.transport.write(b"never sent")

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False


class Server:
    """``made`` are the protocols of the connections, in order; ``client`` trusts the server."""

    def __init__(self, port: int, ca_file: Path, listener: TlsListener, made: list[Echo]) -> None:
        self.port, self.listener, self.made = port, listener, made
        self.client = ssl.create_default_context(cafile=str(ca_file))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("localhost", self.port, ssl=self.client)


@contextlib.asynccontextmanager
async def echo_server(directory: Path, context: Callable[[], SSL.Context] | None = None) -> AsyncIterator[Server]:
    """``context``: another one than of a certificate of the server's own."""
    loop = asyncio.get_running_loop()
    ambient = SystemAmbient(loop)
    authority = make_authority(ambient)
    issued = issue_server_certificate(authority, ["localhost", "127.0.0.1"], ambient)
    for name, content in (("ca.pem", authority.certificate), ("chain", issued.certificate), ("key", issued.key)):
        (directory / name).write_bytes(content)
    own = server_context(str(directory / "chain"), str(directory / "key"))
    made: list[Echo] = []
    listener = TlsListener(loop, context or (lambda: own), lambda: Echo(made))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    listener.listen([sock])
    try:
        yield Server(sock.getsockname()[1], directory / "ca.pem", listener, made)
    finally:
        listener.stop_accepting()
        listener.abort_connections()


async def until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
