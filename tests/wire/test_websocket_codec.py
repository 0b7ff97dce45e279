"""The WebSocket codec: any cut of the frames gives the same stream, answers and end; faults are named."""

from __future__ import annotations

import struct
import tracemalloc
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.wire.websocket import FrameDecoder, accept_key, encode_binary, encode_close, handshake_response, valid_key

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"


def frame(opcode: int, body: bytes = b"", *, final: bool = True, mask: bytes = MASK, reserved: int = 0) -> bytes:
    """A client's frame, masked byte by byte as RFC 6455 section 5.3 words it."""
    length = len(body)
    head = bytes([(0x80 if final else 0) | reserved | opcode])
    if length < 126:
        head += bytes([0x80 | length])
    elif length < 65_536:
        head += struct.pack(">BH", 0xFE, length)
    else:
        head += struct.pack(">BQ", 0xFF, length)
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(body))


def everything(chunks: list[bytes]) -> tuple[bytes, bytes, int | None, str]:
    decoder, payload, answers = FrameDecoder(), b"", b""
    for chunk in chunks:
        received = decoder.receive(chunk)
        payload += received.payload
        answers += received.answers
        if received.close_code is not None:
            return payload, answers, received.close_code, received.fault
    return payload, answers, None, ""


masks = st.binary(min_size=4, max_size=4)
bodies = st.binary(max_size=200)


