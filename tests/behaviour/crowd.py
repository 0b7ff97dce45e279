"""Many sockets on which nobody says who he is, from a process of their own, for ``test_crowd``.

usage: crowd.py ADDRESS MQTT_PORT AMQP_PORT HTTPS_PORT CA_FILE COUNT

A third says nothing at all, a third shakes hands over TLS and then says nothing, a third begins its first word too.
What the hub closes is opened again. Says ``open`` once all are, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys

AT_ONCE = 50
"""Connections that are being opened."""
NEARLY = 0.95
"""How much of the crowd is all of it: the hub closes a socket a minute after it came."""
WORDS = (b"\x10\x40\x00\x04MQTT", b"AMQP\x00\x01", b"GET /devices HTTP/1.1\r\nHost: ")
"""Of each port, in part."""


class Holder(asyncio.Protocol):
    """A connection until the hub ends it."""

    def __init__(self, word: bytes) -> None:
        self._word = word
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._word:
            transport.write(self._word)  # type: ignore[attr-defined]

    def connection_lost(self, _: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class Crowd:
    def __init__(self, address: str, ports: list[int], ca_file: str, count: int) -> None:
        self._address, self._ports, self._count = address, ports, count
        self._context = ssl.create_default_context(cafile=ca_file)
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._open = 0
        self.all_open = asyncio.Event()

    async def hold(self, number: int) -> None:
        """Keep one open."""
        port, kind = number % 3, number // 3 % 3
        word = WORDS[port] if kind == 2 else b""
        context = self._context if kind else None
        while True:
            async with self._slots:
                try:
                    _, holder = await asyncio.get_running_loop().create_connection(
                        lambda: Holder(word), self._address, self._ports[port], ssl=context
                    )
                except OSError:
                    await asyncio.sleep(0.1)
                    continue
            self._open += 1
            if self._open >= self._count * NEARLY:
                self.all_open.set()
            await holder.lost
            self._open -= 1


async def main(address: str, *ports: str, ca_file: str, count: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd = Crowd(address, [int(port) for port in ports], ca_file, count)
    held = [asyncio.create_task(crowd.hold(number)) for number in range(count)]
    await crowd.all_open.wait()
    sys.stdout.write("open\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    for task in held:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], ca_file=sys.argv[5], count=int(sys.argv[6])))
