"""What AMQP devices send, on its way into the stored form: whatever comes is refused, or every receiver can read it."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub._pyamqp._decode import decode_payload
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import HubError
from muster.core.limits import BATCH_MESSAGES, MESSAGE_BYTES, Profile
from muster.dialect.amqp_telemetry import TelemetryReader, _rewritten
from muster.dialect.record import deliver, describe, sender_annotations
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.message import NO_VALUE, Header, Message, Properties, decode_message, encode_message
from muster.wire.amqp.values import Char, Decimal32, Int, Symbol, Timestamp, UByte, ULong

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wire"))
from amqp_values import VALUES, shape

SENDER = sender_annotations(device_id="d", module_id=None, auth_method="{}", generation_id="1")
IDS = st.none() | st.text(max_size=40) | st.uuids() | st.binary(max_size=20) | st.integers(0, 2**64 - 1).map(ULong)
TEXTS = st.none() | st.text(max_size=300)
MOMENTS = st.none() | st.integers(0, 2**40).map(Timestamp)
SIMPLE = st.one_of(
    st.none(), st.booleans(), st.text(max_size=300), st.integers(-5, 2**40), st.binary(max_size=9), st.uuids(),
    st.integers(-9, 9).map(Int), st.integers(0, 255).map(UByte), st.floats(allow_nan=False),
)  # fmt: skip
PROPERTIES = st.builds(
    Properties, message_id=IDS, user_id=st.none() | st.binary(max_size=300), to=TEXTS, subject=TEXTS, reply_to=TEXTS,
    correlation_id=IDS, content_type=TEXTS, content_encoding=TEXTS, absolute_expiry_time=MOMENTS,
    creation_time=MOMENTS, group_id=TEXTS, group_sequence=st.none() | st.integers(0, 9), reply_to_group_id=TEXTS,
)  # fmt: skip
MESSAGES = st.builds(
    Message,
    header=st.sampled_from([None, Header(), Header(durable=True, priority=1, ttl=9, delivery_count=2)]),
    delivery_annotations=st.none() | st.dictionaries(st.text(max_size=5).map(Symbol), SIMPLE, max_size=2),
    message_annotations=st.none(),
    properties=st.none() | PROPERTIES,
    application_properties=st.none() | st.dictionaries(st.text(max_size=20), SIMPLE, max_size=5),
    data=st.lists(st.binary(max_size=300), min_size=1, max_size=3).map(tuple),
    sequences=st.just(()),
    value=st.just(NO_VALUE),
    footer=st.none() | st.dictionaries(st.text(max_size=5).map(Symbol), SIMPLE, max_size=2),
)


def stored(payload: bytes, reader: TelemetryReader | None = None) -> Message:
    """What a receiver gets, as our own decoder and azure-eventhub's have it."""
    record = SENDER + (reader or TelemetryReader()).read(payload)
    delivered = deliver(record, 5, 1000)
    decode_payload(memoryview(delivered))
    describe(record, 5, 1000)
    return decode_message(delivered)


@given(MESSAGES)
def test_all_that_a_device_says_arrives_as_it_said_it(message: Message) -> None:
    got = stored(encode_message(message))
    assert b"".join(got.data) == b"".join(message.data)
    assert shape(tuple(got.properties or Properties())) == shape(tuple(message.properties or Properties()))
    assert shape(got.application_properties or {}) == shape(message.application_properties or {})
    assert (got.header, got.delivery_annotations, got.footer) == (None, None, None)


@given(MESSAGES)
def test_the_short_way_and_the_long_one_come_to_the_same(message: Message) -> None:
    payload = encode_message(message)
    short = decode_message(deliver(SENDER + TelemetryReader().read(payload), 1, 1))
    long = decode_message(deliver(SENDER + _rewritten(payload), 1, 1))
    assert short.body == long.body
    assert shape(tuple(short.properties or Properties())) == shape(tuple(long.properties or Properties()))
    assert shape(short.application_properties or {}) == shape(long.application_properties or {})


@given(MESSAGES.map(encode_message), st.data())
def test_a_message_that_was_changed_is_refused_or_every_receiver_reads_it(payload: bytes, data: st.DataObject) -> None:
    changed = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255) | st.sampled_from(sorted(set(payload))))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    try:
        stored(bytes(changed))
    except (AmqpDecodeError, HubError):
        return


@given(st.binary(max_size=100), st.sampled_from([b"\x00\x53\x73\xc0", b"\x00\x53\x74\xd1", b"\x00\x53\x75\xa0", b""]))
def test_anything_at_all_is_refused_or_every_receiver_reads_it(junk: bytes, beginning: bytes) -> None:
    try:
        stored(beginning + junk)
    except (AmqpDecodeError, HubError):
        return


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=3))
def test_values_that_a_receiver_cannot_read_are_refused(application: dict[Any, Any]) -> None:
    try:
        stored(encode_message(Message(application_properties=application, data=(b"",))))
    except HubError as error:
        problem = error.message
    else:
        return
    assert "send text or a number" in problem


