"""The day's quota of a hub on several nodes: what each has counted adds up, in what is kept and at each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hub_database import Storage, one_of_several

from muster.core.shared_settings import SharedSettings
from muster.core.throttle_limits import QUOTA_UNWRITTEN
from muster.core.throttles import Quota
from muster.node.metering import KeptUse
from muster.testing.clock import VirtualAmbient
from tests.node_buses import Nodes
from tests.postgres import emptied_database

MINUTE = QUOTA_UNWRITTEN.open
QUOTA = Quota(100, 4096)
NODES = ("a", "b", "c")


class Hub:
    """A hub on several nodes, each with a store of settings of its own on what they share."""

    def __init__(self, storages: list[Storage]) -> None:
        self.nodes, self.ambient = Nodes(), VirtualAmbient()
        self.settings = [
            SharedSettings(storage.rows, self.nodes.bus(name)) for name, storage in zip(NODES, storages, strict=True)
        ]
        self.uses: list[KeptUse] = []

    async def open(self, node: int, name: str) -> KeptUse:
        return await KeptUse.open(self.settings[node], self.ambient, QUOTA, name)

    def charge(self, node: int, messages: int) -> None:
        for _ in range(messages):
            self.uses[node].use.charge(self.ambient.now(), 1)

    async def used(self) -> list[int]:
        """By each node, when all has been written and heard that is on its way."""
        await asyncio.gather(*(one._task for one in self.uses if one._task is not None))
        for _ in range(3):  # what was said on the bus is heard
            await asyncio.sleep(0)
        await asyncio.gather(*(one.settled() for one in self.settings))
        return [self.told(one) for one in self.uses]

    def told(self, kept: KeptUse) -> int:
        kept.use.spent(self.ambient.now())  # begins the day
        return kept.use.used


@pytest.fixture(params=["postgres", "sqlite"])
async def hub(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Hub]:
    place = emptied_database() if request.param == "postgres" else str(tmp_path / "hub.db")
    async with AsyncExitStack() as stack:
        made = Hub([await stack.enter_async_context(one_of_several(place)) for _ in NODES])
        made.uses += [await made.open(at, name) for at, name in enumerate(NODES)]
        yield made
        for settings in made.settings:
            settings.close()


async def test_what_all_nodes_have_used_is_known_to_each_within_a_minute(hub: Hub) -> None:
    for node, messages in enumerate((5, 6, 7)):
        hub.charge(node, messages)
    hub.ambient.advance(0)  # all write at once
    assert await hub.used() == [18, 18, 18]
    hub.charge(1, 80)
    hub.charge(2, 2)
    assert await hub.used() == [18, 98, 20]
    hub.ambient.advance(MINUTE)
    assert await hub.used() == [100, 100, 100]
    assert all(one.use.spent(hub.ambient.now()) for one in hub.uses)


async def test_nodes_that_end_at_once_leave_the_sum_to_those_that_begin(hub: Hub) -> None:
    for node, messages in enumerate((5, 6, 7)):
        hub.charge(node, messages)
    await asyncio.gather(*(one.close() for one in hub.uses))
    assert [hub.told(await hub.open(node, name)) for node, name in enumerate(("a", "new", "c"))] == [18, 18, 18]


async def test_a_node_writes_once_a_minute_and_whatever_it_has_used(hub: Hub) -> None:
    written: list[bytes | None] = []
    for _ in range(200):
        hub.charge(0, 1)
        hub.ambient.advance(MINUTE / 100)
        await hub.used()
        kept = await hub.settings[0].get_setting("messages-today")
        if not written or written[-1] != kept:
            written.append(kept)
    assert len(written) in {2, 3}
    hub.ambient.advance(MINUTE)
    assert await hub.used() == [200, 200, 200]
