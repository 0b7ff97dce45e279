"""AMQP clients that are gone without a word: no FIN, nothing read, nothing said. The hub ends them, and no others."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from amqp_client import AmqpClient, partition
from amqp_device import Device, DeviceHub
from command_hub import aside, command_hub
from eventhub_server import POLICIES, EventHubServer

from muster.core.amqp_limits import AMQP_IDLE
from muster.core.errors import HubError
from muster.identity.model import IdentityKey
from muster.wire.amqp.frames import EMPTY
from muster.wire.amqp.performatives import ACCEPTED, Accepted, Attach

IDLE = 3
PATIENCE = 30.0
EVENTS, DEVICEBOUND, METHODS = "messages/events", "messages/devicebound", "methods/devicebound"
MANY, LARGE = 100, 200_000
"""Events, and bytes in each: more than all kernels' buffers between hub and reader."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.heads.amqp_heartbeat.AMQP_IDLE", AMQP_IDLE._replace(open=IDLE))


# --- devices


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHub]:
    async with command_hub(tmp_path) as commands:
        hub = DeviceHub(commands)
        try:
            yield hub
        finally:
            hub.close()


async def talk(device: Device, link: int, until: asyncio.Event) -> int:
    """Telemetry, each message acknowledged; how many."""
    sent = 0
    while not until.is_set():
        assert isinstance(await aside(device.telemetry, link, b"%d" % sent), Accepted)
        sent += 1
        await asyncio.sleep(0.05)
    return sent


async def test_1_1_a_device_that_is_gone_is_ended_the_others_go_on_and_its_messages_come_again(hub: DeviceHub) -> None:
    await hub.token("gone")
    lively = await hub.device("lively")
    over = asyncio.Event()
    talking = asyncio.create_task(talk(lively, await aside(lively.link, "lively", EVENTS), over))
    gone = await hub.device("gone")
    await aside(gone.link, "gone", DEVICEBOUND, receive=True)
    await aside(gone.pair, "gone", METHODS)
    assert hub.connected("gone")
    await hub.hub.send(b"for you", device="gone")
    calling = asyncio.create_task(hub.mqtt.methods.invoke(IdentityKey("gone"), "m", None))
    async with asyncio.timeout(PATIENCE):
        while hub.connected("gone"):
            assert not talking.done()
            await asyncio.sleep(0.02)
    over.set()
    assert await talking > 0
    with pytest.raises(HubError) as caught:
        await calling
    assert caught.value.row.code == 404104
    back = await hub.device("gone")
    await aside(back.link, "gone", DEVICEBOUND, receive=True)
    transfer, message = await aside(back.command)
    assert message.body == b"for you"
    await aside(back.dispose, transfer.delivery_id, ACCEPTED)
    await hub.hub.emptied("gone")


# --- readers


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EventHubServer]:
    with EventHubServer(tmp_path) as server:
        yield server


def reader(server: EventHubServer) -> AmqpClient:
    """A client that has asked for all there is, and whose kernel takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", server.port))
    client = AmqpClient(0, connection=sock)
    client.put_token(POLICIES["service"].primary_key)
    client.credit(client.attach(source=partition()), 10_000)
    client.wait_for(Attach)
    return client


def until(condition: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.05)


def stuck(server: EventHubServer) -> int:
    """How many connections have no room for more."""
    return server.call(lambda: sum(not connection.writable for connection in server.head.connections))


def test_2_1_a_reader_that_is_gone_with_much_unread_is_ended_and_others_go_on(server: EventHubServer) -> None:
    for _ in range(2):
        server.send("d", [b"x" * LARGE] * (MANY // 2))
    with reader(server), AmqpClient(server.port) as lively:
        lively.put_token(POLICIES["service"].primary_key)
        until(lambda: stuck(server) == 1, lambda: lively.socket.sendall(EMPTY))
        until(lambda: server.connected() == 1, lambda: lively.socket.sendall(EMPTY))
        lively.credit(lively.attach(source=partition(1)), 1)
        server.send("e", [b"new"], partition=1)
        assert lively.messages(1)[0].body == b"new"


def test_2_2_a_reader_that_is_slow_and_says_nothing_is_left_alone(server: EventHubServer) -> None:
    for _ in range(2):
        server.send("d", [b"x" * LARGE] * (MANY // 2))
    with reader(server) as slow:
        until(lambda: stuck(server) == 1, lambda: None)
        end = time.monotonic() + 2 * IDLE
        while time.monotonic() < end:
            assert slow.socket.recv(40_000)
            time.sleep(0.05)
        assert (server.connected(), stuck(server)) == (1, 1), "it was stuck all the time"
