"""Every spelling in which Event Hubs clients ask for something."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.amqp import PutToken, address_path, parse_put_token, same_words, status_reply, to_error
from muster.dialect.eventhubs import (
    Position,
    Start,
    hub_information,
    owner_level,
    parse_selector,
    partition_address,
    partition_information,
    receiver_name,
    redirect,
    runtime_metrics,
    start_position,
)
from muster.messages.contract import PartitionState
from muster.wire.amqp.encoding import encode
from muster.wire.amqp.message import Message, Properties, decode_message
from muster.wire.amqp.performatives import Attach, Source
from muster.wire.amqp.values import Described, Int, Symbol, Timestamp, ULong

FILTER = Symbol("apache.org:selector-filter:string")


@pytest.mark.parametrize(
    "address",
    [
        "amqps://localhost/hub/ConsumerGroups/$Default/Partitions/3",
        "amqps://localhost:5671/hub/ConsumerGroups/$Default/Partitions/3",
        "amqp://user@[::1]:5672/hub/consumergroups/$Default/partitions/3",
        "hub/ConsumerGroups/$Default/Partitions/3",
        "/hub/CONSUMERGROUPS/%24Default/PARTITIONS/3/",
    ],
)
def test_partition_addresses(address: str) -> None:
    assert partition_address(address_path(address)) == ("hub", "$Default", "3")


@pytest.mark.parametrize(
    "address",
    [None, 5, "", "/", "hub", "$management", "hub/ConsumerGroups/g", "hub/Groups/g/Partitions/1", "amqps://hub"],
)
def test_other_addresses(address: object) -> None:
    assert partition_address(address_path(address)) is None


def test_entities_may_have_slashes() -> None:
    path = address_path("amqps://h/messages/events/ConsumerGroups/g/Partitions/1")
    assert partition_address(path) == ("messages/events", "g", "1")
    assert same_words(address_path("Hub/$Management"), "hub", "$management")


NAMES = {
    "x-opt-offset": Start.SEQUENCE,
    "x-opt-sequence-number": Start.SEQUENCE,
    "x-opt-enqueued-time": Start.TIME,
    "x-opt-enqueuedtimeutc": Start.TIME,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("quote", ["'", '"', ""])
@pytest.mark.parametrize("inclusive", [True, False])
def test_selectors(name: str, quote: str, inclusive: bool) -> None:
    operator = ">=" if inclusive else ">"
    for text in (
        f"amqp.annotation.{name} {operator} {quote}42{quote}",
        f"  AMQP.Annotation.{name.upper()}{operator}{quote}42{quote} ",
    ):
        assert parse_selector(text) == Position(NAMES[name], 42, inclusive)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("amqp.annotation.x-opt-offset > '-1'", Position(Start.BEGINNING)),
        ("amqp.annotation.x-opt-offset >= '-1'", Position(Start.BEGINNING)),
        ("amqp.annotation.x-opt-offset > -1", Position(Start.BEGINNING)),
        ("amqp.annotation.x-opt-sequence-number > '-1'", Position(Start.BEGINNING)),
        ("amqp.annotation.x-opt-offset > '@latest'", Position(Start.END)),
        ("amqp.annotation.x-opt-offset >= '@latest'", Position(Start.END)),
        ("amqp.annotation.x-opt-offset > @latest", Position(Start.END)),
        ("amqp.annotation.x-opt-enqueuedTimeUtc > 1700000000000", Position(Start.TIME, 1_700_000_000_000)),
        ("amqp.annotation.x-opt-enqueued-time > '-62135596800000'", Position(Start.TIME, -62_135_596_800_000)),
    ],
)
def test_special_selectors(text: str, position: Position) -> None:
    assert parse_selector(text) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x-opt-offset > '1'",
        "amqp.annotation.x-opt-offset < '1'",
        "amqp.annotation.x-opt-offset > no offset",
        "amqp.annotation.x-opt-offset > ''",
        "amqp.annotation.x-opt-offset > '1",
        "amqp.annotation.x-opt-offset > '1' AND true",
        "amqp.annotation.x-opt-sequence-number > '@latest'",
        "amqp.annotation.x-opt-publisher > '1'",
        "amqp.annotation.x-opt-offset > '99999999999999999999'",
        "amqp.annotation.x-opt-offset > '9223372036854775808'",
    ],
)
def test_selectors_that_are_refused(text: str) -> None:
    with pytest.raises(HubError, match="filter") as caught:
        parse_selector(text)
    assert caught.value.row is ARGUMENT_INVALID


@given(st.text(max_size=200) | st.text(max_size=60).map(lambda text: f"amqp.annotation.x-opt-offset > {text}"))
def test_any_selector_is_read_or_refused(text: str) -> None:
    with suppress(HubError):
        position = parse_selector(text)
        assert position.start is not Start.END or "@latest" in text.lower()


@pytest.mark.parametrize("descriptor", [FILTER, ULong(0x468C00000004), None])
def test_filters_by_symbol_by_number_or_bare(descriptor: Any) -> None:
    text = "amqp.annotation.x-opt-sequence-number > '5'"
    value = text if descriptor is None else Described(descriptor, text)
    assert start_position(Source("a", filter={FILTER: value})) == Position(Start.SEQUENCE, 5)


def test_without_a_filter_from_the_beginning() -> None:
    for source in (None, Source("a"), Source("a", filter={}), Source("a", filter={Symbol("other"): 1})):
        assert start_position(source) == Position(Start.BEGINNING)


def test_filters_of_another_kind() -> None:
    for value in (5, {}, Described(FILTER, [1])):
        with pytest.raises(HubError) as caught:
            start_position(Source("a", filter={FILTER: value}))
        assert caught.value.row.condition == "amqp:not-allowed"


def attach(properties: dict[Any, Any] | None) -> Attach:
    return Attach("link", 0, True, properties=properties)


def test_link_properties() -> None:
    assert owner_level(attach(None)) is None
    assert owner_level(attach({Symbol("com.microsoft:epoch"): 0})) == 0
    assert owner_level(attach({Symbol("com.microsoft:epoch"): ULong(7), Symbol("com.microsoft:timeout"): 0})) == 7
    for wrong in ("7", True, -1):
        with pytest.raises(HubError):
            owner_level(attach({Symbol("com.microsoft:epoch"): wrong}))
    assert receiver_name(attach({Symbol("com.microsoft:receiver-name"): "me"})) == "me"
    assert receiver_name(attach({})) == "link"


# --- answers


def test_answers_have_the_types_that_clients_need() -> None:
    hub = hub_information("hub", 1_700_000_000.5, 2)
    assert [type(hub[key]).__name__ for key in ("name", "created_at", "partition_count")] == ["str", "Timestamp", "Int"]
    assert list(hub["partition_ids"]) == ["0", "1"]
    assert hub["created_at"] == 1_700_000_000_500
    partition = partition_information("hub", 1, PartitionState(10, 20, 1500))
    assert partition["partition"] == "1"
    assert [type(partition[key]) for key in ("begin_sequence_number", "last_enqueued_sequence_number")] == [int, int]
    assert partition["last_enqueued_offset"] == "19"
    assert type(partition["last_enqueued_time_utc"]) is Timestamp
    assert partition["is_partition_empty"] is False
    empty = partition_information("hub", 1, PartitionState(0, 0, 0))
    assert [empty[key] for key in ("begin_sequence_number", "last_enqueued_sequence_number", "is_partition_empty")] == [
        0,
        -1,
        True,
    ]
    assert empty["last_enqueued_offset"] == "-1"
    encode(hub)
    encode(partition)


def test_runtime_metrics_are_a_section() -> None:
    annotations = decode_message(runtime_metrics(PartitionState(0, 5, 1500), 2000)).delivery_annotations
    assert annotations == {
        "last_enqueued_sequence_number": 4,
        "last_enqueued_offset": "4",
        "last_enqueued_time_utc": 1500,
        "runtime_info_retrieval_time_utc": 2000,
    }


def test_redirect_always_names_the_port() -> None:
    error = redirect("host", 5671, "hub", ("$management",))
    assert error.condition == "amqp:link:redirect"
    assert error.info == {
        "hostname": "host",
        "network-host": "host",
        "port": 5671,
        "address": "amqps://host:5671/hub/$management",
    }


@pytest.mark.parametrize("message_id", [ULong(0), "text", b"bytes", None])
def test_replies_repeat_the_id_with_its_type(message_id: Any) -> None:
    reply = status_reply(Message(properties=Properties(message_id=message_id)), 200, "OK", value=None)
    assert reply.properties is not None
    assert type(reply.properties.correlation_id) is type(message_id)
    assert reply.application_properties == {"status-code": 200, "status-description": "OK"}
    assert type(reply.application_properties["status-code"]) is Int
    assert reply.value is None
    assert status_reply(
        Message(), 404, "x", application_properties={"error-condition": "c"}
    ).application_properties == {
        "status-code": 404,
        "status-description": "x",
        "error-condition": "c",
    }


def test_errors_carry_code_and_tracking_id() -> None:
    error = to_error(HubError(ARGUMENT_INVALID, "why", tracking_id="abc"))
    assert error.condition == "com.microsoft:argument-error"
    assert error.description == "why TrackingId:abc"
    assert error.info == {"com.microsoft:error-code": 400004, "com.microsoft:tracking-id": "abc"}


@pytest.mark.parametrize(
    ("name", "host", "audience"),
    [
        ("sb://localhost/hub/consumergroups/$Default", "localhost", ("hub", "consumergroups", "$Default")),
        ("sb://localhost:5672/hub", "localhost:5672", ("hub",)),
        ("sb%3A%2F%2Flocalhost%2Fhub", "localhost", ("hub",)),
        ("https://localhost", "localhost", ()),
        ("amqps://localhost:5671/", "localhost:5671", ()),
        ("localhost", "localhost", ()),
        ("localhost%2Fdevices%2Fdev1", "localhost", ("devices", "dev1")),
        ("localhost/devices/dev1", "localhost", ("devices", "dev1")),
        ("hub/consumergroups/g", "", ("hub", "consumergroups", "g")),
        (None, "", ()),
    ],
)
def test_put_token(name: str | None, host: str, audience: tuple[str, ...]) -> None:
    properties = {"operation": "put-token", "type": "anything", "name": name}
    asked = parse_put_token(Message(application_properties=properties, value="SharedAccessSignature x"), known)
    assert asked == PutToken("SharedAccessSignature x", audience, host)
    assert "SharedAccessSignature" not in repr(asked)


def known(host: str) -> bool:
    return host == "localhost"


@pytest.mark.parametrize(
    "request_",
    [
        Message(value="t"),
        Message(application_properties={"operation": "delete-token"}, value="t"),
        Message(application_properties={"operation": "put-token"}, value=b"t"),
        Message(application_properties={"operation": "put-token"}, data=(b"t",)),
    ],
)
def test_requests_that_are_no_put_token(request_: Message) -> None:
    with pytest.raises(HubError) as caught:
        parse_put_token(request_, known)
    assert caught.value.row is ARGUMENT_INVALID
