"""Getting in over AMQP, frame by frame: SASL, tokens, addresses, management, and the connection's own rules."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp_client import AmqpClient, partition
from eventhub_server import ENTITY, POLICIES, EventHubServer, connect

from muster.core.amqp_limits import AMQP_IDLE
from muster.core.errors import UNAVAILABLE
from muster.core.limits import CONNECT_WAIT
from muster.identity.sas import decode_key, make
from muster.testing.clock import VirtualAmbient
from muster.wire.amqp.frames import EMPTY
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import (
    Attach,
    Close,
    Detach,
    Disposition,
    Rejected,
    Transfer,
)
from muster.wire.amqp.sasl import SaslInit
from muster.wire.amqp.values import Int, ULong

KEY = POLICIES["service"].primary_key
RUNTIME_METRIC = "com.microsoft:enable-receiver-runtime-metric"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EventHubServer]:
    with EventHubServer(tmp_path) as server:
        yield server


# --- getting in


@pytest.mark.parametrize("mechanism", [None, "ANONYMOUS", "MSSBCBS", "EXTERNAL"])
@pytest.mark.parametrize("message_id", [ULong(0), "text", uuid.UUID(int=5)])
def test_put_token_answers_with_the_ids_type(server: EventHubServer, mechanism: str | None, message_id: Any) -> None:
    with AmqpClient(server.port, sasl=SaslInit(mechanism, b"\0service") if mechanism else None) as client:
        reply = client.put_token(KEY, message_id=message_id)
    assert reply.properties is not None
    assert type(reply.properties.correlation_id) is type(message_id)
    assert reply.properties.correlation_id == message_id
    assert reply.application_properties == {"status-code": 200, "status-description": "OK"}
    assert type(reply.application_properties["status-code"]) is Int


@pytest.mark.parametrize("audience", ["sb://localhost/events", "localhost", "https://localhost", "sb://127.0.0.1:1/"])
def test_audiences_that_reach_the_entity(server: EventHubServer, audience: str) -> None:
    server.send("d", [b"a"])
    with AmqpClient(server.port) as client:
        client.put_token(KEY, audience=audience)
        client.credit(client.attach(source=partition()), 1)
        assert client.numbers(1) == [0]


def test_a_token_for_one_partition_opens_no_other(server: EventHubServer) -> None:
    server.send("d", [b"a"])
    with AmqpClient(server.port) as client:
        client.put_token(KEY, audience="sb://localhost/events/consumergroups/$default/partitions/0")
        client.attach(source=partition(1))
        assert client.refusal().condition == "amqp:unauthorized-access"
        client.credit(client.attach(source=partition(0)), 1)
        assert client.numbers(1) == [0]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"key": "wrong"}, 401),
        ({"key": KEY, "policy": "nobody"}, 401),
        ({"key": POLICIES["device"].primary_key, "policy": "device"}, 401),
        ({"key": KEY, "seconds": -3600}, 401),
    ],
)
def test_tokens_that_are_refused(server: EventHubServer, options: dict[str, Any], status: int) -> None:
    with AmqpClient(server.port) as client:
        reply = client.put_token(options.pop("key"), **options)
        properties = reply.application_properties or {}
        assert properties["status-code"] == status
        tracking = properties["status-description"].rpartition("TrackingId:")[2]
        kept = server.run(server.refusals.find(tracking))
        assert kept is not None
        assert kept.report["cause"]
        client.attach(source=partition())
        assert client.refusal().condition == "amqp:unauthorized-access"


def test_what_is_no_put_token(server: EventHubServer) -> None:
    with AmqpClient(server.port) as client:
        reply = client.request("$cbs", Message(application_properties={"operation": "delete"}, value="x"))
        assert (reply.application_properties or {})["status-code"] == 400
        sender = client.attach(target="$cbs")
        client.wait_for(Attach)
        client.send(Transfer(sender, 1, b"x", 0, False), b"junk")
        outcome = client.wait_for(Disposition).body
        assert isinstance(outcome.state, Rejected)
        assert outcome.settled


@pytest.mark.parametrize(
    ("user", "outcome"),
    [
        ("service@sas.root.localhost", 0),
        ("service@SAS.root.LOCALHOST", 0),
        ("iothubowner@sas.root.localhost", 1),
        ("service@sas.root.elsewhere", 1),
        ("service", 1),
    ],
)
def test_sasl_plain(server: EventHubServer, user: str, outcome: int) -> None:
    server.send("d", [b"a"])
    key = decode_key(KEY)
    assert key is not None
    token = make("localhost", int(time.time()) + 60, key, "service")
    with AmqpClient(server.port, sasl=SaslInit("PLAIN", f"\0{user}\0{token}".encode(), "localhost")) as client:
        assert client.outcome == outcome
        if outcome:
            assert client.hung_up()
        else:
            client.credit(client.attach(source=partition()), 1)
            assert client.numbers(1) == [0]


@pytest.mark.parametrize("response", [b"", b"\0user", b"\0\xff\0x"])
def test_malformed_plain_is_refused(server: EventHubServer, response: bytes) -> None:
    with AmqpClient(server.port, sasl=SaslInit("PLAIN", response)) as client:
        assert client.outcome == 1


@pytest.mark.parametrize("address", [partition(), "$management", "events/$management", "anything"])
def test_without_a_token_only_cbs_may_be_attached(server: EventHubServer, address: str) -> None:
    with AmqpClient(server.port) as client:
        client.attach(source=address)
        error = client.refusal()
        assert error.condition == "amqp:unauthorized-access"
        tracking = error.info["com.microsoft:tracking-id"]
        assert server.run(server.refusals.find(tracking)).report["cause"] == "link-scope"
        client.attach(source="$cbs")
        assert client.wait_for(Attach).body.source.address == "$cbs"


def test_an_expired_token_ends_its_links_and_a_renewed_one_does_not(tmp_path: Path) -> None:
    clock = VirtualAmbient(time.time())
    with EventHubServer(tmp_path, clock=clock) as server, AmqpClient(server.port) as client:
        client.put_token(KEY, now=clock.now(), seconds=100)
        receiver = client.attach(source=partition())
        client.credit(receiver, 10)
        client.put_token(KEY, now=clock.now(), seconds=1000)
        server.call(lambda: clock.advance(900))
        server.send("d", [b"a"])
        assert client.numbers(1) == [0]
        server.call(lambda: clock.advance(500))
        detach = client.wait_for(Detach).body
        assert (detach.handle, detach.closed, detach.error.condition) == (receiver, True, "amqp:unauthorized-access")
        client.attach(source=partition())
        assert client.refusal().condition == "amqp:unauthorized-access"


# --- where there is nothing


@pytest.mark.parametrize(
    ("address", "condition"),
    [
        (partition(2), "com.microsoft:argument-out-of-range"),
        (partition("x"), "com.microsoft:argument-out-of-range"),
        (partition("-1"), "com.microsoft:argument-out-of-range"),
        (partition(group="unknown"), "amqp:not-found"),
        (partition(entity="other"), "amqp:not-found"),
        ("events", "amqp:not-found"),
        ("devices/d/messages/nothing", "amqp:not-found"),
    ],
)
def test_addresses_that_lead_nowhere(server: EventHubServer, address: str, condition: str) -> None:
    with AmqpClient(server.port) as client:
        client.put_token(KEY, audience="localhost")
        client.attach(source=address)
        assert client.refusal().condition == condition


def test_nobody_sends_to_the_entity(server: EventHubServer) -> None:
    with connect(server) as client:
        client.attach(target="events")
        assert client.refusal().condition == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    "address",
    [
        "amqps://localhost/events/ConsumerGroups/$Default/Partitions/0",
        "amqps://localhost:5671/EVENTS/consumergroups/$DEFAULT/partitions/0",
        "/events/ConsumerGroups/%24default/Partitions/0/",
    ],
)
def test_spellings_of_an_address(server: EventHubServer, address: str) -> None:
    server.send("d", [b"a"])
    with connect(server) as client:
        client.credit(client.attach(source=address), 1)
        assert client.wait_for(Attach).body.source.address == address
        assert client.numbers(1) == [0]


# --- management


def ask(client: AmqpClient, node: str = "$management", **properties: Any) -> Message:
    return client.request(node, Message(properties=Properties(message_id="q"), application_properties=properties))


@pytest.mark.parametrize("node", ["$management", "events/$management", "amqps://localhost/Events/$Management"])
def test_management_reads(server: EventHubServer, node: str) -> None:
    server.send("d", [b"a", b"b"])
    with connect(server) as client:
        hub = ask(client, node, operation="READ", type="com.microsoft:eventhub", name=ENTITY)
        part = ask(client, node, operation="READ", type="com.microsoft:partition", name=ENTITY, partition="0")
    assert hub.value["partition_count"] == 2
    assert hub.properties is not None
    assert hub.properties.correlation_id == "q"
    assert part.value["last_enqueued_sequence_number"] == 1


@pytest.mark.parametrize(
    ("properties", "status", "condition"),
    [
        ({"type": "com.microsoft:eventhub", "name": "other"}, 404, "amqp:not-found"),
        (
            {"type": "com.microsoft:partition", "name": ENTITY, "partition": "9"},
            400,
            "com.microsoft:argument-out-of-range",
        ),
        ({"type": "com.microsoft:partition", "name": ENTITY}, 400, "com.microsoft:argument-out-of-range"),
    ],
)
def test_management_errors(server: EventHubServer, properties: dict[str, Any], status: int, condition: str) -> None:
    with connect(server) as client:
        reply = ask(client, operation="READ", **properties).application_properties or {}
    assert (reply["status-code"], reply["error-condition"]) == (status, condition)
    assert reply["status-description"]


def test_an_unknown_operation_is_rejected(server: EventHubServer) -> None:
    with connect(server) as client:
        sender = client.attach(target="$management")
        client.wait_for(Attach)
        client.send(Transfer(sender, 1, b"x", 0, False), b"\x00\x53\x77\x40")
        state = client.wait_for(Disposition).body.state
        assert isinstance(state, Rejected)
        assert state.error is not None
        assert state.error.condition == "amqp:not-allowed"


def test_answers_go_where_they_are_wanted_and_wait_for_credit(server: EventHubServer) -> None:
    """Several reply links on several sessions; the reply-to is the target or the name of one of them."""
    with connect(server) as client:
        for channel in (1, 2):
            client.attach(source="$management", target=f"to-{channel}", channel=channel)
            client.wait_for(Attach)
        sender = client.attach(target="$management", channel=1)
        client.wait_for(Attach)
        request = Message(
            properties=Properties(message_id=1, reply_to="to-2"),
            application_properties={"operation": "READ", "type": "com.microsoft:eventhub", "name": ENTITY},
        )
        client.send(Transfer(sender, 0, b"x", 0, True), encode_message(request), channel=1)
        client.send(
            Transfer(sender, 1, b"y", 0, True),
            encode_message(request._replace(properties=Properties(message_id=2))),
            channel=1,
        )
        assert client.silent()
        client.credit(sender - 2, 5, channel=1)
        assert client.wait_for(Transfer).channel == 1
        client.credit(sender - 1, 5, channel=2)
        came = client.wait_for(Transfer)
        assert (came.channel, came.body.delivery_id) == (2, 0)


# --- the connection


def test_heartbeats_keep_a_demanding_client(server: EventHubServer) -> None:
    with connect(server, idle_time_out=1000) as client:
        assert client.open.idle_time_out == 240_000
        for _ in range(2):
            client.wait_for(type(None), 3)
            client.socket.sendall(EMPTY)


def test_a_client_that_falls_silent_is_closed(server: EventHubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.heads.amqp_heartbeat.AMQP_IDLE", AMQP_IDLE._replace(open=1))
    with connect(server) as lively, connect(server) as silent:
        for _ in range(8):
            lively.socket.sendall(EMPTY)
            time.sleep(0.2)
        error = silent.wait_for(Close).body.error
        assert error.condition == "amqp:connection:forced"
        assert "inactive for more than the allowed 1000 milliseconds" in error.description
        lively.attach(source=partition())
        assert lively.wait_for(Attach)


def test_who_never_authenticates_is_closed(server: EventHubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.heads.amqp.CONNECT_WAIT", CONNECT_WAIT._replace(open=0.3))
    with AmqpClient(server.port) as client, connect(server) as authenticated:
        assert client.wait_for(Close).body.error.condition == "amqp:unauthorized-access"
        assert authenticated.silent(0.5, Close)
    with socket.create_connection(("127.0.0.1", server.port), 10) as mute:
        assert mute.recv(10) == b""


def test_no_heartbeats_unasked(server: EventHubServer) -> None:
    with connect(server) as client:
        assert client.silent(1.2, type(None))


def test_close_is_answered(server: EventHubServer) -> None:
    with connect(server) as client:
        client.attach(source=partition())
        client.send(Close())
        assert client.wait_for(Close).body.error is None
        assert client.hung_up()


def test_a_breach_of_protocol_is_named_and_ends_it(server: EventHubServer) -> None:
    with connect(server) as client:
        client.socket.sendall(b"\x00\x00\x00\x09\x02\x00\x00\x00\xff")
        assert client.wait_for(Close).body.error.condition == "amqp:decode-error"
        assert client.hung_up()


def test_draining_says_so(server: EventHubServer) -> None:
    with connect(server) as client:
        server.call(lambda: server.head.end_all(UNAVAILABLE))
        assert client.wait_for(Close).body.error.condition == "com.microsoft:server-busy"
        assert client.hung_up()
