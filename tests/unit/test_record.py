"""The stored form of telemetry: what a reader gets is what the device said, behind fresh annotations."""

from __future__ import annotations

import json
from typing import Any

import pytest
from azure.eventhub._pyamqp._decode import decode_payload
from hypothesis import given
from hypothesis import strategies as st

from muster.dialect.property_bag import SYSTEM_NAMES
from muster.dialect.record import deliver, describe, message_head, record, sender_annotations
from muster.wire.amqp.message import decode_message
from muster.wire.amqp.values import Symbol, Timestamp

AUTH = '{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}'
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=400)


def stored(
    body: bytes = b"x",
    system: dict[str, str] | None = None,
    application: dict[str, str | None] | None = None,
    module_id: str | None = None,
    model_id: str | None = None,
) -> bytes:
    sender = sender_annotations(
        device_id="d1", module_id=module_id, auth_method=AUTH, generation_id="637", model_id=model_id
    )
    return record(sender, message_head(system or {}, application or {}), body)


@given(
    st.dictionaries(st.sampled_from([name for name in SYSTEM_NAMES.values() if name]), TEXT),
    st.dictionaries(TEXT, TEXT | st.none(), max_size=6),
    st.binary(max_size=600),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**42),
)
def test_every_message_is_delivered_as_it_was_sent(
    system: dict[str, str], application: dict[str, str | None], body: bytes, sequence: int, moment: int
) -> None:
    message = decode_message(deliver(stored(body, system, application), sequence, moment))
    annotations = message.message_annotations
    assert annotations is not None
    assert annotations["x-opt-sequence-number"] == sequence
    assert annotations["x-opt-offset"] == str(sequence)
    assert annotations["x-opt-enqueued-time"] == annotations["iothub-enqueuedtime"] == moment
    assert annotations["iothub-connection-device-id"] == "d1"
    assert (message.application_properties or {}) == application
    assert message.body == body
    assert len(message.data) == 1
    for name, attribute in {
        "message-id": "message_id",
        "correlation-id": "correlation_id",
        "to": "to",
        "content-type": "content_type",
        "content-encoding": "content_encoding",
    }.items():
        assert getattr(message.properties, attribute, None) == system.get(name)
    for name, annotation in {"interface-id": "iothub-interface-id", "component": "dt-subject"}.items():
        assert annotations.get(annotation) == system.get(name)


def test_annotations_have_the_types_that_clients_need() -> None:
    message = decode_message(deliver(stored(module_id="m1", model_id="dtmi:com:example;1"), 42, 1_700_000_000_000))
    assert message.message_annotations is not None
    assert all(type(name) is Symbol for name in message.message_annotations)
    assert {name: type(value) for name, value in message.message_annotations.items()} == {
        "x-opt-sequence-number": int,
        "x-opt-offset": str,
        "x-opt-enqueued-time": Timestamp,
        "iothub-enqueuedtime": Timestamp,
        "iothub-connection-device-id": str,
        "iothub-connection-module-id": str,
        "iothub-connection-auth-method": str,
        "iothub-connection-auth-generation-id": str,
        "iothub-message-source": str,
        "dt-dataschema": str,
    }
    assert message.message_annotations["iothub-message-source"] == "Telemetry"
    assert message.properties is None
    assert message.application_properties is None


def test_the_event_hubs_client_decodes_it() -> None:
    """By azure-eventhub's own decoder, which indexes without looking at lengths."""
    system = {"message-id": "m1", "user-id": "ü", "content-type": "application/json", "content-encoding": "utf-8"}
    delivered = deliver(stored(b"{}" * 300, system, {"a": "1", "empty": "", "none": None}), 7, 1_700_000_000_000)
    message: Any = decode_payload(memoryview(delivered))
    assert message.message_annotations[b"x-opt-sequence-number"] == 7
    assert message.message_annotations[b"x-opt-offset"] == b"7"
    assert message.message_annotations[b"x-opt-enqueued-time"] == 1_700_000_000_000
    assert message.properties.message_id == b"m1"
    assert message.properties.user_id == "ü".encode()
    assert message.properties.content_type == b"application/json"
    assert message.application_properties == {b"a": b"1", b"empty": b"", b"none": None}
    assert message.data == [b"{}" * 300]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2030-01-02T03:04:05.0000000Z", 1_893_553_445_000),
        ("2030-01-02T03:04:05.678Z", 1_893_553_445_678),
        ("2030-01-02T03:04:05", 1_893_553_445_000),
        ("2030-01-02T05:04:05+02:00", 1_893_553_445_000),
    ],
)
def test_expiry_becomes_a_timestamp(text: str, milliseconds: int) -> None:
    message = decode_message(deliver(stored(system={"absolute-expiry-time": text}), 0, 0))
    assert message.properties is not None
    assert message.properties.absolute_expiry_time == milliseconds


def test_an_expiry_that_is_no_time_is_kept_as_text() -> None:
    message = decode_message(deliver(stored(system={"absolute-expiry-time": "soon"}), 0, 0))
    assert message.properties is None
    assert message.message_annotations is not None
    assert message.message_annotations["absolute-expiry-time"] == "soon"


def test_a_system_property_without_a_place_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        message_head({"no-such-name": "x"}, {})


def test_description_is_json() -> None:
    described = describe(stored(b"\xff\x00", {"user-id": "u", "component": "c"}, {"p": None}, "m1"), 3, 1_500)
    assert json.loads(json.dumps(described)) == described
    assert described["sequence_number"] == 3
    assert described["offset"] == "3"
    assert described["enqueued_time"] == "1970-01-01T00:00:01.5000000Z"
    assert (described["device_id"], described["module_id"]) == ("d1", "m1")
    assert described["annotations"]["dt-subject"] == "c"
    assert described["system_properties"] == {"user-id": "u"}
    assert described["properties"] == {"p": None}
    assert (described["body"], described["body_encoding"]) == ("/wA=", "base64")
    assert describe(stored(b"hi"), 3, 0)["body"] == "hi"
