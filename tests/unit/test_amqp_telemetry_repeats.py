"""A reader that has seen a message before makes of the next one what a new reader makes of it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import HubError
from muster.dialect.amqp_telemetry import TelemetryReader
from muster.wire.amqp.decoding import AmqpDecodeError

PROPERTIES = b"\x00\x53\x73\xc0\x0a\x07\x40\x40\x40\x40\x40\x40\xa3\x01j"
FORGED = b"\x00\x53\x74\xc1\x1e\x02\xa1\x18iothub-connection-device\xa1\x01x"
LEVEL = b"\x00\x53\x74\xc1\x0b\x02\xa1\x05level\xa1\x01l"
ANNOTATIONS = b"\x00\x53\x72\xd1\0\0\0\4\0\0\0\0"
FRONTS = st.sampled_from([
    b"", PROPERTIES + LEVEL, PROPERTIES + FORGED, b"\x00\x53\x70\x45" + PROPERTIES, ANNOTATIONS, LEVEL + PROPERTIES,
    PROPERTIES + b"\x00\x53\x75\xa0\x01a",
])  # fmt: skip
DATA = st.sampled_from([
    b"\x00\x53\x75\xa0\x00", b"\x00\x53\x75\xa0\x03abc", b"\x00\x53\x75\xb0\0\0\0\x01z", b"\x00\x53\x75\xa0\x09abc",
    b"\x00\x53\x75\xb0\0\0\0\x09z", b"\x00\x53\x75\xa0", b"\x00\x53\x75\xb0\0\0", b"\x00\x53\x75",
    b"\x00\x53\x75\xa0\x01a\x00\x53\x75\xa0\x01b", b"\x00\x53\x75\xa0\x01a\x00\x53\x78\xd1\0\0\0\4\0\0\0\0",
    b"\x00\x53\x77\xa1\x01t", b"",
])  # fmt: skip


def outcome(reader: TelemetryReader, payload: bytes) -> Any:
    try:
        return reader.read(payload)
    except (HubError, AmqpDecodeError) as error:
        return type(error), str(error)


@given(st.lists(st.builds(lambda front, data: front + data, FRONTS, DATA), max_size=6))
def test_what_came_before_does_not_matter(payloads: list[bytes]) -> None:
    reader = TelemetryReader()
    assert [outcome(reader, payload) for payload in payloads] == [
        outcome(TelemetryReader(), payload) for payload in payloads
    ]


def test_properties_seen_before_are_not_looked_at_again(monkeypatch: Any) -> None:
    reader = TelemetryReader()
    first = reader.read(PROPERTIES + LEVEL + b"\x00\x53\x75\xa0\x03abc")
    monkeypatch.setattr("muster.dialect.amqp_telemetry._section", None)
    assert reader.read(PROPERTIES + LEVEL + b"\x00\x53\x75\xa0\x02de") == first[:-5] + b"\xa0\x02de"
    long = b"x" * 300
    assert (
        reader.read(PROPERTIES + LEVEL + b"\x00\x53\x75\xb0\0\0\x01\x2c" + long)
        == first[:-5] + b"\xb0\0\0\x01\x2c" + long
    )
