"""Properties of the AMQP input as a whole: no split, cut or change of a conversation gets past the engine's rules."""

from __future__ import annotations

import random
import time
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from amqp_peer import Peer, begin, credit, frame, receiver, sender, told, transfer
from amqp_values import VALUES, shape
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.wire.amqp.composite import LAYOUTS, encode_composite, make_composite
from muster.wire.amqp.decoding import AmqpDecodeError, decode
from muster.wire.amqp.encoding import encode
from muster.wire.amqp.events import Failed
from muster.wire.amqp.frames import AMQP_HEADER, EMPTY, SASL, SASL_HEADER, encode_frame
from muster.wire.amqp.message import Header, Message, Properties, decode_message, encode_message
from muster.wire.amqp.performatives import (
    ACCEPTED,
    RECEIVER,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    Transfer,
    _quick_transfer,
    decode_performative,
    encode_performative,
)
from muster.wire.amqp.sasl import SaslInit, parse_plain
from muster.wire.amqp.values import Described, Symbol, UInt, ULong, symbols

GREETING = b"".join(
    (
        SASL_HEADER,
        encode_frame(0, encode_composite(SaslInit("PLAIN", b"\0user\0password", "host")), SASL),
        AMQP_HEADER,
        frame(Open("client", "host", 4096, idle_time_out=1000)),
        frame(begin()),
        frame(receiver(0, "events")),
        frame(credit(0, 10)),
        frame(sender(1, "telemetry")),
        frame(begin(), channel=1),
    )
)
TALK = b"".join(
    (
        frame(transfer(delivery_id=0), b"whole"),
        EMPTY,
        frame(transfer(delivery_id=1, more=True), b"in "),
        frame(transfer(delivery_id=1), b"parts"),
        frame(Disposition(RECEIVER, 0, 3, True, ACCEPTED)),
        frame(Flow(0, 100, 0, 100, echo=True)),
        frame(Detach(0, True)),
        frame(credit(0, 99)),
        frame(End(), channel=1),
        frame(Close()),
    )
)
"""What only a client says that has seen the answers to the greeting: it has credit now."""

CONVERSATION = GREETING + TALK


def run(*chunks: bytes) -> list[Any]:
    """The events of a conversation that is cut into ``chunks``, with the greeting always answered before the talk."""
    peer = Peer()
    events = []
    left = len(GREETING)
    for chunk in chunks:
        events += peer.send(chunk[:left])
        events += peer.send(chunk[left:])
        left = max(0, left - len(chunk))
    return told(events)


EXPECTED = run(CONVERSATION)


def test_every_split_point_gives_the_same_events() -> None:
    assert [event[0] for event in EXPECTED] == [
        "SaslStarted", "Opened", "LinkAttached", "LinkFlow", "LinkAttached",
        "Delivery", "Delivery", "LinkDetached", "LinkDetached", "Closed",
    ]  # fmt: skip
    for cut in range(len(CONVERSATION) + 1):
        assert run(CONVERSATION[:cut], CONVERSATION[cut:]) == EXPECTED
    assert run(*(CONVERSATION[n : n + 1] for n in range(len(CONVERSATION)))) == EXPECTED


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=8))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    assert run(*(CONVERSATION[a:b] for a, b in pairwise(edges))) == EXPECTED


def test_every_truncation_waits() -> None:
    for cut in range(len(CONVERSATION)):
        events = run(CONVERSATION[:cut])
        assert events == EXPECTED[: len(events)]


@settings(max_examples=300)
@given(st.integers(0, len(CONVERSATION) - 1), st.binary(max_size=40), st.integers(0, 40))
def test_a_changed_conversation_only_fails_as_declared(at: int, junk: bytes, dropped: int) -> None:
    peer = Peer()
    changed = CONVERSATION[:at] + junk + CONVERSATION[at + dropped :]
    events = peer.send(changed[: len(GREETING)], changed[len(GREETING) :])
    assert sum(isinstance(event, Failed) for event in events) <= 1
    if any(isinstance(event, Failed) for event in events):
        assert isinstance(events[-1], Failed)
        assert peer.send(b"more") == []


def test_many_random_changes_only_fail_as_declared() -> None:
    """More cases than hypothesis has patience for, from a fixed seed."""
    source = random.Random(1)
    for _ in range(2000):
        data = bytearray(CONVERSATION)
        for _ in range(source.randint(1, 4)):
            data[source.randrange(len(data))] = source.randrange(256)
        Peer().send(bytes(data[: len(GREETING)]), bytes(data[len(GREETING) :]))


@given(st.binary(max_size=300))
def test_arbitrary_bodies_only_fail_as_declared(body: bytes) -> None:
    peer = Peer.opened()
    for event in peer.send(encode_frame(0, body)):
        assert isinstance(event, Failed)


def test_large_frames_in_small_pieces_take_linear_time() -> None:
    peer = Peer.opened()
    peer.send(frame(sender(1)))
    data = frame(transfer(), b"x" * 60_000)
    begun = time.perf_counter()
    events = peer.send(*(data[n : n + 1] for n in range(len(data))))
    assert len(events) == 1
    assert time.perf_counter() - begun < 5


# --- performatives


COMPOSITES = sorted(LAYOUTS, key=lambda composite: LAYOUTS[composite].code)


