"""Devices that register at several nodes of one deployment: one assignment, whoever of the nodes is quicker."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from provisioning_parts import SCOPE, FakeHub, Service, Steps, attempt_of, service, webhook_body

from muster.core.errors import UNAVAILABLE, HubError
from muster.core.limits import Profile
from muster.core.provisioning_limits import ASSIGNMENT_RETRY
from muster.provisioning.model import AllocationKind, CustomAllocation, Registration, RegistrationStatus
from muster.provisioning.registrar import Registrar
from muster.testing.clock import VirtualAmbient

ONE, OTHER = "one.example", "other.example"


class Deployment:
    """Two nodes on one store, whose webhooks choose different hubs."""

    def __init__(self, running: Service, hubs: list[FakeHub], steps: Steps, ambient: VirtualAmbient) -> None:
        self.running, self.hubs, self.steps, self.ambient = running, hubs, steps, ambient
        self.nodes = [self._node(hub.host) for hub in hubs]

    def _node(self, chooses: str) -> Registrar:
        like = self.running.registrar

        async def webhook(_: str, __: bytes) -> bytes:
            await asyncio.sleep(0)
            return json.dumps({"iotHubHostName": chooses}).encode()

        return Registrar(
            SCOPE, like._store, like._examiner, like._timeline, hubs=like._hubs, webhook=webhook,
            webhook_body=webhook_body, ambient=self.ambient, profile=Profile.OPEN,
        )  # fmt: skip

    async def register(self, *nodes: int) -> list[Registration]:
        """The device asks these nodes at the same time; what each of them answers."""
        asked = (self.nodes[at].register(attempt_of("dev")) for at in nodes)
        found = [one.registration for one in await asyncio.gather(*asked)]
        assert None not in found
        return found  # type: ignore[return-value]

    async def settled(self) -> Registration:
        async with asyncio.timeout(20):
            while True:
                found = await self.running.registrar.get("dev")
                if found.intent is None and not any(one._running for one in self.nodes):
                    return found
                await asyncio.sleep(0)
                self.ambient.advance(ASSIGNMENT_RETRY.open)

    def where(self) -> list[str]:
        return [one.host for one in self.hubs if "dev" in one.devices]


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    steps, ambient = Steps(), VirtualAmbient()
    hubs = [FakeHub(ONE, steps), FakeHub(OTHER, steps)]
    async with service(tmp_path, hubs, ambient=ambient) as running:
        made = Deployment(running, hubs, steps, ambient)
        custom = CustomAllocation("https://f.example/api", "2021-10-01")
        await running.group(allocation=AllocationKind.CUSTOM, custom=custom)
        yield made
        for one in made.nodes:
            await one.close()


async def test_a_device_that_asks_two_nodes_at_once_is_assigned_once(deployment: Deployment) -> None:
    first, second = await deployment.register(0, 1)
    assert first.operation_id == second.operation_id
    found = await deployment.settled()
    assert (found.status, found.operation_id) == (RegistrationStatus.ASSIGNED, first.operation_id)
    assert deployment.where() == [found.assigned_hub]


async def test_what_a_node_that_is_gone_had_begun_is_ended_by_the_one_that_is_asked_next(
    deployment: Deployment,
) -> None:
    deployment.steps.kill_at, deployment.steps.error = 1, HubError(UNAVAILABLE)
    (begun,) = await deployment.register(0)
    while deployment.nodes[0]._running["dev"].timer is None:
        await asyncio.sleep(0)
    await deployment.nodes[0].close()
    deployment.nodes[0]._running.clear()
    (again,) = await deployment.register(1)
    assert again.operation_id == begun.operation_id
    found = await deployment.settled()
    assert (found.assigned_hub, deployment.where()) == (ONE, [ONE]), "as the first node has chosen"


async def test_a_node_that_waits_to_try_again_sees_that_another_has_ended_it(deployment: Deployment) -> None:
    deployment.steps.kill_at, deployment.steps.error = 1, HubError(UNAVAILABLE)
    (begun,) = await deployment.register(0)
    while deployment.nodes[0]._running["dev"].timer is None:
        await asyncio.sleep(0)
    await deployment.register(1)
    while "dev" in deployment.nodes[1]._running:
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        (later,) = await deployment.register(0)
    assert later.operation_id != begun.operation_id, "the first has ended, this is another"
    found = await deployment.settled()
    assert (found.operation_id, len(deployment.where())) == (later.operation_id, 1)
