"""NATS servers are killed under devices that send: nothing acknowledged is lost, and order is kept.

Of a power cut this proves nothing: what a killed process has written is with the kernel. That servers sync before they
acknowledge is their setting, ``sync_interval: always``.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.core.errors import UNAVAILABLE, HubError
from muster.messages.telemetry import Telemetry
from muster.stores.nats import publisher
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.streams import Place
from muster.stores.nats.telemetry import JetStreamLog
from muster.testing.clock import VirtualAmbient
from tests.cluster.linked_nats import LinkedNats
from tests.contract.telemetry_book import PATIENCE, everything, records_of
from tests.nats_servers import NatsCluster, running

PARTITIONS = 2
PLACE = Place("chaos", "hub")
WINDOW = 10


class Node:
    """A node with its telemetry, and what a receiver in it was told."""

    def __init__(self, connection: NatsConnection, log: JetStreamLog, ambient: VirtualAmbient) -> None:
        self.connection, self.log, self.ambient = connection, log, ambient
        self.telemetry = Telemetry(log, ambient, retention_seconds=86_400, retention_bytes=1 << 30)
        self.told: list[list[bytes]] = [[] for _ in range(PARTITIONS)]
        self._tasks = [asyncio.create_task(self._receive(partition)) for partition in range(PARTITIONS)]

    @classmethod
    async def start(cls, servers: NatsCluster) -> Node:
        connection = await NatsConnection.open(servers.urls)
        log = await JetStreamLog.open(connection, PLACE, PARTITIONS, created_at=1.0)
        return cls(connection, log, VirtualAmbient())

    async def _receive(self, partition: int) -> None:
        """What a receiver of the Event Hubs head does, from the first message on."""
        news, at = asyncio.Event(), 0
        end = self.telemetry.subscribe(partition, news.set)
        try:
            while True:
                news.clear()
                try:
                    slices = await self.telemetry.read(partition, at, 100_000)
                except HubError:
                    await asyncio.sleep(0.05)  # such a client would attach again
                    continue
                for run in slices:
                    assert run.base >= at
                    at = run.base + len(run.records)
                    self.told[partition] += run.records
                if not slices:
                    await news.wait()
        finally:
            end()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self.telemetry.close()
        await self.connection.close()


@contextlib.asynccontextmanager
async def started(servers: NatsCluster, count: int = 1) -> AsyncIterator[list[Node]]:
    """Nodes that are closed before their servers go, also by a failure: what it was is seen then."""
    async with contextlib.AsyncExitStack() as stack:
        nodes = [await Node.start(servers) for _ in range(count)]
        for node in nodes:
            stack.push_async_callback(node.close)
        yield nodes


class Device:
    """Sends ``total`` numbered messages, some at a time, and after a failure all again that were not acknowledged."""

    def __init__(self, node: Node, number: int, total: int) -> None:
        self.name = b"d%d" % number
        self.partition = number % PARTITIONS
        self.acknowledged = self.failures = 0
        self.done = asyncio.Event()
        self._node, self._total = node, total
        self._sent = 0
        self._send()

    def _send(self) -> None:
        while self._sent < min(self._total, self.acknowledged + WINDOW):
            batch = self._node.telemetry.append(self.partition, self.name + b"/%d" % self._sent)
            self._sent += 1
            batch.when_durable(lambda error, sent=self._sent: self._ended(sent, error))

    def _ended(self, sent: int, error: BaseException | None) -> None:
        if error is None:
            self.acknowledged = sent
            if sent == self._total:
                self.done.set()
            asyncio.get_running_loop().call_soon(self._send)
        elif self._sent != self.acknowledged:  # the first failure of a connection ends it
            self._sent = self.acknowledged
            self.failures += 1
            asyncio.get_running_loop().call_later(0.05, self._send)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of seconds is a long one, so that all of it is seen in a test."""
    monkeypatch.setattr(publisher, "PATIENCE_SECONDS", 1.5)
    monkeypatch.setattr(publisher, "ACK_SECONDS", 0.5)


async def progress(devices: list[Device], more: int) -> None:
    """Until that many further messages were acknowledged."""
    before = sum(device.acknowledged for device in devices)
    async with asyncio.timeout(PATIENCE):
        while sum(device.acknowledged for device in devices) < before + more:
            await asyncio.sleep(0.01)


