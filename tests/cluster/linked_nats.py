"""NATS servers that reach each other by links, so that one of them can be cut off from its peers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.addresses import loopback
from tests.cluster.balancer import Link
from tests.nats_servers import NatsCluster


class LinkedNats(NatsCluster):
    """A cluster of ``count``; clients reach its servers at ``addresses``. ``drop``: see ``Link``."""

    def __init__(self, directory: Path, count: int = 3, *, drop: bool = False) -> None:
        self.addresses = [loopback() for _ in range(count)]
        self.routes = {
            (one, other): Link(self.addresses[other], 6222, drop=drop)
            for one in range(count) for other in range(count) if one != other
        }  # fmt: skip
        """From a server to another."""
        ways = [[link.address for (one, _), link in self.routes.items() if one == number] for number in range(count)]
        super().__init__(directory, self.addresses, "", "1000T", ways)

    def around(self, server: int) -> list[Link]:
        """All between a server and its peers."""
        return [link for ends, link in self.routes.items() if server in ends]

    async def open(self) -> None:
        """Start links and servers; returns when they take streams."""
        for link in self.routes.values():
            await link.start()
        await asyncio.to_thread(self.start)

    async def close(self) -> None:
        """Kill all and remove the links."""
        await asyncio.to_thread(self.kill)
        for link in self.routes.values():
            await link.close()
