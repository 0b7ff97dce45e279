"""Anything at all may come over AMQP: it is refused with a reason, never with an internal error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp_client import FILTER, AmqpClient, partition
from eventhub_server import ENTITY, EventHubServer, connect
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.wire.amqp.message import NO_VALUE, Message, Properties, encode_message
from muster.wire.amqp.performatives import Attach, Close, Source, Target, Transfer
from muster.wire.amqp.values import Symbol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wire"))
from amqp_values import VALUES

WORDS = st.sampled_from(
    [
        "$cbs", "$management", ENTITY, "amqps://", "localhost", ":5671", "ConsumerGroups", "$Default", "Partitions",
        "0", "1", "9", "messages", "events", "%", "%24", "\x00", "é",
    ]
)  # fmt: skip
ADDRESSES = st.one_of(st.lists(WORDS, max_size=7).map("/".join), VALUES, st.just(partition()))
NAMES = st.sampled_from(["operation", "type", "name", "partition", "security_token"])
TEXTS = st.sampled_from(
    ["READ", "put-token", "com.microsoft:eventhub", "com.microsoft:partition", ENTITY, "0", "sb://localhost/events"]
)
PROPERTIES = st.dictionaries(
    st.sampled_from(["com.microsoft:epoch", "com.microsoft:receiver-name", "com.microsoft:timeout"]).map(Symbol), VALUES
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventHubServer]:
    with EventHubServer(tmp_path_factory.mktemp("input")) as server:
        server.send("d", [b"a"])
        yield server


def finish(client: AmqpClient) -> None:
    """Close and see that nothing on the way there was the hub's own fault."""
    client.send(Close())
    try:
        while (came := client.next()) is not None:
            error = getattr(came.body, "error", None) or getattr(getattr(came.body, "state", None), "error", None)
            assert error is None or error.condition != "amqp:internal-error", error
    except ConnectionError:
        return


QUIET = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUIET
@given(ADDRESSES, st.booleans(), PROPERTIES, st.none() | VALUES)
def test_attaches(server: EventHubServer, address: Any, receiving: bool, properties: Any, selector: Any) -> None:
    with connect(server) as client:
        filters = {} if selector is None else {FILTER: selector}
        if receiving:
            client.attach(source=Source(address, filter=filters), target=Target(address), properties=properties)
        else:
            client.attach(source=Source(address), target=Target(address), properties=properties)
        finish(client)


@QUIET
@given(
    st.sampled_from(["$cbs", "$management"]),
    st.dictionaries(NAMES, TEXTS | VALUES),
    st.lists(VALUES, min_size=2, max_size=2),
    VALUES | st.just(NO_VALUE),
)
def test_requests(server: EventHubServer, node: str, application: Any, ids: list[Any], value: Any) -> None:
    with connect(server) as client:
        client.credit(client.attach(source=node), 10)
        sender = client.attach(target=node)
        client.wait_for(Attach)
        client.wait_for(Attach)
        message = Message(
            properties=Properties(message_id=ids[0], reply_to=ids[1]), application_properties=application, value=value
        )
        client.send(Transfer(sender, 1, b"x", 0, False), encode_message(message))
        finish(client)


@QUIET
@given(st.binary(max_size=200))
def test_payloads(server: EventHubServer, payload: bytes) -> None:
    with connect(server) as client:
        sender = client.attach(target="$cbs")
        client.wait_for(Attach)
        client.send(Transfer(sender, 1, b"x", 0, False), payload)
        finish(client)
