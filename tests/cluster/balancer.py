"""A TCP balancer for tests, as operators put one before their nodes: it knows no protocol and looks into nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import count

BUFFER = 64 * 1024


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
                    await _both_ways((reader, writer), there)
                finally:
                    self.connections[node] -= 1
                return
        finally:
            writer.close()


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _both_ways(one: Ends, other: Ends) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(one[0], other[1]))
            group.create_task(_copy(other[0], one[1]))
    except* (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        other[1].close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(BUFFER):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
