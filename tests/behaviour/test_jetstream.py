"""Telemetry on JetStream beyond the contract: several nodes, lost acknowledgements, servers that refuse, damage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from muster.core.errors import INVALID_OPERATION, SERVER_ERROR, UNAVAILABLE, HubError
from muster.messages.contract import PartitionState, Share
from muster.messages.telemetry import Telemetry
from muster.stores.nats import follower, publisher, telemetry
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.streams import Found, Place
from muster.stores.nats.telemetry import JetStreamLog
from muster.testing.clock import VirtualAmbient
from tests.contract.telemetry_book import EVERYTHING, PATIENCE, Book, commit, everything, named, records_of, trim_all
from tests.nats_servers import NatsCluster, running

PARTITIONS = 2


class Node:
    """A process with a connection and a log of its own, in effect."""

    def __init__(self, connection: NatsConnection, log: JetStreamLog) -> None:
        self.connection = connection
        self.log = log
        self.book = Book(log)

    @classmethod
    async def start(cls, servers: NatsCluster, place: Place) -> Node:
        connection = await NatsConnection.open(servers.urls)
        log = await JetStreamLog.open(connection, place, PARTITIONS, created_at=1.0)
        node = cls(connection, log)
        await node.book.ready()
        return node

    async def close(self) -> None:
        await self.log.close()
        await self.connection.close()


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """A hub of the test's own."""
    return Place("tests", request.node.name)


@pytest.fixture
async def node(nats: NatsCluster, place: Place) -> AsyncIterator[Node]:
    node = await Node.start(nats, place)
    yield node
    await node.close()


async def test_all_nodes_write_and_all_read_the_same(nats: NatsCluster, place: Place) -> None:
    nodes = [await Node.start(nats, place) for _ in range(3)]
    count = 30

    async def write(number: int) -> None:
        for step in range(count):
            await commit(
                nodes[number].log, *(Share(n, [b"%d/%d/%d" % (number, step, i) for i in (0, 1)]) for n in (0, 1))
            )

    await asyncio.gather(*map(write, range(3)))
    for partition in range(PARTITIONS):
        told = [list(await node.book.until(partition, 6 * count)) for node in nodes]
        assert told[0] == told[1] == told[2] == await everything(nodes[0].log, partition)
        for number in range(3):
            mine = [record for record in records_of(told[0]) if record.startswith(b"%d/" % number)]
            assert mine == [b"%d/%d/%d" % (number, step, i) for step in range(count) for i in (0, 1)]
    late = await Node.start(nats, place)
    assert late.log.states() == [await node.log.state(n) for n, node in enumerate(nodes[:2])]
    assert late.book.begun == dict(enumerate(late.log.states())), "a follower begins at the end"
    for node in [*nodes, late]:
        await node.close()


async def test_what_was_stored_is_not_stored_again_when_its_acknowledgement_is_lost(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "ACK_SECONDS", 0.2)
    heard: list[bytes] = []
    hear = publisher.Publisher._answered

    def lossy(self: publisher.Publisher, message: Msg) -> None:
        heard.append(message.data)
        if len(heard) % 2 == 0:
            hear(self, message)

    monkeypatch.setattr(publisher.Publisher, "_answered", lossy)
    for number in range(3):
        await node.book.commit(Share(0, named(0, 2 * number, 2)))
    assert [b'"duplicate": true' in answer.replace(b":true", b": true") for answer in heard] == [False, True] * 3
    assert records_of(await everything(node.log, 0)) == records_of(node.book.told[0]) == named(0, 0, 6)


async def test_a_log_that_is_opened_again_in_a_process_stores_what_is_new(nats: NatsCluster, place: Place) -> None:
    connection = await NatsConnection.open(nats.urls)
    for number in range(3):
        log = await JetStreamLog.open(connection, place, PARTITIONS, created_at=1.0)
        await commit(log, Share(0, [b"%d" % number]))
        assert records_of(await everything(log, 0)) == [b"%d" % before for before in range(number + 1)]
        await log.close()
    await connection.close()


async def test_a_part_that_was_lost_is_not_overtaken(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "ACK_SECONDS", 0.2)
    sent: list[str] = []
    send = node.log._replies.send

    async def lossy(subject: str, body: bytes, reply: str, headers: dict[str, str] | None = None) -> None:
        sent.append(headers["Nats-Msg-Id"] if headers else "")
        if not headers or sent.count(sent[-1]) > 1:  # every message gets lost once
            await send(subject, body, reply, headers)

    monkeypatch.setattr(node.log._replies, "send", lossy)
    records = [bytes([number]) * 200_000 for number in range(12)]
    await node.book.commit(Share(0, records), Share(1, [b"small"]))
    assert records_of(await everything(node.log, 0)) == records
    assert len(node.book.told[0]) > 3


