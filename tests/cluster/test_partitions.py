"""A node that is cut off: others take its sessions over, and a balancer hears that it takes none itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.testing.mqtt import MqttClient
from tests.cluster.deployment import Deployment

pytestmark = pytest.mark.sdk
PATIENCE = 60.0


async def connected(deployment: Deployment, node: int, device_id: str, key: str) -> MqttClient:
    """A device at that very node, once it lets it in."""
    hub, there = deployment.hub, deployment.nodes[node]
    name = f"{hub.address}/{device_id}/?api-version=2021-04-12"
    async with asyncio.timeout(PATIENCE):
        while True:
            client = await MqttClient.open(there.address, hub.port("mqtt"), hub.trust(), hub.address)
            client.patience = PATIENCE
            _, code = await client.connect(device_id, name, hub.token(f"devices/{device_id}", key))
            if code == 0:
                return client
            client.abort()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.1)


@pytest.mark.timeout(300)
async def test_a_node_that_is_cut_off_gives_its_sessions_up_and_is_not_ready_until_it_is_back(tmp_path: Path) -> None:
    async with Deployment(tmp_path, nodes=2) as deployment:
        key = await asyncio.to_thread(deployment.hub.add_device, "d")
        address = deployment.nodes[0].address
        postgres, nats = [deployment.to_postgres[0]], deployment.to_nats[0]
        for links in (postgres, nats, [*postgres, *nats]):
            old = await connected(deployment, 0, "d", key)
            async with deployment.without(links):
                new = await connected(deployment, 1, "d", key)
                await old.expect_end()
                await until(lambda: address not in deployment.ready and bool(deployment.ready))
            await until(lambda: address in deployment.ready)
            new.abort()
