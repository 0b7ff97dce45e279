"""The MQTT codec: what is legal round-trips, however it is cut; what is not is an MqttError, early and cheap."""

from __future__ import annotations

import tracemalloc
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.testing import mqtt
from muster.wire.mqtt import Decoder, MqttError, Packet, encoder
from muster.wire.mqtt.packets import (
    Connect,
    Disconnect,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Subscribe,
    Unsubscribe,
    Will,
)

LIMIT = 400_000

text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
topics = text.map(lambda t: t.replace("+", "").replace("#", "")).filter(bool)
levels = topics.map(lambda t: t.replace("/", "")) | st.just("+")
filters = st.builds(
    lambda parts, tail: "/".join(parts) + tail, st.lists(levels, min_size=1, max_size=4), st.sampled_from(["", "/#"])
).filter(bool)
ids = st.integers(1, 65535)
qos = st.integers(0, 2)
wills = st.builds(Will, topics, st.binary(max_size=50), qos, st.booleans())


@st.composite
def connects(draw: st.DrawFn) -> tuple[bytes, Packet]:
    clean = draw(st.booleans())
    client_id = draw(text if clean else text.filter(bool))
    user = draw(st.none() | text)
    password = None if user is None else draw(st.none() | st.binary(max_size=50))
    will = draw(st.none() | wills)
    keep_alive = draw(st.integers(0, 65535))
    raw = mqtt.connect(client_id, user, password, clean_session=clean, keep_alive=keep_alive, will=will)
    return raw, Connect(client_id, clean, keep_alive, user, password, will, "MQTT", 4)


@st.composite
def publishes(draw: st.DrawFn) -> tuple[bytes, Packet]:
    topic, payload, level = draw(topics), draw(st.binary(max_size=300)), draw(qos)
    packet_id = draw(ids) if level else 0
    dup, retain = draw(st.booleans()) and level > 0, draw(st.booleans())
    raw = mqtt.publish(topic, payload, qos=level, packet_id=packet_id, dup=dup, retain=retain)
    return raw, Publish(topic.encode(), payload, level, packet_id, dup, retain)


subscriptions = st.lists(st.tuples(filters, qos), min_size=1, max_size=5)
packets = st.one_of(
    connects(),
    publishes(),
    st.builds(lambda i, f: (mqtt.subscribe(i, f), Subscribe(i, f)), ids, subscriptions),
    st.builds(lambda i, f: (mqtt.unsubscribe(i, f), Unsubscribe(i, f)), ids, st.lists(filters, min_size=1, max_size=5)),
    ids.map(lambda i: (encoder.puback(i), PubAck(i))),
    ids.map(lambda i: (mqtt.packet(0x50, i.to_bytes(2, "big")), PubRec(i))),
    ids.map(lambda i: (mqtt.packet(0x62, i.to_bytes(2, "big")), PubRel(i))),
    ids.map(lambda i: (mqtt.packet(0x70, i.to_bytes(2, "big")), PubComp(i))),
    st.just((mqtt.PINGREQ, PingReq())),
    st.just((mqtt.DISCONNECT, Disconnect())),
)


def same(got: list[Packet], expected: list[Packet]) -> bool:
    # Named tuples of different packets may be equal as tuples, so their types count too.
    return got == expected and [type(p) for p in got] == [type(p) for p in expected]


def outcome(chunks: list[bytes], limit: int = LIMIT) -> tuple[list[Packet], str | None]:
    """All packets of ``chunks`` and the reason for the end, if it came to one."""
    decoder, got = Decoder(limit), []
    for chunk in chunks:
        try:
            got += decoder.receive(chunk)
        except MqttError as error:
            return got + error.packets, error.reason
    return got, None


@given(st.lists(packets, max_size=6))
def test_packets_arrive_as_they_were_sent(sent: list[tuple[bytes, Packet]]) -> None:
    got, reason = outcome([b"".join(raw for raw, _ in sent)])
    assert reason is None
    assert same(got, [packet for _, packet in sent])


@settings(max_examples=40)
@given(st.lists(packets, min_size=1, max_size=3))
def test_every_split_point_gives_the_same_packets(sent: list[tuple[bytes, Packet]]) -> None:
    stream = b"".join(raw for raw, _ in sent)
    expected = [packet for _, packet in sent]
    for cut in range(len(stream) + 1):
        got, reason = outcome([stream[:cut], stream[cut:]])
        assert reason is None
        assert same(got, expected)


@given(st.lists(packets, min_size=1, max_size=4), st.integers(1, 7))
def test_small_chunks_give_the_same_packets(sent: list[tuple[bytes, Packet]], size: int) -> None:
    stream = b"".join(raw for raw, _ in sent)
    got, reason = outcome([stream[at : at + size] for at in range(0, len(stream), size)])
    assert reason is None
    assert same(got, [packet for _, packet in sent])


