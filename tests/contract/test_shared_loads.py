"""Many identities loaded into one database by several nodes, or with one that it cannot keep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from hub_database import Storage, one_of_several

from muster.core.audit import BY_THE_HUB, Draft
from muster.core.errors import DEVICE_EXISTS, HubError
from muster.identity.contract import Counts, Standing
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.jobs.contract import Consequences, Load, Loaded, Outcome
from muster.twins.document import Twin

HUB = "hub"


class Node:
    """The stores of one node."""

    def __init__(self, storage: Storage) -> None:
        stores = storage.of(HUB, None)
        self.identities, self.loads = stores.identities, stores.loads
        self.told: list[Sequence[Outcome]] = []

    def consequences(self) -> Consequences:
        return Consequences(lambda _: [], lambda made: Draft(HUB, BY_THE_HUB, "made", 1.0), None, self.told.append)


@pytest.fixture
async def nodes(common: str) -> AsyncIterator[tuple[Node, Node]]:
    async with one_of_several(common) as one, one_of_several(common) as other:
        yield Node(one), Node(other)


def load(device_id: str, tag: str = "") -> Load:
    """Makes a device that must not be there."""
    key = IdentityKey(device_id)

    def change(standing: Standing) -> Identity:
        if standing.identity is not None:
            raise HubError(DEVICE_EXISTS, device_id)
        return Identity(key=key, generation_id="1", version=1, authentication=Authentication())

    def twin(before: Twin) -> Twin:
        return replace(before, tags={"t": tag}, version=3)

    return Load(key, change, twin if tag else None)


async def test_two_nodes_that_load_the_same_make_each_once(nodes: tuple[Node, Node]) -> None:
    names = [f"d{number:03}" for number in range(300)]
    ways = [load(name, "one") for name in names], [load(name, "other") for name in reversed(names)]
    both = await asyncio.gather(
        *(node.loads.load(HUB, loads, node.consequences()) for node, loads in zip(nodes, ways, strict=True))
    )
    for mine, theirs in zip(both[0], reversed(both[1]), strict=True):
        assert {type(mine), type(theirs)} == {Loaded, HubError}
    assert await nodes[0].identities.counts(HUB) == Counts(300, 0)
    tags = [dict(twin.tags)["t"] for _, twin in await nodes[0].loads.page(HUB, None, 1000)]
    assert tags == ["one" if isinstance(outcome, Loaded) else "other" for outcome in both[0]]


@pytest.mark.parametrize("common", ["postgres"], indirect=True)
async def test_what_cannot_be_kept_fails_the_call_and_what_is_made_is_told(nodes: tuple[Node, Node]) -> None:
    node, names = nodes[0], [f"d{number:03}" for number in range(50)]
    loads = [load(name, "\ud800" if name == "d007" else "t") for name in names]
    calls = [node.loads.load(HUB, part, node.consequences()) for part in (loads, [load("last")])]
    with pytest.raises(HubError):
        await calls[0]
    await calls[1]
    there = [identity.device_id for identity in await node.identities.devices(HUB, 1000)]
    assert there == [name for name in [*names, "last"] if name != "d007"]
    told, last = node.told
    assert sum(isinstance(one, Loaded) and one.changed for one in told) == 49
    assert len(last) == 1, "calls are told of in their order"


async def test_calls_are_told_of_in_their_order(nodes: tuple[Node, Node]) -> None:
    node = nodes[0]
    calls = [
        node.loads.load(HUB, [load(f"d{number}-{one}") for one in range(number % 9)], node.consequences())
        for number in range(60)
    ]
    await asyncio.gather(*calls)
    assert [len(outcomes) for outcomes in node.told] == [number % 9 for number in range(60)]