async def stored_in(node: Node, partition: int, records: int) -> list[bytes]:
    """All that is kept. While that is refused, or less than ``records`` different ones, it is asked for again for a
    time: servers may be choosing a leader still, and one that was cut off says until it hears of the new one that there
    is no more."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        late = asyncio.get_running_loop().time() > deadline
        try:
            stored = records_of(await everything(node.log, partition))
            if late or len(set(stored)) >= records:
                return stored
        except HubError as error:
            if late or error.row is not UNAVAILABLE:
                raise
        await asyncio.sleep(0.05)


async def check(node: Node, devices: list[Device]) -> None:
    """All devices are done: hold what is stored, and what the receiver was told, to what was acknowledged."""
    async with asyncio.timeout(PATIENCE):
        for device in devices:
            await device.done.wait()
    for partition in range(PARTITIONS):
        acknowledged = sum(device.acknowledged for device in devices if device.partition == partition)
        stored = await stored_in(node, partition, acknowledged)
        async with asyncio.timeout(PATIENCE):
            while len(node.told[partition]) < len(stored):
                await asyncio.sleep(0.01)
        assert node.told[partition] == stored
        for device in devices:
            if device.partition == partition:
                numbers = [
                    int(text) for name, _, text in (record.partition(b"/") for record in stored) if name == device.name
                ]
                assert sorted(set(numbers)) == list(range(device.acknowledged)), "none is lost"
                first_seen = list(dict.fromkeys(numbers))
                assert first_seen == sorted(first_seen), "what comes again comes as a run, behind"


@pytest.fixture
async def single(tmp_path: Path) -> AsyncIterator[NatsCluster]:
    with running(tmp_path) as servers:
        yield servers


async def test_one_server_is_killed_and_comes_back_at_once(single: NatsCluster) -> None:
    async with started(single) as (node,):
        devices = [Device(node, number, 300) for number in range(8)]
        for _ in range(2):
            await progress(devices, 500)
            single.servers[0].kill()
            single.servers[0].start()
        await check(node, devices)


async def test_while_the_server_is_away_nothing_is_acknowledged_and_it_goes_on_by_itself(single: NatsCluster) -> None:
    async with started(single) as (node,):
        devices = [Device(node, number, 200) for number in range(8)]
        await progress(devices, 400)
        single.servers[0].kill()
        async with asyncio.timeout(PATIENCE):
            while not all(device.failures for device in devices):  # they are sent away
                await asyncio.sleep(0.01)
        acknowledged = [device.acknowledged for device in devices]
        await asyncio.sleep(0.3)
        assert [device.acknowledged for device in devices] == acknowledged
        assert node.telemetry.failing
        assert node.telemetry.pending_bytes < 10_000, "nothing piles up"
        single.servers[0].start()
        await check(node, devices)
        assert not node.telemetry.failing


async def test_readiness_goes_and_comes_back_without_anybody_sending(single: NatsCluster) -> None:
    async with started(single) as (node,):
        assert not node.telemetry.failing
        single.servers[0].kill()
        async with asyncio.timeout(PATIENCE):
            while not node.telemetry.failing:
                await asyncio.sleep(0.01)
        with pytest.raises(HubError):
            await node.telemetry.store([(0, b"a")])
        assert node.telemetry.failing
        single.servers[0].start()
        async with asyncio.timeout(PATIENCE):
            while node.telemetry.failing:
                node.ambient.advance(1)
                await asyncio.sleep(0.05)


async def test_a_node_ends_soon_while_the_server_is_away(single: NatsCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "PATIENCE_SECONDS", 1000.0)
    monkeypatch.setattr(publisher, "CLOSING_SECONDS", 0.5)
    node = await Node.start(single)
    single.servers[0].kill()
    waiting = asyncio.create_task(node.telemetry.store([(0, b"a")]))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(PATIENCE):
        await node.close()
    with pytest.raises(HubError, match="is lost"):
        await waiting


async def test_a_server_that_is_cut_off_from_its_peers_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "LEAVE_SECONDS", 1.0)
    servers = LinkedNats(tmp_path)
    try:
        await servers.open()
        async with started(servers, 2) as nodes:
            devices = [Device(node, number, 200) for number, node in enumerate(nodes * 2)]
            await progress(devices, 100)
            url = nodes[0].connection.client.connected_url
            assert url is not None
            lonely = servers.around(servers.addresses.index(str(url.hostname)))
            for link in lonely:
                await link.cut()
            await progress(devices[::2], 100)
            for link in lonely:
                await link.heal()
            for node in nodes:
                await check(node, devices)
    finally:
        await servers.close()


async def test_one_of_three_servers_is_killed_or_falls_silent_whichever_it_is(tmp_path: Path) -> None:
    with running(tmp_path, 3) as servers:
        async with started(servers, 2) as nodes:
            devices = [Device(nodes[number % 4 // 2], number, 400) for number in range(8)]
            for number, server in enumerate(servers.servers):
                await progress(devices, 200)
                if number == 1:
                    server.signal(signal.SIGSTOP)
                    await progress(devices, 200)
                    server.signal(signal.SIGCONT)
                else:
                    server.kill()
                    await progress(devices, 200)
                    server.start()
                    await asyncio.to_thread(server.wait_for, "Server is ready")
            for node in nodes:
                await check(node, devices)
