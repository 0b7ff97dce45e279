"""A whole deployment on one machine: PostgreSQL, three NATS servers, equal nodes, a balancer; each has its own address,
and its own links to those that it needs, so that any of them can be killed, frozen or cut off."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from muster.testing.hub import HubProcess, HubUser
from tests.addresses import loopback
from tests.cluster.balancer import Balancer, Link
from tests.cluster.linked_nats import LinkedNats
from tests.postgres import PostgresServer

PORTS = {"mqtt": 8883, "amqp": 5671, "https": 443}
_LOOK_SECONDS, _READY_SECONDS = 0.5, 2.0
_READY = b"GET /health/ready HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"


class Deployment:
    """``start`` it in a directory of its own; ``hub`` is what clients reach through the balancer, which asks the nodes
    whether they are ready, as docs/operate.md says. ``drop``: see ``Link``."""

    def __init__(self, directory: Path, *, nodes: int = 3, options: Sequence[str] = (), drop: bool = False) -> None:
        self.address = loopback()
        self.postgres = PostgresServer(durable=True)
        self.nats = LinkedNats(directory, drop=drop)
        self.to_postgres = [Link(self.postgres.address, self.postgres.port, drop=drop) for _ in range(nodes)]
        self.to_nats = [[Link(address, 4222, drop=drop) for address in self.nats.addresses] for _ in range(nodes)]
        """By node."""
        self.nodes: list[HubProcess] = []
        self._directory = directory
        self._up: set[str] = set()
        self._leaving: set[str] = set()
        self._options = options
        self._looking: asyncio.Task[None] | None = None
        self.balancer = Balancer(self.address, list(PORTS.values()), lambda: sorted(self.ready))

    @property
    def hub(self) -> HubUser:
        """What clients know: the balancer's address, with the names of any node."""
        return HubUser(self.address, self.nodes[0].facts)

    @property
    def links(self) -> Iterable[Link]:
        """From the nodes."""
        return [*self.to_postgres, *(link for some in self.to_nats for link in some)]

    async def start(self) -> None:
        """Start everything; when this returns every node is ready."""
        for link in self.links:
            await link.start()
        await self.nats.open()
        for number, (database, servers) in enumerate(zip(self.to_postgres, self.to_nats, strict=True)):
            directory = self._directory / f"node{number}"
            directory.mkdir(parents=True)
            url = f"postgresql://postgres@{database.address}:{self.postgres.port}/postgres"
            bus = ",".join(f"nats://{link.address}:4222" for link in servers)
            self.nodes.append(
                HubProcess(
                    directory, loopback(), "--database", url, "--bus", bus, *self._options, hostname=self.address
                )
            )
            await self.start_node(number)
        await self.balancer.start()
        self._looking = asyncio.create_task(self._look())

    @property
    def ready(self) -> set[str]:
        """The addresses of the nodes that get connections from the balancer."""
        return self._up - self._leaving

    def busiest_node(self) -> int:
        """The number of the node that has most connections: it is missed most."""
        connections = self.balancer.connections
        return max(range(len(self.nodes)), key=lambda number: connections[self.nodes[number].address])

    async def start_node(self, number: int) -> None:
        """Start a node that does not run; when this returns it is ready and gets connections."""
        node = self.nodes[number]
        await asyncio.to_thread(node.start)
        self._leaving.discard(node.address)
        self._up.add(node.address)

    async def kill_node(self, number: int) -> None:
        """kill -9. The balancer finds out by itself, as it does at an operator's."""
        await asyncio.to_thread(self.nodes[number].kill)

    async def stop_node(self, number: int) -> int:
        """SIGTERM, taken from the balancer first, as in a rolling restart; the exit code."""
        self._leaving.add(self.nodes[number].address)
        return await asyncio.to_thread(self.nodes[number].stop)

    def freeze_node(self, number: int) -> None:
        """The node does nothing any more and its connections stay, as of a machine that hangs."""
        os.kill(self.nodes[number].pid, signal.SIGSTOP)

    def thaw_node(self, number: int) -> None:
        """End that."""
        os.kill(self.nodes[number].pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def without(self, links: Sequence[Link]) -> Any:
        """Within the block nothing passes on ``links``."""
        try:
            for link in links:
                await link.cut()
            yield
        finally:
            for link in links:
                await link.heal()

    # --- what the balancer knows

    async def _look(self) -> None:
        while True:
            await asyncio.gather(*(self._look_at(node) for node in self.nodes))
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look_at(self, node: HubProcess) -> None:
        line = b""
        with contextlib.suppress(OSError, TimeoutError, ssl.SSLError):
            async with asyncio.timeout(_READY_SECONDS):
                reader, writer = await asyncio.open_connection(node.address, PORTS["https"], ssl=_anyone())
                try:
                    writer.write(_READY)
                    line = await reader.readline()
                finally:
                    writer.transport.abort()
        (self._up.add if b" 200 " in line else self._up.discard)(node.address)

    # --- the end

    async def __aenter__(self) -> Deployment:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """End everything and remove it."""
        if self._looking is not None:
            self._looking.cancel()
        await self.balancer.close()
        for node in self.nodes:
            await asyncio.to_thread(node.kill)
        await self.nats.close()
        for link in self.links:
            await link.close()
        await asyncio.to_thread(self.postgres.remove)


def _anyone() -> ssl.SSLContext:
    """As a balancer asks: with whatever certificate the node has."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