@pytest.mark.parametrize("composite", COMPOSITES)
@settings(max_examples=25)
@given(data=st.data())
def test_fields_of_any_kind_are_taken_or_refused_as_declared(composite: type, data: st.DataObject) -> None:
    layout = LAYOUTS[composite]
    items = data.draw(st.lists(VALUES, max_size=len(layout.kinds) + 1))
    try:
        made = make_composite(layout, items)
    except AmqpDecodeError:
        return
    encoded = encode_composite(made)
    again, _ = decode(encoded, 0, len(encoded))
    assert isinstance(again, Described)
    assert encode_composite(make_composite(layout, again.value)) == encoded


HANDLES = st.sampled_from([0, 1, 255, 256, 0xFFFFFFFF])


TRANSFERS = st.builds(
    partial(Transfer),
    handle=HANDLES,
    delivery_id=st.none() | HANDLES,
    delivery_tag=st.none() | st.binary(max_size=300),
    message_format=st.none() | HANDLES,
    settled=st.none() | st.booleans(),
    more=st.booleans(),
    aborted=st.booleans(),
)


@given(TRANSFERS, st.binary(max_size=30))
def test_transfers_read_fast_or_slow_are_the_same(written: Transfer, payload: bytes) -> None:
    data = encode_performative(written) + payload
    expected = (written, len(data) - len(payload))
    assert decode_performative(data, 0, len(data)) == expected
    slow = written.aborted or len(data) - len(payload) > 250
    assert _quick_transfer(data, 0, len(data)) == (None if slow else expected)


@given(st.binary(max_size=60))
def test_the_fast_way_takes_nothing_that_the_slow_way_refuses(junk: bytes) -> None:
    data = b"\x00\x53\x14\xc0" + junk
    quick = _quick_transfer(data, 0, len(data))
    if quick is not None:
        described, position = decode(data, 0, len(data))
        assert isinstance(described, Described)
        assert position == quick[1]
        fields = list(quick[0])
        assert isinstance(described.value, list)
        assert [bool(field) if index > 3 else field for index, field in enumerate(fields[: len(described.value)])] == [
            bool(value) if index > 3 else value for index, value in enumerate(described.value)
        ]


@pytest.mark.parametrize("dropped", range(11))
def test_transfers_without_trailing_nulls_are_read(dropped: int) -> None:
    """Proton and others leave them out."""
    full = [1, 2, b"t", 0, True, False, None, None, False, False, False]
    items = [UInt(item) if index in {0, 1, 3} else item for index, item in enumerate(full[: 11 - dropped])]
    data = encode(Described(ULong(0x14), items)) + b"payload"
    performative, position = decode_performative(data, 0, len(data))
    assert isinstance(performative, Transfer)
    assert list(performative)[: 11 - dropped] == full[: 11 - dropped]
    assert data[position:] == b"payload"


# --- messages


MAPS = st.none() | st.dictionaries(st.text(max_size=6).map(Symbol), VALUES, max_size=3)
TEXTS = st.none() | st.text(max_size=10)
MESSAGES = st.builds(
    partial(Message),
    header=st.none()
    | st.tuples(st.booleans(), st.integers(0, 255), st.none() | st.integers(0, 9)).map(lambda items: Header(*items)),
    delivery_annotations=MAPS,
    message_annotations=MAPS,
    properties=st.none()
    | st.tuples(st.none() | st.uuids(), st.none() | st.binary(max_size=5), TEXTS).map(lambda items: Properties(*items)),
    application_properties=MAPS,
    footer=MAPS,
)


@given(MESSAGES, st.lists(st.binary(max_size=300), max_size=3) | VALUES | st.just("sequence"))
def test_messages_round_trip(message: Message, body: Any) -> None:
    if body == "sequence":
        message = message._replace(sequences=([1, 2], ["x"]))
    elif isinstance(body, list) and all(isinstance(part, bytes) for part in body):
        message = message._replace(data=tuple(body))
    else:
        message = message._replace(value=body)
    encoded = encode_message(message)
    decoded = decode_message(encoded)
    assert shape(list(decoded)) == shape(list(message))
    for cut in {len(encoded) // 3, len(encoded) // 2, len(encoded) - 1}:
        try:
            decode_message(encoded[: max(cut, 0)])
        except AmqpDecodeError:
            continue


@given(st.binary(max_size=200))
def test_arbitrary_payloads_are_messages_or_declared_errors(junk: bytes) -> None:
    try:
        decode_message(junk)
    except AmqpDecodeError:
        return


@pytest.mark.parametrize(
    "payload",
    [
        "005375a00178005373c00101",  # properties behind data
        "005375a00178005377a10178",  # two kinds of body
        "00537245",  # annotations that are no map
        "005375a10178",  # data that is no binary
        "00539945",  # no section
        "45",  # not described
    ],
)
def test_payloads_that_are_no_messages(payload: str) -> None:
    with pytest.raises(AmqpDecodeError):
        decode_message(bytes.fromhex(payload))


def test_plain_responses() -> None:
    assert parse_plain("\0bénédict\0sécret".encode()) == ("", "bénédict", "sécret")
    assert "sécret" not in repr(parse_plain("\0b\0sécret".encode()))
    for wrong in (b"", b"user", b"\0user", b"\0a\0b\0c", b"\0\xff\0x"):
        with pytest.raises(AmqpDecodeError) as caught:
            parse_plain(wrong)
        assert "user" not in str(caught.value)


def test_symbols_sent_alone_or_in_an_array_are_the_same_capability() -> None:
    layout = LAYOUTS[Open]
    for capabilities in (Symbol("a"), symbols("a")):
        items = ["c", None, None, None, None, None, None, None, capabilities]
        assert make_composite(layout, items).desired_capabilities == ("a",)