@st.composite
def messages(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """Frames of one message with control frames between them; its payload; the pongs due."""
    parts = draw(st.lists(bodies, min_size=1, max_size=4))
    raw = pongs = b""
    for number, part in enumerate(parts):
        if draw(st.booleans()):
            ping = draw(st.binary(max_size=125))
            raw += frame(PING, ping, mask=draw(masks))
            pongs += bytes([0x8A, len(ping)]) + ping
        if draw(st.booleans()):
            raw += frame(PONG, b"unasked", mask=draw(masks))
        opcode = BINARY if number == 0 else CONTINUATION
        raw += frame(opcode, part, final=number == len(parts) - 1, mask=draw(masks))
    return raw, b"".join(parts), pongs


@given(st.lists(messages(), max_size=4), st.integers(1, 50))
def test_however_cut_the_stream_is_the_same(sent: list[tuple[bytes, bytes, bytes]], size: int) -> None:
    raw = b"".join(frames for frames, _, _ in sent) + frame(CLOSE, struct.pack(">H", 1000))
    expected = (
        b"".join(payload for _, payload, _ in sent),
        b"".join(pongs for _, _, pongs in sent) + b"\x88\x02\x03\xe8",
        1000,
        "",
    )
    assert everything([raw]) == expected
    assert everything([raw[at : at + size] for at in range(0, len(raw), size)]) == expected


@settings(max_examples=40)
@given(messages())
def test_every_split_point_gives_the_same_stream(sent: tuple[bytes, bytes, bytes]) -> None:
    raw, payload, pongs = sent
    for cut in range(len(raw) + 1):
        assert everything([raw[:cut], raw[cut:]]) == (payload, pongs, None, "")


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 70_001])
def test_every_width_of_the_length_is_read(size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    assert everything([frame(BINARY, body)]) == (body, b"", None, "")


@given(st.binary(max_size=300), masks)
def test_payload_is_passed_on_before_its_frame_is_complete(body: bytes, mask: bytes) -> None:
    raw, got = frame(BINARY, body, mask=mask), b""
    decoder = FrameDecoder()
    head = len(raw) - len(body)
    decoder.receive(raw[:head])
    for at in range(head, len(raw)):
        got += decoder.receive(raw[at : at + 1]).payload
        assert got == body[: at - head + 1]


@settings(max_examples=400)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_arbitrary_bytes_never_raise(chunks: list[bytes]) -> None:
    everything(chunks)


@given(st.binary(min_size=1, max_size=60), st.integers(1, 9))
def test_arbitrary_bytes_end_alike_however_cut(raw: bytes, size: int) -> None:
    assert everything([raw]) == everything([raw[at : at + size] for at in range(0, len(raw), size)])


FAULTS = {
    "unmasked": (b"\x82\x01x", 1002, "mask"),
    "a reserved bit": (frame(BINARY, b"x", reserved=0x40), 1002, "reserved bit"),
    "text": (frame(TEXT, b"x"), 1003, "text"),
    "fragmented text": (frame(TEXT, b"x", final=False), 1003, "text"),
    "a reserved opcode": (frame(3), 1002, "frame type 3"),
    "a reserved control opcode": (frame(11), 1002, "frame type 11"),
    "a fragmented ping": (frame(PING, final=False), 1002, "fragmented"),
    "a long ping": (frame(PING, bytes(126)), 1002, "125"),
    "a continuation of nothing": (frame(CONTINUATION), 1002, "continue"),
    "a message inside a message": (frame(BINARY, final=False) + frame(BINARY), 1002, "inside"),
    "a text inside a message": (frame(BINARY, final=False) + frame(TEXT), 1002, "inside"),
    "a length with its highest bit": (b"\x82\xff\x80" + bytes(11), 1002, "highest bit"),
    "half a close code": (frame(CLOSE, b"\x03"), 1002, "one byte"),
    "close code 999": (frame(CLOSE, struct.pack(">H", 999)), 1002, "999"),
    "close code 1005": (frame(CLOSE, struct.pack(">H", 1005)), 1002, "1005"),
    "close code 2000": (frame(CLOSE, struct.pack(">H", 2000)), 1002, "2000"),
    "close code 5000": (frame(CLOSE, struct.pack(">H", 5000)), 1002, "5000"),
    "a close reason that is no text": (frame(CLOSE, struct.pack(">H", 1000) + b"\xff"), 1007, "UTF-8"),
}


@pytest.mark.parametrize(("raw", "code", "word"), FAULTS.values(), ids=FAULTS.keys())
def test_faults_close_with_their_code_and_name(raw: bytes, code: int, word: str) -> None:
    received = FrameDecoder().receive(frame(BINARY, b"before") + raw + frame(BINARY, b"after"))
    assert received.payload == b"before"
    assert received.close_code == code
    assert word in received.fault
    assert received.answers[0] == 0x88
    assert received.answers[2:4] == struct.pack(">H", code)
    assert word in received.answers[4:].decode()


@pytest.mark.parametrize("second", [frame(BINARY, b"x"), frame(TEXT, b"x")])
def test_a_message_inside_a_message_is_seen_when_it_comes_in_a_read_of_its_own(second: bytes) -> None:
    decoder = FrameDecoder()
    assert decoder.receive(frame(BINARY, b"a", final=False)).payload == b"a"
    assert decoder.receive(second).close_code == 1002


def test_payload_that_looks_like_a_frame_is_payload() -> None:
    # Unmasked, so that the bytes on the wire are the bytes of the payload.
    inner = frame(BINARY, b"looks like a message")
    raw = frame(BINARY, b"first" + inner, mask=bytes(4))
    decoder, cut = FrameDecoder(), len(raw) - len(inner)
    assert decoder.receive(raw[:cut]).payload == b"first"
    assert decoder.receive(raw[cut:]).payload == inner


def test_a_read_that_ends_127_bytes_behind_a_long_frames_first_mask_byte_is_not_a_frame() -> None:
    # 127 in the length byte means that eight bytes of length follow, not 127 bytes of payload.
    body = bytes(i % 251 for i in range(70_000))
    raw = frame(BINARY, body)
    decoder = FrameDecoder()
    cut = 2 + 4 + 127
    assert decoder.receive(raw[:cut]).payload + decoder.receive(raw[cut:]).payload == body


@pytest.mark.parametrize("code", [1000, 1001, 1014, 3000, 4999])
def test_a_close_is_echoed_with_its_code(code: int) -> None:
    body = struct.pack(">H", code)
    assert everything([frame(CLOSE, body + b"bye")]) == (b"", b"\x88\x02" + body, code, "")


def test_a_close_without_a_code_is_echoed_without_one() -> None:
    assert everything([frame(CLOSE)]) == (b"", b"\x88\x00", 1005, "")


def test_nothing_is_read_behind_the_end() -> None:
    decoder = FrameDecoder()
    assert decoder.receive(frame(CLOSE) + frame(BINARY, b"x")).payload == b""
    assert decoder.receive(frame(BINARY, b"x")) == (b"", b"", None, "")


def test_an_announced_length_costs_no_memory() -> None:
    tracemalloc.start()
    try:
        decoder = FrameDecoder()
        decoder.receive(b"\x82\xff" + struct.pack(">Q", 1 << 62) + MASK)
        for _ in range(200):
            assert len(decoder.receive(bytes(1000)).payload) == 1000
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_frame_in_many_pieces_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        raw = frame(BINARY, bytes(size))
        chunks = [raw[at : at + 50] for at in range(0, len(raw), 50)]
        best = 1e9
        for _ in range(3):
            decoder, start = FrameDecoder(), process_time()
            for chunk in chunks:
                decoder.receive(chunk)
            best = min(best, process_time() - start)
        return best

    # 16 times the bytes: 16 times the time if linear, over 200 times if each piece copies what came before.
    assert seconds(800_000) < 60 * seconds(50_000)


def test_unmasking_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        raw = frame(BINARY, bytes(size))
        best = 1e9
        for _ in range(5):
            start = process_time()
            FrameDecoder().receive(raw)
            best = min(best, process_time() - start)
        return best

    # 16 times the bytes: 16 times the time if linear (caches may make it 40), 256 times if quadratic.
    assert seconds(1_600_000) < 100 * seconds(100_000)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_what_the_server_sends_is_one_unmasked_binary_message(size: int) -> None:
    for data in (bytes(size), bytearray(size), memoryview(bytes(size))):
        raw = encode_binary(data)
        assert raw[0] == 0x82
        if size < 126:
            assert raw[1:] == bytes([size]) + bytes(size)
        elif size < 65_536:
            assert raw[1:] == struct.pack(">BH", 126, size) + bytes(size)
        else:
            assert raw[1:] == struct.pack(">BQ", 127, size) + bytes(size)


def test_a_close_reason_is_cut_at_a_character() -> None:
    raw = encode_close(1000, "é" * 100)
    assert raw[1] == 2 + 122
    assert raw[4:].decode() == "é" * 61


def test_the_handshake_is_that_of_the_standard_and_echoes_the_subprotocol() -> None:
    # The example of RFC 6455 section 1.3.
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    head = handshake_response("dGhlIHNhbXBsZSBub25jZQ==", "MQTT").decode()
    assert head.startswith("HTTP/1.1 101 ")
    assert "\r\nSec-WebSocket-Protocol: MQTT\r\n" in head
    assert "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert head.endswith("\r\n\r\n")


@pytest.mark.parametrize(
    ("key", "valid"),
    [
        ("dGhlIHNhbXBsZSBub25jZQ==", True),
        ("", False),
        ("dGhlIHNhbXBsZSBub25jZQ", False),
        ("dGhl", False),
        ("é" * 24, False),
        ("dGhlIHNhbXBsZSBub25jZQ==\n", False),
    ],
)
def test_keys_are_16_bytes_in_base64(key: str, valid: bool) -> None:
    assert valid_key(key) is valid