@settings(max_examples=60)
@given(packets)
def test_every_truncation_waits(sent: tuple[bytes, Packet]) -> None:
    raw, packet = sent
    for cut in range(len(raw)):
        decoder = Decoder(LIMIT)
        assert decoder.receive(raw[:cut]) == []
        assert same(decoder.receive(raw[cut:]), [packet])


@settings(max_examples=400)
@given(st.lists(st.binary(max_size=60), max_size=8))
def test_arbitrary_bytes_raise_nothing_but_mqtt_errors(chunks: list[bytes]) -> None:
    outcome(chunks)


@settings(max_examples=400)
@given(packets, st.data())
def test_damaged_packets_raise_nothing_but_mqtt_errors(sent: tuple[bytes, Packet], data: st.DataObject) -> None:
    damaged = bytearray(sent[0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    outcome([bytes(damaged)])


@given(st.lists(packets, max_size=3), st.binary(min_size=1, max_size=40), st.integers(1, 9))
def test_how_bytes_are_cut_does_not_change_what_is_refused(
    sent: list[tuple[bytes, Packet]], tail: bytes, size: int
) -> None:
    stream = b"".join(raw for raw, _ in sent) + tail
    chunks = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert outcome([stream]) == outcome(chunks)


MALFORMED = {
    "type 0": b"\x00\x00",
    "type 15": b"\xf0\x00",
    "CONNECT with flags": b"\x11\x00",
    "SUBSCRIBE with flags 0": b"\x80\x08\x00\x01\x00\x03a/b\x00",
    "UNSUBSCRIBE with flags 0": b"\xa0\x07\x00\x01\x00\x03a/b",
    "PUBREL with flags 0": b"\x60\x02\x00\x01",
    "PUBACK with flags": b"\x41\x02\x00\x01",
    "PINGREQ with flags": b"\xc1\x00",
    "DISCONNECT with flags": b"\xe1\x00",
    "CONNACK from a client": b"\x20\x02\x00\x00",
    "SUBACK from a client": b"\x90\x03\x00\x01\x00",
    "UNSUBACK from a client": b"\xb0\x02\x00\x01",
    "PINGRESP from a client": b"\xd0\x00",
    "remaining length of five bytes": b"\x30\xff\xff\xff\xff\x01",
    "PUBLISH QoS 3": mqtt.publish("a", qos=3),
    "PUBLISH without a topic length": b"\x30\x01\x00",
    "PUBLISH cut in its topic": b"\x30\x04\x00\x03ab",
    "PUBLISH with an empty topic": mqtt.publish(b""),
    "PUBLISH with a topic of invalid UTF-8": mqtt.publish(b"a\xff"),
    "PUBLISH with a surrogate in its topic": mqtt.publish(b"a\xed\xa0\x80"),
    "PUBLISH with U+0000 in its topic": mqtt.publish(b"a\0b"),
    "PUBLISH with + in its topic": mqtt.publish("a/+/b"),
    "PUBLISH with # in its topic": mqtt.publish("a/#"),
    "PUBLISH with packet id 0": mqtt.publish("a", packet_id=0),
    "PUBLISH without a packet id": b"\x32\x03\x00\x01a",
    "PUBLISH with half a packet id": b"\x32\x04\x00\x01a\x00",
    "PUBLISH with DUP at QoS 0": mqtt.publish("a", qos=0, dup=True),
    "PUBACK with id 0": b"\x40\x02\x00\x00",
    "PUBACK too long": b"\x40\x03\x00\x01\x00",
    "PUBACK too short": b"\x40\x01\x01",
    "PUBREC with id 0": b"\x50\x02\x00\x00",
    "PUBREL with id 0": b"\x62\x02\x00\x00",
    "PUBCOMP with id 0": b"\x70\x02\x00\x00",
    "PINGREQ with a body": b"\xc0\x01\x00",
    "DISCONNECT with a body": b"\xe0\x01\x00",
    "SUBSCRIBE with id 0": mqtt.subscribe(0, [("a", 0)]),
    "SUBSCRIBE without filters": mqtt.subscribe(1, []),
    "SUBSCRIBE with QoS 3": mqtt.subscribe(1, [("a", 3)]),
    "SUBSCRIBE with reserved QoS bits": mqtt.subscribe(1, [("a", 0x81)]),
    "SUBSCRIBE without QoS": b"\x82\x05\x00\x01\x00\x01a",
    "SUBSCRIBE with an empty filter": mqtt.subscribe(1, [("", 0)]),
    "SUBSCRIBE with # before the end": mqtt.subscribe(1, [("a/#/b", 0)]),
    "SUBSCRIBE with # inside a level": mqtt.subscribe(1, [("a/b#", 0)]),
    "SUBSCRIBE with + inside a level": mqtt.subscribe(1, [("a+/b", 0)]),
    "SUBSCRIBE with invalid UTF-8": mqtt.packet(0x82, b"\x00\x01" + mqtt.field(b"\xff") + b"\x00"),
    "UNSUBSCRIBE with id 0": mqtt.unsubscribe(0, ["a"]),
    "UNSUBSCRIBE without filters": mqtt.unsubscribe(1, []),
    "UNSUBSCRIBE with U+0000": mqtt.unsubscribe(1, ["a\0"]),
    "CONNECT empty": b"\x10\x00",
    "CONNECT of another protocol": mqtt.connect("d", protocol_name="AMQP"),
    "CONNECT in lower case": mqtt.connect("d", protocol_name="mqtt"),
    "CONNECT with the reserved flag": mqtt.packet(0x10, b"\x00\x04MQTT\x04\x01\x00\x00\x00\x01d"),
    "CONNECT with will QoS but no will": mqtt.packet(0x10, b"\x00\x04MQTT\x04\x08\x00\x00\x00\x01d"),
    "CONNECT with will retain but no will": mqtt.packet(0x10, b"\x00\x04MQTT\x04\x20\x00\x00\x00\x01d"),
    "CONNECT with will QoS 3": mqtt.connect("d", will=Will("t", b"", 3, retain=False)),
    "CONNECT with an empty will topic": mqtt.connect("d", will=Will("", b"", 0, retain=False)),
    "CONNECT with a wildcard in its will topic": mqtt.connect("d", will=Will("a/#", b"", 0, retain=False)),
    "CONNECT with a password but no user": mqtt.connect("d", None, b"secret"),
    "CONNECT with U+0000 in its user name": mqtt.connect("d", "a\0b"),
    "CONNECT with invalid UTF-8 in its client id": mqtt.packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x00\x00\x01\xff"),
    "CONNECT with bytes behind its fields": mqtt.packet(0x10, mqtt.connect("d")[2:] + b"x"),
    "CONNECT cut in its user name": mqtt.packet(0x10, mqtt.connect("d", "user")[2:-1]),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_packets_are_refused_without_an_answer(raw: bytes) -> None:
    with pytest.raises(MqttError) as caught:
        Decoder(LIMIT).receive(raw)
    assert caught.value.connack is None
    assert caught.value.reason


@pytest.mark.parametrize(("name", "level"), [("MQTT", 3), ("MQTT", 5), ("MQTT", 0), ("MQIsdp", 3)])
def test_another_protocol_level_is_connack_1(name: str, level: int) -> None:
    with pytest.raises(MqttError) as caught:
        Decoder(LIMIT).receive(mqtt.connect("d", protocol_name=name, protocol_level=level))
    assert caught.value.connack == 1


def test_mqtt_5_is_recognised_though_its_connect_has_another_shape() -> None:
    connect_5 = mqtt.packet(0x10, b"\x00\x04MQTT\x05\x02\x00\x3c\x05\x11\x00\x00\x00\x0a\x00\x01d")
    with pytest.raises(MqttError) as caught:
        Decoder(LIMIT).receive(connect_5)
    assert caught.value.connack == 1


def test_an_empty_client_id_needs_a_clean_session() -> None:
    with pytest.raises(MqttError) as caught:
        Decoder(LIMIT).receive(mqtt.connect("", clean_session=False))
    assert caught.value.connack == 2
    (packet,) = Decoder(LIMIT).receive(mqtt.connect("", clean_session=True))
    assert isinstance(packet, Connect)
    assert packet.client_id == ""


def test_an_empty_password_is_not_an_absent_one() -> None:
    empty, absent = Decoder(LIMIT).receive(mqtt.connect("d", "u", b"") + mqtt.connect("d", "u"))
    assert (empty.password, absent.password) == (b"", None)  # type: ignore[union-attr]


def test_what_came_before_a_bad_packet_is_delivered_with_the_error() -> None:
    decoder = Decoder(LIMIT)
    with pytest.raises(MqttError) as caught:
        decoder.receive(mqtt.publish("a", packet_id=7) + mqtt.PINGREQ + b"\x00\x00" + mqtt.PINGREQ)
    assert same(caught.value.packets, [Publish(b"a", b"", 1, 7, False, False), PingReq()])


def test_after_an_error_nothing_is_decoded() -> None:
    decoder = Decoder(LIMIT)
    for data in (b"\x00\x00", mqtt.PINGREQ, b""):
        with pytest.raises(MqttError) as caught:
            decoder.receive(data)
        assert caught.value.packets == []


@pytest.mark.parametrize("first", [b"\x00", b"\xf0", b"\x20", b"\x81", b"\x16", b"\x47"])
def test_a_first_byte_that_is_none_is_refused_at_once(first: bytes) -> None:
    # 0x16 is how TLS begins, 0x47 how HTTP GET does.
    with pytest.raises(MqttError):
        Decoder(LIMIT).receive(first)


def test_a_packet_may_be_as_large_as_the_limit_and_no_larger() -> None:
    raw = mqtt.publish("a", bytes(1000))
    assert len(Decoder(len(raw)).receive(raw)) == 1
    with pytest.raises(MqttError, match=f"at most {len(raw) - 1}"):
        Decoder(len(raw) - 1).receive(raw[:3])


def test_the_limit_may_be_raised_on_the_way() -> None:
    decoder = Decoder(100)
    decoder.receive(mqtt.PINGREQ)
    decoder.max_packet_bytes = LIMIT
    assert len(decoder.receive(mqtt.publish("a", bytes(1000)))) == 1


def test_an_announced_length_costs_no_memory() -> None:
    raw = b"\x30\xff\xff\xff\x7f" + bytes(100)
    tracemalloc.start()
    try:
        decoder = Decoder(268_435_460)
        for _ in range(100):
            decoder.receive(raw)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_nothing_is_kept_of_packets_that_are_done() -> None:
    decoder, raw = Decoder(LIMIT), mqtt.publish("a", bytes(200_000))
    tracemalloc.start()
    try:
        for _ in range(5):
            decoder.receive(raw[:150_000])
            decoder.receive(raw[150_000:])
        assert tracemalloc.get_traced_memory()[0] < 50_000
    finally:
        tracemalloc.stop()


def _seconds(size: int, chunk: int) -> float:
    raw = mqtt.publish("a", bytes(size))
    chunks = [raw[at : at + chunk] for at in range(0, len(raw), chunk)]
    best = 1e9
    for _ in range(5):
        decoder = Decoder(size + 100)
        start = process_time()
        for part in chunks:
            decoder.receive(part)
        best = min(best, process_time() - start)
    return best


def test_a_packet_in_many_pieces_takes_linear_time() -> None:
    # 16 times the bytes: 16 times the time if linear, over 200 times if each piece copies what came before.
    assert _seconds(1_600_000, 50) < 60 * _seconds(100_000, 50)


def test_many_packets_in_one_read_take_linear_time() -> None:
    def seconds(count: int) -> float:
        raw = mqtt.publish("devices/d/messages/events/", b"x" * 20) * count
        best = 1e9
        for _ in range(5):
            start = process_time()
            Decoder(LIMIT).receive(raw)
            best = min(best, process_time() - start)
        return best

    assert seconds(48_000) < 60 * seconds(3_000)


def test_server_packets_are_what_the_standard_says() -> None:
    assert encoder.connack(True, 0) == b"\x20\x02\x01\x00"
    assert encoder.connack(False, 0) == b"\x20\x02\x00\x00"
    assert encoder.connack(True, 5) == b"\x20\x02\x00\x05"
    assert encoder.puback(0x1234) == b"\x40\x02\x12\x34"
    assert encoder.pubacks([1, 2]) == b"\x40\x02\x00\x01\x40\x02\x00\x02"
    assert encoder.suback(10, [0, 1, 0x80]) == b"\x90\x05\x00\x0a\x00\x01\x80"
    assert encoder.suback(1, [0] * 200)[:3] == b"\x90\xca\x01"
    assert encoder.unsuback(10) == b"\xb0\x02\x00\x0a"
    assert encoder.PINGRESP == b"\xd0\x00"


@given(topics, st.binary(max_size=300), st.integers(0, 1), ids, st.booleans())
def test_server_publishes_read_back(topic: str, payload: bytes, level: int, packet_id: int, dup: bool) -> None:
    dup = dup and level > 0
    (got,) = Decoder(LIMIT).receive(encoder.publish(topic, payload, level, packet_id, dup))
    assert got == Publish(topic.encode(), payload, level, packet_id if level else 0, dup, False)


@pytest.mark.parametrize("size", [0, 1, 119, 120, 121, 16_375, 16_376, 16_377, 2_097_143, 2_097_144, 2_097_145])
def test_every_width_of_the_remaining_length_reads_back(size: int) -> None:
    raw = encoder.publish("a/b/", bytes(size), 1, 1)
    (got,) = Decoder(3_000_000).receive(raw)
    assert isinstance(got, Publish)
    assert len(got.payload) == size


def test_a_topic_that_mqtt_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        encoder.publish("é" * 40_000, b"")


def test_no_secret_stands_in_the_repr_of_a_connect() -> None:
    (packet,) = Decoder(LIMIT).receive(mqtt.connect("d", "u", b"SharedAccessSignature sr=x&sig=hidden"))
    assert "hidden" not in repr(packet)