async def test_what_got_lost_on_the_way_to_a_follower_is_fetched_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived = 0
    take = follower.Follower._take

    def lossy(self: follower.Follower, message: Msg) -> None:
        nonlocal arrived
        arrived += 1
        if arrived % 5:
            take(self, message)

    monkeypatch.setattr(follower.Follower, "_take", lossy)
    monkeypatch.setattr(follower, "BATCH", 3)
    for number in range(20):
        await commit(node.log, Share(0, [b"%d" % number]))
    assert records_of(await node.book.until(0, 20)) == [b"%d" % number for number in range(20)]
    assert arrived > 20
    assert node.book.told[0] == await everything(node.log, 0)


async def test_a_leader_that_was_cut_off_is_not_believed_that_there_is_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads would take it for removed, and go on behind it."""
    await node.book.commit(Share(0, [b"a"]))
    await node.book.commit(Share(0, [b"b"]))
    told = node.book.told[0]

    async def nothing(*_: object) -> list[Found]:
        return []

    with monkeypatch.context() as stale:
        stale.setattr(node.log._streams, "page", nothing)
        for run in told:
            with pytest.raises(HubError, match="do not agree") as caught:
                await node.log.read(0, run.base, EVERYTHING)
            assert caught.value.row is UNAVAILABLE
        assert await node.log.read(0, told[-1].base + 4096, EVERYTHING) == [], "of more it has not heard"
    await node.log._replies.ask(f"STREAM.PURGE.{node.log._streams.names[0]}", {})
    assert await node.log.read(0, 0, EVERYTHING) == [], "of what is removed"


async def test_nor_where_a_partition_ends(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who goes on from a checkpoint would be told that there is no such message."""
    await node.book.commit(Share(0, [b"a"]))
    before = await node.log.state(0)
    await node.book.commit(Share(0, [b"b"]))
    await node.log.probe()
    after = await node.log.state(0)
    assert after.next > before.next

    async def stale(_: int) -> PartitionState:
        return before

    monkeypatch.setattr(node.log._streams, "state", stale)
    with pytest.raises(HubError, match="do not agree") as caught:
        await node.log.state(0)
    assert caught.value.row is UNAVAILABLE


