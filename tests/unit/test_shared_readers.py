"""One owner of a partition on all nodes together, whatever becomes of nodes, bus and store meanwhile."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from muster.core.errors import READER_REPLACED, UNAVAILABLE, ErrorRow, HubError
from muster.messages.readers import Leave
from muster.sessions import lease as lease_module
from muster.sessions.lease import Lease
from muster.sessions.shared_readers import SharedReaders
from tests.node_buses import Nodes
from tests.session_directory import LEASE_SECONDS, DirectoryHere, hasten

PATIENCE = 30.0
PLACE = ("hub", "g/0")


class Store(DirectoryHere):
    """Does what is asked and then fails, where it should; notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.unconfirmed = self.dead = False
        self.swaps = 0

    async def swap(self, hub: str, place: str, old: str, new: str) -> str | None:
        self.swaps += 1
        if self.dead:
            raise HubError(UNAVAILABLE)
        found = await super().swap(hub, place, old, new)
        if self.unconfirmed and found is None:
            raise HubError(UNAVAILABLE)
        await asyncio.sleep(0)
        return found


class Node:
    def __init__(self, name: str, nodes: Nodes, store: Store) -> None:
        self.name, self.bus = name, nodes.bus(name)
        self.lease = Lease(store, self.bus)
        self.readers = SharedReaders("hub", store, self.lease, self.bus)

    def die(self, nodes: Nodes) -> None:
        """kill -9: it hears, says and renews nothing more."""
        nodes.cut(self.name)
        assert self.lease._task is not None
        self.lease._task.cancel()


class Cluster:
    def __init__(self) -> None:
        self.nodes, self.store = Nodes(), Store()
        self.all: list[Node] = []

    async def join(self, *names: str) -> list[Node]:
        made = [Node(name, self.nodes, self.store) for name in names]
        for node in made:
            await node.lease.start()
        self.all += made
        return made


class Reader:
    """One at a node."""

    leave: Leave

    def __init__(self, node: Node, epoch: int | None) -> None:
        self.node, self.epoch = node, epoch
        self.told: list[ErrorRow] = []

    async def sit(self) -> None:
        async with asyncio.timeout(PATIENCE):
            self.leave = await self.node.readers.join(
                "g", 0, name=f"{self.node.name}{self.epoch}", epoch=self.epoch,
                evicted=lambda error: self.told.append(error.row),
            )  # fmt: skip


async def reading(node: Node, epoch: int | None) -> Reader:
    reader = Reader(node, epoch)
    await reader.sit()
    return reader


async def refusal(node: Node, epoch: int | None) -> ErrorRow:
    with pytest.raises(HubError) as caught:
        await reading(node, epoch)
    return caught.value.row


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    hasten(monkeypatch)
    made = Cluster()
    yield made
    for node in made.all:
        await node.lease.stop()


async def test_who_takes_over_is_in_when_the_older_one_has_ended(cluster: Cluster) -> None:
    a, b = await cluster.join("a", "b")
    low = await reading(a, 1)
    answer, asked, go = a.bus.answers["readers.end"], asyncio.Event(), asyncio.Event()

    async def slowly(question: bytes) -> bytes:
        asked.set()
        await go.wait()
        return await answer(question)

    a.bus.answer("readers.end", slowly)
    coming = asyncio.ensure_future(reading(b, 2))
    await asked.wait()
    await asyncio.sleep(0.05)
    assert not coming.done()
    go.set()
    high = await coming
    assert (low.told, high.told) == ([READER_REPLACED], [])
    await a.readers.close()
    await b.readers.close()
    assert cluster.store.seats[PLACE].count('"b2"') == 1
    assert '"a1"' not in cluster.store.seats[PLACE]


async def test_an_attach_asks_the_store_once_and_so_does_the_end(cluster: Cluster) -> None:
    (a,) = await cluster.join("a")
    reader = await reading(a, 0)
    assert cluster.store.swaps == 1
    reader.leave()
    await a.readers.close()
    assert (cluster.store.swaps, cluster.store.seats[PLACE]) == (2, "")


async def test_the_owner_of_a_killed_node_holds_its_place_no_longer_than_the_lease(cluster: Cluster) -> None:
    a, b, c = await cluster.join("a", "b", "c")
    await reading(a, 5)
    a.die(cluster.nodes)
    assert await refusal(b, None) is READER_REPLACED, "it might live"
    began = asyncio.get_running_loop().time()
    same = await reading(b, 5)
    assert asyncio.get_running_loop().time() - began > LEASE_SECONDS / 4
    b.die(cluster.nodes)
    async with asyncio.timeout(PATIENCE):
        while True:  # a lower one is refused, and in when the lease is over
            with suppress(HubError):
                await reading(c, None)
                break
            await asyncio.sleep(0.1)
    assert same.told == [], "b is dead"


