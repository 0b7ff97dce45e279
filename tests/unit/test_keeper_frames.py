"""The framing between workers and keeper: whatever is cut where, the same frames come out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.messages.contract import Share, Slice
from muster.stores.keeper.frames import (
    HELLO,
    MOST_BYTES,
    NOTICE,
    RUNS,
    Decoder,
    Frame,
    FrameError,
    encode,
    take_words,
    words,
)
from muster.stores.keeper.runs import decode_commit, decode_slices, encode_commit, encode_slices

bodies = st.lists(st.binary(max_size=300), max_size=3)
frames = st.lists(st.tuples(st.integers(HELLO, RUNS), st.integers(0, (1 << 32) - 1), bodies), max_size=8)
records = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


@given(frames, st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_frames_come_out_as_they_went_in_however_they_are_cut(
    sent: list[tuple[int, int, list[bytes]]], cuts: list[int]
) -> None:
    data = b"".join(part for kind, number, parts in sent for part in encode(kind, number, parts))
    decoder, found, at, turn = Decoder(), [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        found += decoder.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    assert found == [Frame(kind, number, b"".join(parts)) for kind, number, parts in sent]


@pytest.mark.parametrize("data", [b"\x00\x00\x00\x00\x00\x00\x00\x00\x00", b"\xff\xff\xff\xff\x02\x00\x00\x00\x00"])
def test_what_is_no_frame_is_refused_before_it_is_waited_for(data: bytes) -> None:
    with pytest.raises(FrameError):
        Decoder().feed(data)


def test_no_more_is_waited_for_than_a_frame_may_have() -> None:
    head = encode(NOTICE, 0, [])[0]
    assert Decoder().feed(MOST_BYTES.to_bytes(4, "little") + head[4:]) == []
    with pytest.raises(FrameError):
        Decoder().feed((MOST_BYTES + 1).to_bytes(4, "little") + head[4:])


@given(st.lists(st.text(max_size=20), max_size=4), st.binary(max_size=20))
def test_words_are_read_back(texts: list[str], rest: bytes) -> None:
    coded = words(*texts)
    assert take_words(coded + rest, len(texts)) == (texts, len(coded))


@given(st.binary(max_size=30))
def test_any_body_has_words_or_is_refused(body: bytes) -> None:
    try:
        _, end = take_words(body, 3)
    except FrameError:
        return
    assert end <= len(body)


@given(st.integers(0, 1 << 50), st.lists(st.tuples(st.integers(0, 31), records), min_size=1, max_size=5))
def test_a_commit_is_read_back(now_ms: int, shares: list[tuple[int, list[bytes]]]) -> None:
    body = b"".join(encode_commit([Share(*share) for share in shares], now_ms))
    found_ms, found = decode_commit(b"head" + body, 4)
    assert found_ms == now_ms
    assert [(share.partition, list(share.records)) for share in found] == shares


@given(st.lists(st.tuples(st.integers(0, 1 << 48), st.integers(0, 1 << 50), records), max_size=5))
def test_slices_are_read_back(told: list[tuple[int, int, list[bytes]]]) -> None:
    slices = [Slice(*one) for one in told]
    once = decode_slices(b"".join(encode_slices(slices)))
    assert [Slice(one.base, one.enqueued_ms, list(one.records)) for one in once] == slices
    assert decode_slices(b"".join(encode_slices(once))) == once
