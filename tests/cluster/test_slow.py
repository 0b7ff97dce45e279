"""A bus or a database that is slow: devices are slowed down and not dropped, memory is bounded, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from muster.core.limits import TWIN_REQUESTS
from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish, subscribe
from tests.addresses import loopback
from tests.nats_servers import NatsServer, running
from tests.postgres import PostgresServer

pytestmark = pytest.mark.sdk

PATIENCE = 120.0
DEVICES, MESSAGES, SIZE = 16, 48, 128 * 1024
MOST_GROWTH = 64 * 1024 * 1024
"""Of the process's memory: what may wait is 16 MiB in records, held a few times over on their way (the batch that
forms, the one that is under way, what nats-py has not handed to the kernel). Devices try to send 96 MiB."""
API = "api-version=2021-04-12"


class Parts(NamedTuple):
    hub: HubProcess
    postgres: PostgresServer
    nats: NatsServer


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    postgres = PostgresServer(durable=True)
    try:
        with running(tmp_path / "nats") as nats:
            shared = ["--database", postgres.url("postgres"), "--bus", nats.urls[0]]
            ports = [option for name in ("mqtt", "amqp", "https") for option in (f"--{name}-port", "0")]
            with HubProcess(tmp_path, loopback(), *shared, *ports) as hub:
                yield Parts(hub, postgres, nats.servers[0])
    finally:
        postgres.remove()


@contextlib.asynccontextmanager
async def slow(processes: Callable[[], list[int]], still: float, goes: float) -> AsyncIterator[None]:
    """Stop the processes for ``still`` seconds, let them go on for ``goes``, and so on."""

    async def pulse() -> None:
        while True:
            tell(processes(), signal.SIGSTOP)
            await asyncio.sleep(still)
            tell(processes(), signal.SIGCONT)
            await asyncio.sleep(goes)

    task = asyncio.create_task(pulse())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        tell(processes(), signal.SIGCONT)


def tell(processes: list[int], number: signal.Signals) -> None:
    """Send all of them a signal."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def memory(pid: int, name: str) -> int:
    """``VmRSS``, or ``VmHWM``, the most that it ever was, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


async def opened(hub: HubProcess, device: str) -> MqttClient:
    """A device that is connected, and patient."""
    key = await asyncio.to_thread(hub.add_device, device)
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    client.patience = PATIENCE
    token = hub.token(f"devices/{device}", key)
    assert (await client.connect(device, f"{hub.address}/{device}/?{API}", token))[1] == 0
    return client


async def flood(client: MqttClient, device: str) -> None:
    """Send all messages without waiting, as fast as they are taken; return when every one is acknowledged, in order."""

    async def write() -> None:
        for number in range(1, MESSAGES + 1):
            body = f"{device}:{number}:".encode().ljust(SIZE, b"x")
            await client.send(publish(f"devices/{device}/messages/events/", body, packet_id=number))

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for number in range(1, MESSAGES + 1):
            assert (await client.expect("PUBACK")).packet_id == number


def stored(hub: HubProcess) -> Counter[str]:
    """What a service reads, by device."""
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=PATIENCE)
    connection.request("GET", f"/$muster/monitor?from=start&{API}", headers={"Authorization": hub.owner_token()})
    answer, seen = connection.getresponse(), set[str]()
    while len(seen) < DEVICES * MESSAGES:
        line = answer.readline()
        assert line, "the hub ended the answer"
        if line.strip():
            seen.add(json.loads(line)["body"].rstrip("x"))
    connection.close()
    return Counter(body.partition(":")[0] for body in seen)


@pytest.mark.timeout(300)
async def test_a_slow_bus_slows_devices_down_and_drops_none(parts: Parts) -> None:
    """NATS runs for a tenth of the time, first not at all for three seconds."""
    hub = parts.hub
    clients = {f"d{number}": await opened(hub, f"d{number}") for number in range(DEVICES)}
    before = memory(hub.pid, "VmRSS")
    async with slow(lambda: [parts.nats.pid], 3.0, 0.3), asyncio.timeout(PATIENCE):
        floods = [asyncio.create_task(flood(client, name)) for name, client in clients.items()]
        await asyncio.sleep(2.0)
        assert not any(one.done() for one in floods), "nothing is acknowledged that is not stored"
        status, _ = await asyncio.to_thread(hub.request, "GET", "/health/live")
        assert status == 200, "the loop turns"
        await asyncio.gather(*floods)
    grown = memory(hub.pid, "VmHWM") - before
    assert grown < MOST_GROWTH, f"{grown / 2**20:.0f} MiB"
    assert await asyncio.to_thread(stored, hub) == dict.fromkeys(clients, MESSAGES)
    for client in clients.values():
        client.abort()


@pytest.mark.timeout(300)
async def test_a_slow_database_slows_down_what_asks_it_and_nothing_else(parts: Parts) -> None:
    """PostgreSQL runs for a tenth of the time. Telemetry goes on; twins, connects and REST take their time."""
    hub = parts.hub
    sender, reporter = await opened(hub, "sender"), await opened(hub, "reporter")
    await reporter.send(subscribe(1, [("$iothub/twin/res/#", 0)]))
    await reporter.expect("SUBACK")
    before = memory(hub.pid, "VmRSS")
    tell(family(parts.postgres.pid), signal.SIGSTOP)
    reports = asyncio.create_task(report(reporter, 300))
    connects = asyncio.gather(*(opened(hub, f"late{number}") for number in range(8)))
    for number in range(1, 6):
        await sender.send(publish("devices/sender/messages/events/", b"x", packet_id=number))
        assert (await sender.expect("PUBACK")).packet_id == number
    assert not connects.done()
    async with slow(lambda: family(parts.postgres.pid), 0.9, 0.1), asyncio.timeout(PATIENCE):
        late = await connects
        assert await reports == 300
        status, twin = await asyncio.to_thread(hub.request, "GET", "/twins/reporter")
        assert (status, twin["properties"]["reported"]["n"]) == (200, 300)
    assert memory(hub.pid, "VmHWM") - before < MOST_GROWTH
    for client in (sender, reporter, *late):
        await client.send(b"\xc0\x00")
        await client.expect("PINGRESP")
        client.abort()


async def report(client: MqttClient, count: int) -> int:
    """Report ``count`` times, half as many at once as a device may; how many were accepted, all of them in turn."""
    room = asyncio.Semaphore(TWIN_REQUESTS.open // 2)

    async def write() -> None:
        for number in range(1, count + 1):
            await room.acquire()
            topic = f"$iothub/twin/PATCH/properties/reported/?$rid={number}"
            await client.send(publish(topic, b'{"n": %d}' % number, qos=0))

    accepted = 0
    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for number in range(1, count + 1):
            answer = await client.expect("PUBLISH")
            size = int.from_bytes(answer.body[:2])
            topic = answer.body[2 : 2 + size].decode()
            assert topic.startswith(f"$iothub/twin/res/204/?$rid={number}&"), topic
            accepted += 1
            room.release()
    return accepted
