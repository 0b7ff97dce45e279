"""Reading a partition, frame by frame: what no SDK shows, and what some rarely do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp_client import SELECTOR_CODE, AmqpClient, events_from, partition
from eventhub_server import AUTH, POLICIES, EventHubServer, connect

from muster.dialect.record import message_head, record, sender_annotations
from muster.testing.clock import VirtualAmbient
from muster.wire.amqp.performatives import (
    ACCEPTED,
    RECEIVER,
    SENDER,
    Attach,
    Detach,
    Disposition,
    Flow,
    Transfer,
)
from muster.wire.amqp.values import Symbol

KEY = POLICIES["service"].primary_key
RUNTIME_METRIC = "com.microsoft:enable-receiver-runtime-metric"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EventHubServer]:
    with EventHubServer(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventHubServer]:
    """Events 0 to 9 in partition 0, in pairs that have a time of their own (a second of the clock, or what a shared
    log has of it); the clock stands still then."""
    clock = VirtualAmbient(float(int(time.time())))
    with EventHubServer(tmp_path_factory.mktemp("stocked"), clock=clock) as server:
        for second in range(5):
            server.send("d", [b"%d" % (2 * second), b"%d" % (2 * second + 1)])
            server.call(lambda: clock.advance(1))
            time.sleep(0.01)
        yield server


# --- positions


@pytest.mark.parametrize(
    ("selector", "first"),
    [
        (None, 0),
        ("amqp.annotation.x-opt-offset > '-1'", 0),
        ("amqp.annotation.x-opt-offset > '{at[4]}'", 5),
        ("amqp.annotation.x-opt-offset >= '{at[4]}'", 4),
        ("amqp.annotation.x-opt-sequence-number > '{at[4]}'", 5),
        ("amqp.annotation.x-opt-sequence-number >= '{at[4]}'", 4),
        ("amqp.annotation.x-opt-sequence-number > {at[4]}", 5),
        ("amqp.annotation.x-opt-enqueued-time > '{two}'", 6),
        ("amqp.annotation.x-opt-enqueued-time >= '{two}'", 4),
        ("amqp.annotation.x-opt-enqueuedtimeutc > {two}", 6),
        ("amqp.annotation.x-opt-enqueued-time > '0'", 0),
        ("amqp.annotation.x-opt-offset > '@latest'", None),
        ("amqp.annotation.x-opt-offset > '{at[9]}'", None),
        ("amqp.annotation.x-opt-enqueued-time > '{five}'", None),
    ],
)
@pytest.mark.parametrize("described", [Symbol("apache.org:selector-filter:string"), SELECTOR_CODE, None])
def test_positions(stocked: EventHubServer, selector: str | None, first: int | None, described: Any) -> None:
    at, times = zip(*stocked.places(), strict=True)
    text = None if selector is None else selector.format(at=at, two=times[4], five=times[9] + 1000)
    with connect(stocked) as client:
        client.credit(client.attach(source=events_from(text, described=described)), 100)
        if first is None:
            client.wait_for(Attach)
            assert client.silent()
        else:
            assert client.numbers(10 - first) == list(at[first:])
            assert client.silent(0.05)


@pytest.mark.parametrize(
    ("selector", "condition"),
    [
        ("amqp.annotation.x-opt-offset > '500000000'", "com.microsoft:argument-error"),
        ("nonsense", "com.microsoft:argument-error"),
        (5, "amqp:not-allowed"),
    ],
)
def test_positions_that_are_refused(stocked: EventHubServer, selector: Any, condition: str) -> None:
    with connect(stocked) as client:
        client.attach(source=events_from(selector))
        assert client.refusal().condition == condition


def test_a_receiver_at_the_end_gets_what_comes(server: EventHubServer) -> None:
    server.send("d", [b"old"])
    with connect(server) as client:
        client.credit(client.attach(source=events_from("amqp.annotation.x-opt-offset > '@latest'")), 100)
        client.wait_for(Attach)
        server.send("d", [b"new", b"newer"])
        assert client.numbers(2) == server.numbers()[1:]


@pytest.mark.parametrize("behind", [False, True], ids=["live", "catching up"])
def test_what_cannot_be_read_is_skipped_with_a_line_in_the_log(
    server: EventHubServer, caplog: pytest.LogCaptureFixture, *, behind: bool
) -> None:
    sender = sender_annotations(device_id="d", module_id=None, auth_method=AUTH, generation_id="1")
    whole = record(sender, message_head({}, {}), b"")
    bad = [b"", b"body only", sender, whole[: len(sender) + 3], b"\x02" + whole[1:], whole[:1] + b"\xff" * 5]
    with connect(server) as client:
        if not behind:
            client.credit(client.attach(source=partition()), 100)
            client.wait_for(Attach)
        server.send("d", [b"first"])
        for one in bad:
            server.call(lambda one=one: server.telemetry.append(0, one))  # type: ignore[misc]
            server.send("d", [b"next"])
        if behind:
            client.credit(client.attach(source=partition()), 100)
        numbers = client.numbers(1 + len(bad))
    assert numbers == server.numbers()[::2]
    told = [line.getMessage() for line in caplog.records if "is skipped for readers" in line.getMessage()]
    assert len(told) == len(bad)


# --- credit, settlement, drain


def test_credit_is_the_limit(server: EventHubServer) -> None:
    server.send("d", [b"%d" % n for n in range(20)])
    with connect(server) as client:
        receiver = client.attach(source=partition(), channel=1)
        assert client.silent()
        client.credit(receiver, 3, channel=1)
        assert client.numbers(3) == [0, 1, 2]
        assert client.silent()
        client.credit(receiver, 2, channel=1, delivery_count=3, next_incoming_id=3)
        assert client.numbers(2) == [3, 4]
        client.credit(receiver, 100, channel=1, delivery_count=5, next_incoming_id=5, incoming_window=4)
        assert client.numbers(4) == [5, 6, 7, 8]
        assert client.silent()
        client.send(Flow(9, 1000, 0, 1000), channel=1)
        assert client.numbers(11) == list(range(9, 20))


@pytest.mark.parametrize(("mode", "answered", "settled"), [(0, 0, False), (1, 1, True), (2, 1, True)])
def test_settlement_is_as_asked_and_holds_nothing_back(
    server: EventHubServer, mode: int, answered: int, settled: bool
) -> None:
    server.send("d", [b"%d" % n for n in range(3000)])
    with connect(server) as client:
        receiver = client.attach(source=partition(), snd_settle_mode=mode, rcv_settle_mode=1)
        client.credit(receiver, 3000)
        assert client.wait_for(Attach).body.snd_settle_mode == answered
        transfers = [client.wait_for(Transfer).body for _ in range(3000)]
        assert {transfer.settled for transfer in transfers} == {settled}
        if not settled:
            client.send(Disposition(RECEIVER, 0, 2999, False, ACCEPTED))
            assert client.wait_for(Disposition).body == Disposition(SENDER, 0, 2999, True, ACCEPTED)


def test_drain_sends_what_there_is_and_gives_back_the_rest(server: EventHubServer) -> None:
    server.send("d", [b"a", b"b"])
    with connect(server) as client:
        receiver = client.attach(source=partition())
        client.credit(receiver, 10, drain=True)
        assert client.numbers(2) == [0, 1]
        flow = client.wait_for(Flow).body
        assert (flow.handle, flow.link_credit, flow.delivery_count, flow.drain) == (receiver, 0, 10, True)
        server.send("d", [b"c"])
        assert client.silent()


# --- owner levels, metrics


def epoch(level: int) -> dict[Any, Any]:
    return {Symbol("com.microsoft:epoch"): level, Symbol("com.microsoft:timeout"): 0}


def test_owner_levels_across_connections(server: EventHubServer) -> None:
    server.send("d", [b"a"])
    with connect(server) as first, connect(server) as second:
        shared = first.attach(source=partition())
        first.wait_for(Attach)
        owner = second.attach(source=partition(group="$DEFAULT"), properties=epoch(1))
        second.wait_for(Attach)
        detach = first.wait_for(Detach).body
        assert (detach.handle, detach.closed, detach.error.condition) == (shared, True, "amqp:link:stolen")
        for properties in (None, epoch(0)):
            first.attach(source=partition(), properties=properties)
            assert first.refusal().condition == "amqp:link:stolen"
        second.send(Detach(owner, True))
        second.wait_for(Detach)
        first.credit(first.attach(source=partition(), properties=epoch(0)), 5)
        assert first.numbers(1) == [0]
        first.attach(source=partition(), properties={Symbol("com.microsoft:epoch"): "high"})
        assert first.refusal().condition == "com.microsoft:argument-error"


def test_a_sixth_reader_without_owner_level(server: EventHubServer) -> None:
    with connect(server) as client:
        for _ in range(5):
            client.attach(source=partition())
            client.wait_for(Attach)
        client.attach(source=partition())
        assert client.refusal().condition == "amqp:resource-limit-exceeded"
    deadline = time.monotonic() + 10
    while server.connected() and time.monotonic() < deadline:
        time.sleep(0.02)
    with connect(server) as client:
        client.attach(source=partition())
        assert client.wait_for(Attach)
        assert client.silent(kind=Detach)


def test_runtime_metrics_only_when_desired(server: EventHubServer) -> None:
    server.send("d", [b"a", b"b"])
    with connect(server) as client:
        client.credit(client.attach(source=partition(), desired_capabilities=(RUNTIME_METRIC, "other")), 2)
        assert client.wait_for(Attach).body.offered_capabilities == (RUNTIME_METRIC,)
        [first, _] = client.messages(2)
        assert first.delivery_annotations is not None
        assert first.delivery_annotations["last_enqueued_sequence_number"] == 1
        client.credit(client.attach(source=partition()), 2)
        assert client.wait_for(Attach).body.offered_capabilities is None
        assert client.messages(1)[0].delivery_annotations is None


# --- redirect


@pytest.mark.parametrize(
    ("address", "rest"),
    [
        ("amqps://localhost/messages/events/$management", "$management"),
        ("/messages/events/ConsumerGroups/$Default/Partitions/1", "ConsumerGroups/$Default/Partitions/1"),
    ],
)
def test_redirect_follows_the_attach_in_a_write_of_its_own(server: EventHubServer, address: str, rest: str) -> None:
    with AmqpClient(server.port) as client:
        client.put_token(KEY, audience="localhost")
        client.attach(source=address)
        client.wait_for(Attach)
        assert client.buffer.frame() is None
        error = client.refusal()
        assert error.condition == "amqp:link:redirect"
        assert error.info["hostname"] == error.info["network-host"] == "localhost"
        assert error.info["port"] == server.port
        assert error.info["address"] == f"amqps://localhost:{server.port}/events/{rest}"


# --- slow readers, lost events


def test_a_reader_that_does_not_read_costs_little_and_loses_nothing(server: EventHubServer) -> None:
    """Sending stops when the transport is full, and goes on where it stopped."""
    count, size = 400, 60_000
    with connect(server) as client:
        client.credit(client.attach(source=partition()), 10_000)
        client.wait_for(Attach)
        for start in range(0, count, 50):
            server.send("d", [b"%06d" % number + b"x" * size for number in range(start, start + 50)])
        time.sleep(0.3)
        [connection] = server.call(lambda: list(server.head.connections))
        assert server.call(lambda: not connection.writable)
        assert server.call(connection.transport.get_write_buffer_size) < 2_000_000
        server.send("d", [b"last"])
        assert client.numbers(count + 1) == server.numbers()


def test_a_receiver_whose_events_are_gone_goes_on_with_what_is_kept(tmp_path: Path) -> None:
    with EventHubServer(tmp_path, tail_bytes=0) as server, connect(server) as client:
        server.send("d", [b"x" * 1000 for _ in range(50)])
        receiver = client.attach(source=partition())
        client.credit(receiver, 5)
        assert client.numbers(5) == [0, 1, 2, 3, 4]
        for _ in range(3):
            server.send("d", [b"x" * 1000 for _ in range(50)])
        last = server.numbers()[-1]

        async def forget() -> list[int]:
            log, kept = server.telemetry._log, [0]
            while kept[0] <= last:  # servers of a shared log drop what is too old in their own time
                kept = list(await log.trim(2**60, 200, 10**9))
                await asyncio.sleep(0.05)
            server.telemetry._trimmed(kept)
            return kept

        assert server.run(forget())[0] > last
        server.send("d", [b"after"])
        client.credit(receiver, 100, delivery_count=5, next_incoming_id=5)
        numbers = client.numbers(1)
        while numbers[-1] <= last:
            numbers += client.numbers(1)
        assert numbers[0] == 5
        assert sorted(set(numbers)) == numbers
