"""One session for each identity on all nodes together, whatever becomes of nodes, bus and store meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import cast

import pytest

from muster.core.errors import TAKEN_OVER, UNAVAILABLE, ErrorRow, HubError
from muster.heads.admission import admitted
from muster.heads.device_services import DeviceServices
from muster.identity.authenticator import DeviceAttempt
from muster.identity.model import IdentityKey
from muster.identity.verdict import Verdict
from muster.sessions import lease as lease_module
from muster.sessions.claims import Claims
from muster.sessions.lease import Lease
from muster.sessions.table import Session, SessionTable
from muster.testing.clock import VirtualAmbient
from tests.node_buses import Nodes
from tests.session_directory import LEASE_SECONDS, DirectoryHere, hasten
from tests.unit.test_sessions import DEVICE, Ended, Room

PATIENCE = 30.0


class Sink(Ended):
    """Notes the end with a number: what ended before what."""

    def __init__(self, order: count[int]) -> None:
        super().__init__()
        self._order = order
        self.number = -1

    def end(self, error: ErrorRow) -> None:
        super().end(error)
        self.number = next(self._order)


class Node:
    """A node's sessions."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.bus = cluster.nodes.bus(name)
        self.lease = Lease(cluster.directory, self.bus, cut_off=self._cut_off)
        self.claims = Claims("hub", cluster.directory, self.lease, self.bus, VirtualAmbient())
        room = cluster.room
        self.table = SessionTable("hub", room.shelf, self.bus, room.ambient, self.claims)
        self.lease.when_lost(lambda: self.table.end_present(UNAVAILABLE))

    async def _cut_off(self, _: str) -> bool:
        nodes = self.cluster.nodes
        return not nodes.has(self.bus) and any(nodes.has(other.bus) for other in self.cluster.all)

    def open(self, key: IdentityKey = DEVICE) -> tuple[Session, Sink]:
        room = self.cluster.room
        if key not in room.shelf.held:
            room.shelf.held[key] = replace(room.shelf.held[DEVICE], key=key)
        sink = Sink(self.cluster.order)
        return self.table.open(room.verdict(key), sink), sink


class Cluster:
    """Nodes that have a directory and a bus in common."""

    def __init__(self) -> None:
        self.nodes, self.directory, self.room, self.order = Nodes(), DirectoryHere(), Room(), count()
        self.all: list[Node] = []

    async def join(self, name: str) -> Node:
        node = Node(self, name)
        await node.lease.start()
        self.all.append(node)
        return node


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    hasten(monkeypatch)
    made = Cluster()
    yield made
    for node in made.all:
        await node.lease.stop()


async def granted(session: Session) -> None:
    assert session.claim is not None
    async with asyncio.timeout(PATIENCE):
        await session.claim.granted()