async def test_a_node_that_slept_ends_its_readers(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_STORE_SECONDS", 60.0)
    a, b = await cluster.join("a", "b")
    shared = await reading(a, None)
    name, renew, gone = a.lease.name, cluster.store.renew, asyncio.Event()

    async def asleep(lease: str, *rest: object) -> object:
        if lease == name:
            await gone.wait()
        return await renew(lease, *rest)  # type: ignore[arg-type]

    cluster.store.renew = asleep  # type: ignore[method-assign,assignment]
    cluster.nodes.cut("a")
    owner = await reading(b, 0)
    assert shared.told == []
    cluster.nodes.join(a.bus)
    gone.set()
    async with asyncio.timeout(PATIENCE):
        while not shared.told or a.lease.name == name:
            await asyncio.sleep(0.05)
    assert (shared.told, owner.told) == ([UNAVAILABLE], [])
    shared.leave()
    assert await refusal(a, None) is READER_REPLACED


async def test_who_cannot_be_asked_and_lives_is_not_passed_over(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor by the next one: a seat that was pushed out stays until its node has said so."""
    monkeypatch.setattr("muster.sessions.shared_readers.WAIT_SECONDS", 0.3)
    a, b, c = await cluster.join("a", "b", "c")
    low = await reading(a, 1)
    cluster.nodes.cut("a")
    assert await refusal(b, 2) is UNAVAILABLE
    await b.readers.close()
    assert await refusal(c, 0) is UNAVAILABLE
    await c.readers.close()
    assert low.told == []
    cluster.nodes.join(a.bus)
    await reading(c, 0)
    assert low.told == [READER_REPLACED]


async def test_a_node_without_a_lease_takes_no_readers(cluster: Cluster) -> None:
    a, b = await cluster.join("a", "b")
    owner = await reading(a, 1)
    a.lease.lose("the test says so")
    assert owner.told == [UNAVAILABLE]
    assert await refusal(a, 1) is UNAVAILABLE
    await reading(b, 0)


@pytest.mark.parametrize("left_behind", ["by an attach", "by the end"])
async def test_a_seat_that_the_store_kept_is_in_nobodys_way(cluster: Cluster, left_behind: str) -> None:
    a, b = await cluster.join("a", "b")
    if left_behind == "by an attach":
        cluster.store.unconfirmed = True
        joining = asyncio.ensure_future(refusal(a, 7))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cluster.store.dead = True
        assert await joining is UNAVAILABLE
    else:
        owner = await reading(a, 7)
        cluster.store.dead = True
        owner.leave()
    await a.readers.close()
    assert '"a7"' in cluster.store.seats[PLACE]
    cluster.store.unconfirmed = cluster.store.dead = False
    await reading(b, None)
    assert '"a7"' not in cluster.store.seats[PLACE]


async def test_one_whose_end_was_not_confirmed_is_ended_by_the_next(cluster: Cluster) -> None:
    a, b = await cluster.join("a", "b")
    low = await reading(a, 1)
    cluster.store.unconfirmed = True
    assert await refusal(a, 2) is UNAVAILABLE
    await a.readers.close()
    cluster.store.unconfirmed = False
    await reading(b, 1)
    assert low.told == [READER_REPLACED]


async def test_one_that_gives_up_while_it_waits_leaves_nothing(cluster: Cluster) -> None:
    a, b = await cluster.join("a", "b")
    await reading(a, 1)
    a.bus.answer("readers.end", lambda _: asyncio.Event().wait())  # type: ignore[arg-type,return-value]
    coming = asyncio.ensure_future(reading(b, 2))
    await asyncio.sleep(0.05)
    coming.cancel()
    with suppress(asyncio.CancelledError):
        await coming
    await b.readers.close()
    assert '"b2"' not in cluster.store.seats[PLACE]
    assert '"a1"' in cluster.store.seats[PLACE], "it has not said that it has ended"


async def test_of_many_that_come_at_once_one_is_left(cluster: Cluster) -> None:
    nodes, chance = await cluster.join("a", "b", "c"), random.Random(7)

    async def come(reader: Reader) -> None:
        await asyncio.sleep(chance.random() / 100)
        with suppress(HubError):
            await reader.sit()

    for _ in range(20):
        readers = [Reader(chance.choice(nodes), chance.choice([None, 0, 1, 2])) for _ in range(12)]
        readers.append(Reader(chance.choice(nodes), 2))
        await asyncio.gather(*map(come, readers))
        staying = [reader for reader in readers if hasattr(reader, "leave") and not reader.told]
        assert [reader.epoch for reader in staying] == [2]
        staying[0].leave()
