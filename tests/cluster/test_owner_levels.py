"""Owner levels of azure-eventhub count on all nodes and workers of a hub together, also when one is killed or hangs.

The clients of the SDK try again by themselves after each refusal: who is to be out is told so again and again.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish
from tests.addresses import loopback
from tests.cluster.processes import workers_of
from tests.nats_servers import NatsCluster
from tests.postgres import new_database

pytestmark = pytest.mark.sdk
PATIENCE = 60.0


@pytest.fixture
def nodes(tmp_path: Path, nats: NatsCluster) -> Iterator[list[HubProcess]]:
    shared, name = ["--database", new_database(), "--bus", ",".join(nats.urls), "--partitions", "1"], loopback()
    with ExitStack() as stack:
        made = []
        for number in range(2):
            directory, address = tmp_path / f"node{number}", loopback()
            directory.mkdir()
            made.append(
                stack.enter_context(HubProcess(directory, address, "--hostname", address, *shared, hostname=name))
            )
        yield made


@pytest.fixture(params=["database", "directory"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubProcess]:
    """Of two workers."""
    shared: list[str] = []
    if request.param == "database":
        shared = ["--database", new_database(), "--bus", ",".join(request.getfixturevalue("nats").urls)]
    with HubProcess(tmp_path, loopback(), *shared, "--workers", "2", "--partitions", "1") as hub:
        yield hub


class Reader:
    """What azure-eventhub says of the only partition."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.errors: list[str] = []

    async def on_event(self, _: Any, event: EventData | None) -> None:
        if event is not None:
            self.bodies.append(event.body_as_str())

    async def on_error(self, _: Any, error: Exception) -> None:
        self.errors.append(str(error))


@asynccontextmanager
async def reading(node: HubProcess, owner_level: int | None) -> AsyncIterator[Reader]:
    """A reader of all that there is, at ``node``, until the end of the block."""
    reader, facts = Reader(), node.facts
    _, _, rest = facts["EVENTHUB_CONNECTION_STRING"].partition(";")
    client = EventHubConsumerClient.from_connection_string(
        f"Endpoint=sb://{node.address}:{node.port('amqp')}/;{rest}", "$Default",
        connection_verify=facts["HUB_CA_FILE"], retry_total=0, load_balancing_interval=0.5,
    )  # fmt: skip
    task = asyncio.create_task(
        client.receive(
            reader.on_event, on_error=reader.on_error, partition_id="0", starting_position="-1",
            owner_level=owner_level,
        )
    )  # fmt: skip
    try:
        yield reader
    finally:
        await client.close()
        await asyncio.wait([task])


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.05)


async def send(node: HubProcess, body: str) -> None:
    """A device at ``node`` sends it, and it is stored."""
    name = f"sends-{body}"
    key = await asyncio.to_thread(node.add_device, name)
    client = await MqttClient.open(node.address, node.port("mqtt"), node.trust())
    token = node.token(f"devices/{name}", key)
    assert await client.connect(name, f"{node.address}/{name}/?api-version=2021-04-12", token) == (False, 0)
    await client.send(publish(f"devices/{name}/messages/events/", body.encode(), packet_id=1))
    await client.expect("PUBACK")
    await client.close()


async def test_the_owner_of_another_node_is_replaced_and_keeps_lower_ones_out(nodes: list[HubProcess]) -> None:
    first, second = nodes
    await send(first, "one")
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(reading(second, None))
        await until(lambda: shared.bodies == ["one"])
        low = await stack.enter_async_context(reading(first, 0))  # as an EventProcessorClient
        await until(lambda: low.bodies == ["one"] and shared.errors)
        high = await stack.enter_async_context(reading(second, 2))
        await until(lambda: high.bodies == ["one"] and low.errors)
        refused = [await stack.enter_async_context(reading(first, level)) for level in (1, None)]
        await until(lambda: all(reader.errors for reader in refused))
        await send(first, "two")
        await until(lambda: high.bodies == ["one", "two"])
        assert ([reader.bodies for reader in (shared, low, *refused)], high.errors) == ([["one"], ["one"], [], []], [])
        assert all("amqp:link:stolen" in reader.errors[0] for reader in (shared, low, *refused))
        assert "higher epoch '2' already exists" in refused[0].errors[0]
        assert "epoch of '2'" in refused[1].errors[0]


async def test_when_the_owners_node_is_killed_a_lower_one_is_in_after_its_lease(nodes: list[HubProcess]) -> None:
    first, second = nodes
    await send(first, "one")
    async with reading(first, 5) as owner:
        await until(lambda: owner.bodies == ["one"])
        first.kill()
        async with reading(second, 0) as lower:
            await until(lambda: lower.bodies == ["one"])
            await send(second, "two")
            await until(lambda: lower.bodies == ["one", "two"])
        assert "higher epoch '5' already exists" in lower.errors[0], "it might have lived"
        assert owner.bodies == ["one"]


async def test_when_the_owners_node_hangs_the_next_one_waits_for_the_end_of_its_lease(nodes: list[HubProcess]) -> None:
    first, second = nodes
    await send(first, "one")
    async with reading(first, 1) as owner:
        await until(lambda: owner.bodies == ["one"])
        first.signal(signal.SIGSTOP)
        async with reading(second, 1) as other:
            await until(lambda: other.bodies == ["one"])
            first.signal(signal.SIGCONT)
            await until(lambda: owner.errors)
            assert other.errors == []


async def test_owner_levels_count_on_all_workers(hub: HubProcess) -> None:
    readers: list[Reader] = []
    await send(hub, "one")
    async with AsyncExitStack() as stack:
        older = stack
        for level in range(8):  # the kernel gives each connection to either worker: not all go to one of them
            newer = await stack.enter_async_context(AsyncExitStack())
            readers.append(await newer.enter_async_context(reading(hub, level)))
            await until(lambda: readers[-1].bodies == ["one"] and all(one.errors for one in readers[:-1]))
            if level:
                await older.aclose()  # a client that is out tries again without a pause
            older = newer
        await send(hub, "two")
        await until(lambda: readers[-1].bodies == ["one", "two"])
        assert [reader.bodies for reader in readers[:-1]] == [["one"]] * 7
        assert readers[-1].errors == []
    async with reading(hub, 8) as owner:
        await until(lambda: owner.bodies == ["one", "two"])
        os.kill(workers_of(hub)[0], signal.SIGKILL)  # the owner's or the other one
        async with reading(hub, 9) as next_one:
            await until(lambda: next_one.bodies == ["one", "two"])
            await until(lambda: owner.errors)