async def test_what_comes_while_the_leader_is_asked_does_not_make_it_a_liar(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answer was true when it gave it: nobody is refused."""
    await node.book.commit(Share(0, [b"a"]))
    end = node.book.told[0][-1].base + 4096
    page, state = node.log._streams.page, node.log._streams.state

    async def heard_of_more() -> None:
        told = len(node.book.told[0])
        await node.book.commit(Share(0, [b"b"]))
        async with asyncio.timeout(PATIENCE):
            while len(node.book.told[0]) == told:
                await asyncio.sleep(0.01)

    async def slow_page(partition: int, sequence: int, limit_bytes: int) -> list[Found]:
        found = await page(partition, sequence, limit_bytes)
        await heard_of_more()
        return found

    async def slow_state(partition: int) -> PartitionState:
        found = await state(partition)
        await heard_of_more()
        return found

    monkeypatch.setattr(node.log._streams, "page", slow_page)
    monkeypatch.setattr(node.log._streams, "state", slow_state)
    assert await node.log.read(0, end, EVERYTHING) == []
    assert (await node.log.state(0)).next == node.book.told[0][-2].base + 1


async def test_what_comes_while_a_place_is_looked_for_is_not_skipped(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, came = node.log._streams.first_since, list[bytes]()

    async def slow(partition: int, earliest_ms: int) -> Found | None:
        found = await look(partition, earliest_ms)
        if not came:
            came.append(b"a")
            await node.book.commit(Share(0, came))
        return found

    monkeypatch.setattr(node.log._streams, "first_since", slow)
    at = await node.log.sequence_at(0, 1, inclusive=True)
    assert records_of(await node.log.read(0, at, EVERYTHING)) == came


async def test_what_is_no_run_of_records_is_left_out_and_named(
    node: Node, caplog: pytest.LogCaptureFixture, place: Place
) -> None:
    await node.book.commit(Share(0, [b"a"]))
    for nonsense in (b"", b"short", b"\x01\0\0\0\x01\0\0\0\0\0\0\0nonsense nonsense", bytes(100)):
        await node.connection.client.jetstream().publish(place.subject(0), nonsense)
    await node.book.commit(Share(0, [b"b"]))
    for _ in range(2):
        assert records_of(await everything(node.log, 0)) == [b"a", b"b"]
    assert await everything(node.log, 0) == node.book.told[0]
    assert len(node.log.damaged) == 4
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(told) == 4, "each is named once"
    assert f"stream {place.stream(0)}: the message 2 is damaged" in told[0]


async def outcome(work: Awaitable[None]) -> HubError | None:
    try:
        await work
    except HubError as error:
        return error
    return None


async def test_a_server_without_room_refuses_and_heals(tmp_path: Path, place: Place) -> None:
    with running(tmp_path, room="2M") as servers:
        node = await Node.start(servers, place)
        ambient = VirtualAmbient()
        service = Telemetry(node.log, ambient, retention_seconds=86_400, retention_bytes=1 << 20)
        stored = 0
        error = None
        while error is None:
            error = await outcome(service.store([(0, bytes(100_000))]))
            stored += error is None
        assert error.row is SERVER_ERROR
        assert "JetStream does not store telemetry: insufficient" in error.message
        assert 10 < stored < 21
        assert service.failing
        assert len(await everything(node.log, 0)) == stored, "nothing that was stored is dropped for what is new"
        await trim_all(node.log, limit_bytes=1 << 20)
        await service.store([(0, b"room again")])
        assert not service.failing
        assert records_of(await everything(node.log, 0))[-1] == b"room again"
        with pytest.raises(HubError, match=r"cannot set aside .* lower --retention-mib, or raise max_file"):
            await trim_all(node.log, limit_bytes=1 << 30)
        await service.close()
        await node.connection.close()


async def test_hubs_are_apart_whatever_they_are_called_and_go_alone(nats: NatsCluster) -> None:
    names = ["a", "a_0", "a.b", "a*", "A", "é", "a b", "a/b", "a=2Fb"]
    places = [Place("tests-names", name) for name in names]
    nodes = [await Node.start(nats, place) for place in places]
    for number, node in enumerate(nodes):
        await node.book.commit(Share(0, [b"%d" % number]))
    await JetStreamLog.delete(nodes[0].connection, places[0])
    await JetStreamLog.delete(nodes[0].connection, places[0])
    for number, node in enumerate(nodes[1:], 1):
        assert records_of(await everything(node.log, 0)) == [b"%d" % number]
    with pytest.raises(HubError, match="is gone: restore it"):
        await nodes[0].log.state(0)
    for node in nodes:
        await node.close()
    again = await Node.start(nats, places[0])
    assert await everything(again.log, 0) == []
    await again.close()


async def test_all_nodes_may_make_a_hub_at_once(nats: NatsCluster, place: Place) -> None:
    connections = [await NatsConnection.open(nats.urls) for _ in range(4)]
    logs = await asyncio.gather(
        *(
            JetStreamLog.open(connection, place, PARTITIONS, created_at=float(number))
            for number, connection in enumerate(connections)
        )
    )
    assert len({log.created_at for log in logs}) == 1
    for log, connection in zip(logs, connections, strict=True):
        await log.close()
        await connection.close()


async def test_servers_that_take_small_messages_only_are_refused(tmp_path: Path, place: Place) -> None:
    with running(tmp_path, extra="max_payload: 100000") as servers:
        connection = await NatsConnection.open(servers.urls)
        with pytest.raises(HubError, match="100000 bytes at most; leave their max_payload at 1MB") as caught:
            await JetStreamLog.open(connection, place, PARTITIONS, created_at=1.0)
        assert caught.value.row is INVALID_OPERATION
        await connection.close()


async def test_servers_without_jetstream_are_refused(
    tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry, "OPENING_SECONDS", 0.5)
    with running(tmp_path, jetstream=False) as servers:
        connection = await NatsConnection.open(servers.urls)
        with pytest.raises(HubError, match="JetStream has no leader, or is not enabled") as caught:
            await JetStreamLog.open(connection, place, PARTITIONS, created_at=1.0)
        assert caught.value.row is UNAVAILABLE
        await connection.close()


async def test_only_who_reads_has_the_server_send(node: Node) -> None:
    for stop in node.book.unfollow:
        stop()
    service = Telemetry(node.log, VirtualAmbient(), retention_seconds=86_400, retention_bytes=1 << 30)
    await service.store([(0, b"a")])
    assert service.tail(0, 0) == ()
    assert (await service.look(0)).next == 1
    assert records_of(await service.read(0, 0, EVERYTHING)) == [b"a"], "it is read from the servers"
    news = asyncio.Event()
    ends = [service.subscribe(0, news.set) for _ in range(2)]
    await asyncio.wait_for(news.wait(), PATIENCE)
    assert service.state(0).next == 1
    assert service.tail(0, 0) is None, "only what came since then is in memory"
    news.clear()
    await service.store([(0, b"b")])
    await asyncio.wait_for(news.wait(), PATIENCE)
    assert records_of(service.tail(0, 1) or []) == [b"b"]
    assert records_of(service.tail(0, 4000) or []) == [b"b"], "what is in a gap is behind it"
    assert len(node.log._followers) == 1
    for end in (*ends, *ends):
        end()
    assert not node.log._followers
    await service.store([(0, b"c")])
    assert service.tail(0, 0) == ()
    assert records_of(await service.read(0, 0, EVERYTHING)) == [b"a", b"b", b"c"]
    await service.close()
