"""A whole deployment on one machine: PostgreSQL, three NATS servers, equal nodes, a balancer; each has its own address,
so that any of them can be killed, frozen or cut off."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from muster.testing.hub import HubProcess, HubUser
from tests.addresses import loopback
from tests.cluster.balancer import Balancer
from tests.nats_servers import NatsCluster
from tests.postgres import PostgresServer

PORTS = {"mqtt": 8883, "amqp": 5671, "https": 443}


class Deployment:
    """``start`` it in a directory of its own; ``hub`` is what clients reach through the balancer."""

    def __init__(self, directory: Path, *, nodes: int = 3, options: Sequence[str] = ()) -> None:
        self.address = loopback()
        self.postgres = PostgresServer(durable=True)
        self.nats = NatsCluster(directory, [loopback() for _ in range(3)], "", "1000T")
        self.nodes: list[HubProcess] = []
        self._directory = directory
        self._up: set[str] = set()
        self._count, self._options = nodes, options
        self.balancer = Balancer(self.address, list(PORTS.values()), lambda: sorted(self._up))

    @property
    def hub(self) -> HubUser:
        """What clients know: the balancer's address, with the names of any node."""
        return HubUser(self.address, self.nodes[0].facts)

    async def start(self) -> None:
        """Start everything; when this returns every node is ready."""
        await asyncio.to_thread(self.nats.start)
        for number in range(self._count):
            directory = self._directory / f"node{number}"
            directory.mkdir(parents=True)
            node = HubProcess(
                directory, loopback(), "--database", self.postgres.url("postgres"), "--bus", ",".join(self.nats.urls),
                *self._options, hostname=self.address,
            )  # fmt: skip
            self.nodes.append(node)
            await self.start_node(number)
        await self.balancer.start()

    def busiest_node(self) -> int:
        """The number of the node that has most connections: it is missed most."""
        connections = self.balancer.connections
        return max(range(len(self.nodes)), key=lambda number: connections[self.nodes[number].address])

    async def start_node(self, number: int) -> None:
        """Start a node that does not run; when this returns it is ready and gets connections."""
        node = self.nodes[number]
        await asyncio.to_thread(node.start)
        self._up.add(node.address)

    async def kill_node(self, number: int) -> None:
        """kill -9. The balancer finds out by itself, as it does at an operator's."""
        await asyncio.to_thread(self.nodes[number].kill)
        self._up.discard(self.nodes[number].address)

    async def stop_node(self, number: int) -> int:
        """SIGTERM, taken from the balancer first, as in a rolling restart; the exit code."""
        self._up.discard(self.nodes[number].address)
        return await asyncio.to_thread(self.nodes[number].stop)

    def freeze_node(self, number: int) -> None:
        """The node does nothing any more and its connections stay, as of a machine that hangs."""
        os.kill(self.nodes[number].pid, signal.SIGSTOP)

    def thaw_node(self, number: int) -> None:
        """End that."""
        os.kill(self.nodes[number].pid, signal.SIGCONT)

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
        await self.balancer.close()
        for node in self.nodes:
            await asyncio.to_thread(node.kill)
        for server in self.nats.servers:
            await asyncio.to_thread(server.kill)
        await asyncio.to_thread(self.postgres.remove)
