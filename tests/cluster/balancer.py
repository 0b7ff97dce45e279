"""A TCP balancer for tests, as operators put one before their nodes, and links between two, which can be cut. They know
no protocol and look into nothing."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

from tests.addresses import loopback

BUFFER = 64 * 1024
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Balancer:
    """Listens on ``address`` and joins each connection to a node's address, on the same port, each in turn; a node that
    does not take it is passed over. ``alive`` says which nodes there are at this moment."""

    def __init__(self, address: str, ports: Sequence[int], alive: Callable[[], Sequence[str]]) -> None:
        self.address = address
        self._ports = ports
        self._alive = alive
        self._turn = count()
        self._servers: list[asyncio.Server] = []
        self._joined: set[asyncio.Task[None]] = set()
        self.connections: Counter[str] = Counter()
        """How many there are, by node."""
        self.whole = asyncio.Event()
        """While it is not set nothing passes, neither bytes nor the end of a connection."""
        self.whole.set()

    async def start(self) -> None:
        """Listen."""
        for port in self._ports:

            async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int = port) -> None:
                task = asyncio.current_task()
                assert task is not None
                self._joined.add(task)
                with contextlib.suppress(asyncio.CancelledError):  # when the balancer closes
                    await self._join(reader, writer, port)
                self._joined.discard(task)

            self._servers.append(await asyncio.start_server(join, self.address, port, backlog=1024))

    async def close(self) -> None:
        """Stop listening and cut everything."""
        for server in self._servers:
            server.close()
        for task in list(self._joined):
            task.cancel()
        await asyncio.gather(*self._joined, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        try:
            await self.whole.wait()
            nodes = list(self._alive())
            first = next(self._turn)
            for number in range(len(nodes)):
                try:
                    there = await asyncio.wait_for(
                        asyncio.open_connection(nodes[(first + number) % len(nodes)], port), 2
                    )
                except OSError:
                    continue
                node = nodes[(first + number) % len(nodes)]
                self.connections[node] += 1
                try:
                    await self._both_ways((reader, writer), there)
                finally:
                    self.connections[node] -= 1
                return
        finally:
            writer.close()

    async def _both_ways(self, one: Ends, other: Ends) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(one[0], other[1]))
                group.create_task(self._copy(other[0], one[1]))
        except* (OSError, asyncio.IncompleteReadError, RuntimeError):  # uvloop's, for a transport that is closed
            pass
        finally:
            await self.whole.wait()
            other[1].close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(BUFFER):
            await self.whole.wait()
            writer.write(data)
            await writer.drain()
        await self.whole.wait()
        with contextlib.suppress(OSError):
            writer.write_eof()


class Link(Balancer):
    """The way from one part of a deployment to another at ``there``: who uses it connects to ``address``.

    ``cut`` is a network that loses everything, both ways. ``drop``: by the kernel, as packets, which wants iptables and
    a network namespace of one's own. Else what was sent waits here; ends see the same, but that a new connection is
    taken and then silent.
    """

    def __init__(self, there: str, port: int, *, drop: bool) -> None:
        super().__init__(loopback(), [port], lambda: [there])
        self._rules = [["INPUT", way, self.address, "-j", "DROP"] for way in ("-d", "-s")] if drop else []

    async def cut(self) -> None:
        """From now on nothing passes."""
        await self._filter("-A")
        if not self._rules:
            self.whole.clear()

    async def heal(self) -> None:
        """What was sent meanwhile passes, as far as it is sent again."""
        await self._filter("-D")
        self.whole.set()

    async def _filter(self, change: str) -> None:
        for rule in self._rules:
            await asyncio.to_thread(subprocess.run, ["iptables", change, *rule], check=True)
