"""Transfers that are known by their bytes say what decoding them would have said, and cost no decoding."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_peer import Peer, frame, sender, told
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.amqp.events import Delivery, Failed, LinkDetached
from muster.wire.amqp.frames import encode_frame
from muster.wire.amqp.performatives import Detach, End, decode_performative
from muster.wire.amqp.session import Limits, Session

UINTS = {0x43: 0, 0x52: 1, 0x70: 4}


def uint(code: int, value: int) -> bytes:
    width = UINTS[code]
    return bytes((code,)) + (value & (1 << 8 * width) - 1).to_bytes(width)


def written(handle: bytes, delivery_id: bytes, tag: bytes, *rest: bytes) -> bytes:
    """A transfer in a list of the short form, each of its fields as it is to be written."""
    fields = [handle, delivery_id, tag, *rest]
    content = bytes((len(fields),)) + b"".join(fields)
    return b"\x00\x53\x14\xc0" + bytes((len(content),)) + content


def usual(handle: int = 1, delivery_id: int = 0, tag: bytes = b"\0\0\0\1", payload: bytes = b"payload") -> bytes:
    """A frame as most libraries write it."""
    fields = written(uint(0x52, handle), uint(0x70, delivery_id), b"\xa0" + bytes((len(tag),)) + tag, b"\x43", b"\x42")
    return encode_frame(0, fields + payload)


HANDLES = st.sampled_from([uint(0x43, 0), uint(0x52, 0), uint(0x52, 1), uint(0x70, 0), uint(0x70, 1), uint(0x52, 7)])
IDS = st.builds(uint, st.sampled_from([0x70, 0x70, 0x70, 0x52, 0x43]), st.integers(0, 2**32 - 1)) | st.just(b"\x40")
TAGS = st.sampled_from([b"\xa0\x02ab", b"\xa0\x02cd", b"\xa0\x00", b"\x40", b"\xb0\0\0\0\x02ab"])
FLAG = st.sampled_from([b"\x42", b"\x42", b"\x40", b"\x41"])
REST = st.sampled_from([(b"\x43", b"\x42"), (b"\x43", b"\x41"), (b"\x43",), (), (b"\x70\x80\x01\x37\x00", b"\x42")]) | (
    st.tuples(st.just(b"\x43"), FLAG, FLAG, st.just(b"\x40"), st.just(b"\x40"), FLAG, FLAG)
)
BODIES = st.builds(lambda *fields: written(*fields[:3], *fields[3]), HANDLES, IDS, TAGS, REST)
FRAMES = st.builds(lambda body, payload: encode_frame(0, body + payload), BODIES, st.binary(max_size=6))
OTHERS = st.sampled_from([frame(Detach(1, True)), frame(sender(1, name="again")), frame(sender(0)), frame(End())])


def observed(frames: list[bytes], *, learns: bool) -> tuple[list[Any], list[Any]]:
    """What an engine tells and says; one that does not learn decodes everything."""
    with pytest.MonkeyPatch.context() as patch:
        if not learns:
            patch.setattr(Session, "learn", lambda *_: None)
        peer = Peer.opened(limits=Limits(incoming_window=12), grant=6, max_message_size=10)
        peer.send(frame(sender(0)), frame(sender(1)), *frames)
        return told(peer.events), peer.read()


@given(st.lists(FRAMES | FRAMES | FRAMES | OTHERS, max_size=20))
def test_known_or_decoded_they_mean_the_same(frames: list[bytes]) -> None:
    assert observed(frames, learns=True) == observed(frames, learns=False)


ALIKE = st.builds(
    lambda delivery_id, tag, rest, payload: encode_frame(0, written(uint(0x52, 1), delivery_id, tag, *rest) + payload),
    st.builds(uint, st.just(0x70), st.integers(0, 3)),
    st.sampled_from([b"\xa0\x02ab", b"\xa0\x02ab", b"\xa0\x02cd", b"\xb0\0\0\0\x02ab", b"\xa0\x05abcde"]),
    st.tuples(st.just(b"\x43"), FLAG, FLAG, st.just(b"\x40"), st.just(b"\x40"), FLAG, FLAG),
    st.binary(max_size=6),
)


@given(st.lists(ALIKE, max_size=8))
def test_also_when_most_of_them_have_the_same_key(frames: list[bytes]) -> None:
    assert observed(frames, learns=True) == observed(frames, learns=False)


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bodies that are decoded from now on."""
    seen: list[bytes] = []

    def count(data: bytes, start: int, end: int) -> Any:
        seen.append(data[start:end])
        return decode_performative(data, start, end)

    monkeypatch.setattr("muster.wire.amqp.connection.decode_performative", count)
    return seen


def test_only_the_first_of_a_link_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Peer.opened(grant=100)
    peer.send(frame(sender(0)), frame(sender(1)))
    seen = decoded(monkeypatch)
    frames = [usual(handle=number & 1, delivery_id=number, tag=number.to_bytes(4)) for number in range(20)]
    deliveries = [event for event in peer.send(*frames) if isinstance(event, Delivery)]
    assert len(seen) == 2
    assert [(each.link.handle, each.delivery_id, each.tag) for each in deliveries] == [
        (number & 1, number, number.to_bytes(4)) for number in range(20)
    ]


def test_a_handle_that_was_given_away_leads_to_its_new_link() -> None:
    peer = Peer.opened()
    peer.send(frame(sender(1, name="old")), usual(), usual(delivery_id=1))
    peer.send(frame(Detach(1, True)), frame(sender(1, name="new")))
    (delivery,) = peer.send(usual(delivery_id=2))
    assert isinstance(delivery, Delivery)
    assert delivery.link is peer.links["new"]


def test_parts_of_messages_are_put_together() -> None:
    fields = (uint(0x52, 1), uint(0x70, 5), b"\xa0\x01t", b"\x43", b"\x42")
    part = encode_frame(0, written(*fields, b"\x41") + b"begun")
    last = encode_frame(0, written(uint(0x52, 1), b"\x40", b"\x40", b"\x40", b"\x42", b"\x42") + b" and done")
    like_a_whole_one = encode_frame(0, written(*fields, b"\x42") + b" and done")
    peer = Peer.opened()
    events = peer.send(frame(sender(1)), usual(), part, last, part, last, like_a_whole_one, part, like_a_whole_one)
    payloads = [event.payload for event in events if isinstance(event, Delivery)]
    assert payloads == [b"payload", b"begun and done", b"begun and done", b" and done", b"begun and done"]


def test_what_comes_late_on_a_link_that_was_detached_is_ignored() -> None:
    peer = Peer.opened()
    peer.send(frame(sender(1)), usual())
    peer.links["s1"].detach()
    assert peer.send(usual(delivery_id=1)) == []


def test_a_frame_that_ends_within_its_performative_is_refused_though_the_bytes_behind_it_fit() -> None:
    peer = Peer.opened()
    peer.send(frame(sender(1)), usual(payload=b""))
    whole = usual(delivery_id=1, payload=b"")
    events = peer.send((len(whole) - 1).to_bytes(4) + whole[4:])
    assert [type(event) for event in events] == [LinkDetached, Failed]


def test_what_is_remembered_is_bounded_by_the_links() -> None:
    peer = Peer.opened(grant=500)
    peer.send(frame(sender(1)), *(usual(delivery_id=number, tag=b"t" * (number % 40)) for number in range(200)))
    session = peer.engine.sessions[0]
    assert len(session._patterns) == 1
    peer.send(frame(Detach(1, True)))
    assert not session._patterns