@pytest.mark.parametrize("value", [[1], {"a": 1}, Char("x"), Decimal32(b"\0" * 4)])
def test_a_value_that_is_refused_is_named(value: Any) -> None:
    with pytest.raises(HubError, match="temperature is a"):
        stored(encode_message(Message(application_properties={"temperature": value}, data=(b"",))))


def test_other_ways_to_write_a_message_are_understood() -> None:
    """Symbolic and long descriptors, a wide list, no body at all."""
    data = b"\x00\xa3\x10amqp:data:binary\xa0\x01x"
    assert stored(data).body == b"x"
    assert stored(b"\x00\x80\x00\x00\x00\x00\x00\x00\x00\x75\xa0\x01x").body == b"x"
    assert stored(b"\x00\x53\x70\x45" + b"\x00\x53\x75\xa0\x01x").body == b"x"
    assert stored(
        b"\x00\x53\x73\xd0\x00\x00\x00\x07\x00\x00\x00\x01\xa1\x01m\x00\x53\x75\xa0\x01x"
    ).properties == Properties("m")
    assert stored(b"").body == b""
    assert stored(encode_message(Message(properties=Properties("m")))).properties == Properties("m")


def test_what_was_seen_last_is_compared_and_never_mixed_up() -> None:
    reader = TelemetryReader()
    for number in (1, 1, 2, 1):
        message = Message(properties=Properties(str(number)), application_properties={"n": number}, data=(b"x",))
        got = stored(encode_message(message), reader)
        assert (got.application_properties, got.properties) == ({"n": number}, Properties(str(number)))


def test_the_size_counts_what_the_device_says_and_not_how_it_is_written() -> None:
    most = MESSAGE_BYTES.open
    properties, application = Properties("m" * 10, content_type="c" * 10), {"name": "v" * 10}
    room = most - 34
    fits = Message(properties=properties, application_properties=application, data=(b"x" * room,))
    assert len(stored(encode_message(fits)).body) == room
    with pytest.raises(HubError, match="over 262144 bytes"):
        stored(encode_message(fits._replace(data=(b"x" * (room + 1),))))


@pytest.mark.parametrize("moment", [-(2**63), -1, 253_402_300_800_000, 2**63 - 1])
def test_a_time_that_no_calendar_has_is_a_number_where_messages_are_shown(moment: int) -> None:
    payload = encode_message(Message(properties=Properties(creation_time=moment), data=(b"",)))
    shown = describe(SENDER + TelemetryReader().read(payload), 5, 1000)
    assert shown["system_properties"]["creation-time"] == moment


def test_a_batch_may_be_as_large_as_a_message() -> None:
    reader = TelemetryReader()
    part = encode_message(Message(data=(b"x" * 65_536,)))
    assert len(reader.read_batch(encode_message(Message(data=(part,) * 4)), Profile.OPEN)) == 4
    with pytest.raises(HubError, match="over 262144 bytes"):
        reader.read_batch(encode_message(Message(data=(part,) * 5)), Profile.OPEN)
    with pytest.raises(HubError, match="no message"):
        reader.read_batch(b"", Profile.OPEN)


@pytest.mark.parametrize("profile", Profile)
def test_a_batch_holds_a_bounded_number_of_messages(profile: Profile) -> None:
    part, most = b"\x00\x53\x75\xa0\x05\x00\x53\x75\xa0\x00", BATCH_MESSAGES.under(profile)
    assert len(TelemetryReader().read_batch(part * most, profile)) == most
    with pytest.raises(HubError, match=f"send {most} at most"):
        TelemetryReader().read_batch(part * (most + 1), profile)


def test_forged_annotations_and_properties_are_left_out() -> None:
    message = Message(
        message_annotations={
            Symbol("iothub-connection-device-id"): "x", Symbol("x-opt-offset"): "1", Symbol("dt-subject"): "part",
            Symbol("iothub-interface-id"): "i", Symbol("iothub-message-source"): "x",
        },
        application_properties={
            "iothub-connection-module-id": "x", "iothub-outputname": "out", "iothub-message-schema": "s",
            "iothub-creation-time-utc": "now", "iothub-ack": "full",
        },
        properties=Properties(message_id=uuid.UUID(int=1)),
        data=(b"",),
    )  # fmt: skip
    got = stored(encode_message(message))
    annotations = {str(name): value for name, value in (got.message_annotations or {}).items()}
    assert annotations["iothub-connection-device-id"] == "d"
    assert {name: annotations[name] for name in annotations if name not in ("x-opt-sequence-number",)}[
        "x-opt-offset"
    ] == "5"
    assert (annotations["dt-subject"], annotations["iothub-interface-id"]) == ("part", "i")
    assert (annotations["iothub-outputname"], annotations["iothub-message-schema"]) == ("out", "s")
    assert annotations["iothub-message-source"] == "Telemetry"
    assert got.application_properties == {"iothub-creation-time-utc": "now", "iothub-ack": "full"}
