"""Ten thousand sockets on which nobody says who he is: what that costs the hub, and the devices that are in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from every_hub import TRANSPORTS
from transports import DeviceClient, Login, Place, Transport

from muster.testing.hub import HubProcess

log = logging.getLogger("muster.crowd")

SOCKETS, PROCESSES = 10_000, 2
FILES = SOCKETS + 2000
ROUNDS = 3
MESSAGES, PAUSE_SECONDS = 200, 0.02
MOST_BYTES_A_SOCKET = 48 * 1024
CROWD = Path(__file__).with_name("crowd.py")

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < FILES, reason=f"needs ulimit -Hn {FILES}"),
]


def place(hub: HubProcess) -> Place:
    return Place(hub.address, hub.port("mqtt"), hub.port("amqp"), hub.port("https"))


def memory(hub: HubProcess) -> int:
    """Resident bytes."""
    pages = int(Path(f"/proc/{hub.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def open_files(hub: HubProcess) -> int:
    return len(list(Path(f"/proc/{hub.pid}/fd").iterdir()))


def alone(hub: HubProcess) -> None:
    """Once the hub has noticed that they are gone."""
    while open_files(hub) > SOCKETS // 10:
        time.sleep(0.1)


@contextlib.asynccontextmanager
async def crowd(hub: HubProcess) -> AsyncIterator[None]:
    """All of them there; gone at the end."""
    ports = (str(port) for port in place(hub)[1:])
    command = [sys.executable, str(CROWD), hub.address, *ports, hub.facts["HUB_CA_FILE"], str(SOCKETS // PROCESSES)]
    pipe = asyncio.subprocess.PIPE
    processes = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe) for _ in range(PROCESSES)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"open\n"
        yield
    finally:
        for process in processes:
            process.kill()
            await process.wait()
        await asyncio.to_thread(alone, hub)


async def connected(hub: HubProcess, transport: Transport, keys: dict[str, str]) -> DeviceClient:
    token = hub.token(f"devices/{transport.name}", keys[transport.name])
    device: DeviceClient = await transport.connect(place(hub), Login(transport.name, token, hub.trust(), hub.address))
    return device


async def slowest_of_hundred(hub: HubProcess, keys: dict[str, str]) -> float:
    """The 99th percentile of the seconds that a message takes to be acknowledged, over a device on each transport.

    They connect first: who has a name gets in, whoever else is there.
    """
    devices = [await connected(hub, transport, keys) for transport in TRANSPORTS]
    seconds: list[float] = []

    async def talk(device: DeviceClient) -> None:
        for _ in range(MESSAGES):
            since = time.monotonic()
            await device.send(b"x" * 100)
            seconds.append(time.monotonic() - since)
            await asyncio.sleep(PAUSE_SECONDS)

    await asyncio.gather(*(talk(device) for device in devices))
    for device in devices:
        await device.cut()
    return statistics.quantiles(seconds, n=100)[-1]


@pytest.mark.timeout(3600)
async def test_ten_thousand_strangers_cost_bounded_memory_and_little_of_the_others_time(
    make_hub: Callable[..., HubProcess],
) -> None:
    hub = make_hub("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
    await asyncio.to_thread(hub.start)
    keys = {one.name: await asyncio.to_thread(hub.add_device, one.name) for one in TRANSPORTS}
    await slowest_of_hundred(hub, keys)
    at_first, ratios, peaks = memory(hub), [], []
    before = await slowest_of_hundred(hub, keys)
    for _ in range(ROUNDS):
        async with crowd(hub):
            crowded = await slowest_of_hundred(hub, keys)
            assert open_files(hub) > 0.9 * SOCKETS
            peaks.append(memory(hub) - at_first)
        after = await slowest_of_hundred(hub, keys)
        ratios.append(crowded / max(before, after))
        said = ", ".join(f"{seconds * 1000:.1f}" for seconds in (before, crowded, after))
        log.info("p99 before, among them, after: %s ms; %d bytes a socket", said, peaks[-1] / SOCKETS)
        before = after
    assert max(peaks) < SOCKETS * MOST_BYTES_A_SOCKET
    assert peaks[-1] < 1.25 * peaks[0], "what came and went has left nothing"
    assert statistics.median(ratios) <= 2, ratios