async def test_an_older_session_on_another_node_ends_first(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    older, sink = a.open()
    await granted(older)
    newer, other = b.open()
    await granted(newer)
    assert sink.errors == [TAKEN_OVER]
    assert older.ended
    assert not a.table.is_connected(DEVICE)
    assert (other.errors, a.table.takeovers) == ([], 1)
    back, _ = a.open()
    await granted(back)
    assert other.errors == [TAKEN_OVER]
    assert await b.claims.find(DEVICE) == "a"
    assert await a.claims.find(DEVICE) is None  # nowhere else
    a.table.close(back)
    await asyncio.sleep(0.01)
    assert await b.claims.find(DEVICE) is None


async def test_the_newer_one_is_in_when_the_older_ones_work_is_stored(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    older, sink = a.open()
    await granted(older)
    begun, stored = asyncio.Event(), asyncio.Event()

    async def drain(keys: Sequence[IdentityKey]) -> None:
        assert keys == [DEVICE]
        assert sink.errors == [TAKEN_OVER]
        begun.set()
        await stored.wait()

    a.claims.drains.append(drain)
    newer, _ = b.open()
    waiting = asyncio.ensure_future(granted(newer))
    await begun.wait()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    stored.set()
    await waiting


async def test_without_its_lease_a_node_refuses_who_connects_before_it_looks_anybody_up(cluster: Cluster) -> None:
    class Unasked:
        async def device(self, _: DeviceAttempt) -> Verdict:
            raise AssertionError("the store was asked")

    a = await cluster.join("a")
    services = cast("DeviceServices", SimpleNamespace(sessions=a.table, authenticator=Unasked()))
    attempt = cast("DeviceAttempt", SimpleNamespace(key=DEVICE))
    with pytest.raises(AssertionError):
        await admitted(services, attempt)
    await a.lease.stop()
    with pytest.raises(HubError) as refused:
        await admitted(services, attempt)
    assert refused.value.row is UNAVAILABLE


async def test_of_many_at_once_one_remains(cluster: Cluster) -> None:
    nodes = [await cluster.join(name) for name in "abcd"]
    for _ in range(20):
        opened = [(node, *node.open()) for node in nodes for _ in range(2)]
        await asyncio.gather(*(granted(session) for _, session, _ in opened), return_exceptions=True)
        alive = [(node, session) for node, session, _ in opened if not session.ended]
        assert len(alive) == 1, "one live session"
        (node, session) = alive[0]
        row = cluster.directory.rows["hub", DEVICE]
        assert session.claim is not None
        assert (row.epoch, row.lease, row.holders) == (session.claim.epoch, node.lease.name, [node.lease.name])
        others = [other for other in nodes if other is not node]
        assert await others[0].claims.find(DEVICE) == node.name


async def test_who_is_superseded_while_he_waits_is_told(cluster: Cluster) -> None:
    a, b, c = [await cluster.join(name) for name in "abc"]
    first, _ = a.open()
    await granted(first)
    stored = asyncio.Event()

    async def drain(_: Sequence[IdentityKey]) -> None:
        await stored.wait()

    a.claims.drains.append(drain)
    second, sink = b.open()
    waiting = asyncio.ensure_future(granted(second))
    await asyncio.sleep(0.02)
    third, _ = c.open()
    stored.set()
    await granted(third)
    with pytest.raises(HubError) as refused:
        await waiting
    assert refused.value.row is TAKEN_OVER
    assert sink.errors == [TAKEN_OVER]
    assert not third.ended


async def test_a_node_that_is_cut_off_has_ended_its_sessions_before_another_takes_over(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    older, sink = a.open()
    await granted(older)
    await asyncio.sleep(0.5)  # they know of each other
    cluster.nodes.cut("a")
    cluster.directory.down.add("a")
    newer, _ = b.open()
    await granted(newer)
    assert sink.errors == [UNAVAILABLE]
    assert not a.lease.held
    refused, _ = a.open()
    with pytest.raises(HubError) as error:
        await granted(refused)
    assert error.value.row is UNAVAILABLE
    a.table.close(refused)
    cluster.directory.down.clear()
    cluster.nodes.join(a.bus)
    async with asyncio.timeout(PATIENCE):
        while not a.lease.held:
            await asyncio.sleep(0.05)
    again, _ = a.open()
    await granted(again)
    assert newer.ended


async def test_a_node_that_was_killed_is_waited_for_once_by_all(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    keys = [IdentityKey(f"d{number}") for number in range(500)]
    for session, _ in [a.open(key) for key in keys]:
        await granted(session)
    cluster.nodes.cut("a")
    a.lease._task.cancel()  # type: ignore[union-attr]  # killed
    asked: list[str] = []
    expire = cluster.directory.expire

    async def counted(lease: str) -> float:
        asked.append(lease)
        return await expire(lease)

    cluster.directory.expire = counted  # type: ignore[method-assign]
    await asyncio.gather(*(granted(session) for session, _ in [b.open(key) for key in keys]))
    assert len(asked) <= 4 * LEASE_SECONDS / 0.5
    assert b.table.connected_count() == 500
    assert {tuple(row.holders) for row in cluster.directory.rows.values()} == {(b.lease.name,)}


async def test_sessions_go_on_while_the_store_is_down_for_all(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    session, sink = a.open()
    await granted(session)
    await asyncio.sleep(0.5)
    cluster.directory.down |= {"a", "b"}
    await asyncio.sleep(LEASE_SECONDS + 1)
    assert (sink.errors, a.lease.held, b.lease.held) == ([], True, True)
    refused, _ = b.open()
    with pytest.raises(HubError):
        await granted(refused)
    b.table.close(refused)
    cluster.directory.down.clear()
    await asyncio.sleep(0.5)
    assert a.lease.held
    newer, _ = b.open()
    await granted(newer)
    assert sink.errors == [TAKEN_OVER]  # it was asked, though its lease had run out meanwhile


@pytest.mark.parametrize("seconds", [0.5, 0.0], ids=["long together", "the other has just begun"])
async def test_a_node_that_alone_does_not_reach_the_store_ends_its_sessions(cluster: Cluster, seconds: float) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    session, sink = a.open()
    await granted(session)
    await asyncio.sleep(seconds)
    cluster.directory.down.add("a")
    await asyncio.sleep(LEASE_SECONDS)
    assert (sink.errors, a.lease.held, b.lease.held) == ([UNAVAILABLE], False, True)


async def test_a_node_that_alone_is_on_no_bus_gives_its_sessions_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "CUT_OFF_SECONDS", 1.0)
    a, b = await cluster.join("a"), await cluster.join("b")
    session, sink = a.open()
    await granted(session)
    cluster.nodes.cut("a")
    await granted(b.open()[0])
    assert (sink.errors, a.lease.held, b.lease.held) == ([UNAVAILABLE], False, True)
    await asyncio.sleep(0.5)
    assert not a.lease.held, "it takes none before it is back"
    cluster.nodes.join(a.bus)
    async with asyncio.timeout(PATIENCE):
        while not a.lease.held:
            await asyncio.sleep(0.05)


async def test_sessions_go_on_while_no_node_is_on_the_bus(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "CUT_OFF_SECONDS", 0.5)
    nodes = [await cluster.join("a"), await cluster.join("b")]
    session, sink = nodes[0].open()
    await granted(session)
    for node in nodes:
        cluster.nodes.cut(node.name)
    await asyncio.sleep(1.5)
    for node in nodes:
        cluster.nodes.join(node.bus)
    assert (sink.errors, [node.lease.held for node in nodes]) == ([], [True, True])


async def test_a_lease_that_stays_over_is_taken_away(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of a node that is gone without a word do not count as connected for ever, though none comes back."""
    monkeypatch.setattr(lease_module, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "GONE_SECONDS", 0.5)
    a, b = await cluster.join("a"), await cluster.join("b")
    session, _ = a.open()
    await granted(session)
    a.lease._task.cancel()  # type: ignore[union-attr]  # killed
    async with asyncio.timeout(LEASE_SECONDS - 0.5):
        while [one.lease for one in await cluster.directory.nodes()] != [a.lease.name, b.lease.name]:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(PATIENCE):
        while (present := (await cluster.directory.present("hub", [DEVICE]))[0]) is not None and present.connected:
            over = [one.left for one in await cluster.directory.nodes() if one.lease == a.lease.name]
            await asyncio.sleep(0.05)
    assert over[0] < 0, "not before its time is over"
    assert [one.lease for one in await b.lease.nodes()] == [b.lease.name]
    assert b.lease.held


async def test_a_node_that_slept_finds_its_lease_gone(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    session, sink = a.open()
    await granted(session)
    name = a.lease.name
    cluster.nodes.cut("a")
    renew, gone = cluster.directory.renew, asyncio.Event()

    async def asleep(lease: str, *rest: object) -> object:
        if lease == name:
            await gone.wait()
        return await renew(lease, *rest)  # type: ignore[arg-type]

    cluster.directory.renew = asleep  # type: ignore[method-assign,assignment]
    monkeypatch.setattr(lease_module, "_STORE_SECONDS", 60.0)
    newer, _ = b.open()
    await granted(newer)
    cluster.nodes.join(a.bus)
    gone.set()
    async with asyncio.timeout(PATIENCE):
        while not sink.errors or a.lease.name == name:
            await asyncio.sleep(0.05)
    assert sink.errors == [UNAVAILABLE]
    assert not newer.ended


async def test_a_session_that_ends_before_it_is_in_leaves_nothing(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    first, _ = a.open()
    a.table.close(first)
    await asyncio.sleep(0.02)
    assert cluster.directory.rows["hub", DEVICE].holders == []
    second, _ = b.open()
    await granted(second)
    assert await a.claims.find(DEVICE) == "b"


async def test_an_older_session_that_does_not_end_in_time_refuses_the_newer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.sessions.claims.CLAIM_SECONDS", 0.3)
    a, b = await cluster.join("a"), await cluster.join("b")
    older, _ = a.open()
    await granted(older)

    async def drain(_: Sequence[IdentityKey]) -> None:
        await asyncio.Event().wait()

    a.claims.drains.append(drain)
    newer, _ = b.open()
    with pytest.raises(HubError, match="try again") as refused:
        await granted(newer)
    assert refused.value.row is UNAVAILABLE
    a.claims.drains.clear()
    b.table.close(newer)
    again, _ = b.open()
    await granted(again)


async def test_an_identity_that_is_gone_is_forgotten_by_the_directory(cluster: Cluster) -> None:
    a = await cluster.join("a")
    session, sink = a.open()
    await granted(session)
    del cluster.room.shelf.held[DEVICE]
    a.bus.publish("identity.changed", "d")
    async with asyncio.timeout(PATIENCE):
        while cluster.directory.rows["hub", DEVICE].generation_id:
            await asyncio.sleep(0.01)
    assert len(sink.errors) == 1
    assert await cluster.directory.present("hub", [DEVICE]) == [None]


async def test_a_session_whose_epoch_is_not_known_yet_is_asked_about_when_it_is(cluster: Cluster) -> None:
    a, b = await cluster.join("a"), await cluster.join("b")
    claim, known = cluster.directory.claim, asyncio.Event()

    def slowly(hub: str, key: IdentityKey, generation_id: str, lease: str, at: float) -> asyncio.Future[object]:
        made = claim(hub, key, generation_id, lease, at)
        if lease != a.lease.name:
            return made  # type: ignore[return-value]

        async def later() -> object:
            await known.wait()
            return await made

        return asyncio.ensure_future(later())

    cluster.directory.claim = slowly  # type: ignore[method-assign,assignment]
    older, sink = a.open()
    await asyncio.sleep(0.01)
    newer, _ = b.open()
    waiting = asyncio.ensure_future(granted(newer))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    known.set()
    await waiting
    assert (sink.errors, older.ended) == ([TAKEN_OVER], True)
