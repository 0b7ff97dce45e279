"""The HTTP/1.1 codec: the same events however the bytes are cut, nothing but declared errors, a bound on the head."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from muster.wire.http import END, Event, HttpError, RequestDecoder, RequestHead, chunk, response_head

HEAD_BYTES = 1000

STREAM = (
    b"POST /devices/a%20b?x=1&y HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX-Empty:\r\n\r\nhello"
    b"PUT http://h/c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\nTrailer: t\r\n\r\n"
    b"GET / HTTP/1.0\r\n\r\n"
)


def joined(events: list[Event]) -> list[Event]:
    """The events with neighbouring pieces of a body made one, and what came whole told as if it had not."""
    result: list[Event] = []
    for event in events:
        if isinstance(event, RequestHead) and event.body is not None:
            result += [event._replace(body=None), *([event.body] if event.body else []), END]
        elif type(event) is bytes and result and type(result[-1]) is bytes:
            result[-1] += event
        else:
            result.append(event)
    return result


def decoded(*pieces: bytes) -> list[Event]:
    decoder = RequestDecoder(HEAD_BYTES)
    return joined([event for piece in pieces for event in decoder.receive(piece)])


WHOLE = decoded(STREAM)


def test_a_stream_of_requests_is_read_with_all_that_they_say() -> None:
    first, hello, end, second, body, _, third, last = WHOLE
    assert isinstance(first, RequestHead)
    assert (first.method, first.target, first.version, first.keep_alive) == (
        "POST", "/devices/a%20b?x=1&y", "1.1", True,
    )  # fmt: skip
    assert (first.headers["HOST"], first.headers["x-empty"]) == ("h", "")
    assert (hello, end) == (b"hello", END)
    assert isinstance(second, RequestHead)
    assert (second.target, body) == ("http://h/c", b"abcdefg")
    assert isinstance(third, RequestHead)
    assert (third.version, third.keep_alive, last) == ("1.0", False, END)


def test_the_events_are_the_same_at_every_split_point() -> None:
    for at in range(1, len(STREAM)):
        assert decoded(STREAM[:at], STREAM[at:]) == WHOLE, at
    assert decoded(*[STREAM[at : at + 1] for at in range(len(STREAM))]) == WHOLE


LINES = (
    "Host: h", "A: b c", "A: b ", "A:b", "B:", "Content-Length: 0", "Content-Length: 3", "content-length: 03",
    "Content-Length: 3 ", "Content-Length: +3", "Content-Length: 9999999999", "Transfer-Encoding: chunked",
    "Transfer-Encoding: keep-alive", "Connection: keep-alive", "Connection: close", "Connection: Keep-Alive, x",
    "Proxy-Connection: keep-alive", "Proxy-Connection: close", "Upgrade: websocket", "Connection: upgrade",
    "Expect: 100-continue", "Bad Name: x", "Größe: ß", "A: \x01", "A: x\r\n folded", "Keep-Alive: 3",
)  # fmt: skip
LINE_ENDS = st.sampled_from(["\r\n"] * 9 + ["\n"])
TARGETS = ["/", "/a%20b?x=1", "/a#b", '/"<', "/é", "*", "http://h/c", "h:1", "/a b"]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    line = f"{draw(st.sampled_from(['GET', 'POST', 'PATCH', 'HEAD', 'CONNECT', 'get', 'NO']))} "
    line += f"{draw(st.sampled_from(['/'] * 5 + TARGETS))} HTTP/{draw(st.sampled_from(['1.1'] * 8 + ['1.0', '9']))}"
    lines = [line, *draw(st.lists(st.sampled_from(LINES), max_size=4)), ""]
    text = "".join(f"{line}{draw(LINE_ENDS)}" for line in lines)
    return text.encode() + draw(st.sampled_from([b"", b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n"]))


def outcome(pieces: list[bytes]) -> tuple[list[Event], str]:
    """What the pieces come to, and the fault that ended them."""
    decoder, events = RequestDecoder(HEAD_BYTES), []
    try:
        for piece in pieces:
            events += decoder.receive(piece)
    except HttpError as error:
        return joined(events + error.events), error.reason
    return joined(events), ""


@settings(max_examples=500)
@given(st.lists(requests(), min_size=1, max_size=3))
@example([b"GET / HTTP/1.1\r\nTransfer-Encoding: keep-alive\r\n\r\n"])
def test_a_request_that_comes_whole_is_what_llhttp_reads_byte_by_byte(parts: list[bytes]) -> None:
    stream = b"".join(parts)
    by_byte = outcome([stream[at : at + 1] for at in range(len(stream))])
    events, fault = outcome([stream])
    if by_byte[0] and any(isinstance(one, RequestHead) and not one.keep_alive for one in by_byte[0]):
        return  # what follows the last request is nobody's: how much of it is looked at depends on the pieces
    assert (events, fault) == by_byte


def test_a_truncated_stream_is_no_error_and_ends_nothing_too_early() -> None:
    for at in range(len(STREAM)):
        assert decoded(STREAM[:at]).count(END) <= WHOLE.count(END)


@pytest.mark.parametrize(
    ("wrong", "before"),
    [
        (b"hello\r\n\r\n", 0),
        (b"GET / HTTP/9\r\n\r\n", 0),
        (b"GET / HTTP/2.0\r\n\r\n", 0),
        (b"GET / HTTP/1.1\nHost: h\n\n", 0),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 0),
        (b"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 0),
        (b"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 0),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 1),
        (b"GET / HTTP/1.1\r\n\r\n\x16\x03\x01", 2),
    ],
)
def test_what_is_no_http_is_an_error_with_the_good_events_before_it(wrong: bytes, before: int) -> None:
    with pytest.raises(HttpError) as caught:
        RequestDecoder(HEAD_BYTES).receive(wrong)
    assert caught.value.status == 400
    assert len(caught.value.events) == before


def test_an_error_repeats_nothing_of_what_was_sent() -> None:
    with pytest.raises(HttpError) as caught:
        RequestDecoder(HEAD_BYTES).receive(b"GET / HTTP/1.1\r\nAuthorization: sig=SECRET\x00\r\n\r\n")
    assert "SECRET" not in caught.value.reason


def test_a_head_that_does_not_end_is_431_before_it_is_large() -> None:
    decoder = RequestDecoder(HEAD_BYTES)
    decoder.receive(b"GET / HTTP/1.1\r\nX: ")
    for _ in range(HEAD_BYTES // 100):
        decoder.receive(b"x" * 100)
    with pytest.raises(HttpError) as caught:
        decoder.receive(b"x")
    assert caught.value.status == 431


def test_a_long_body_is_not_taken_for_a_long_head() -> None:
    body = b"x" * (10 * HEAD_BYTES)
    request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert decoded(request, body, request, body)[1] == body


def test_a_request_that_would_leave_http_is_complete_with_its_head_and_the_last() -> None:
    head, end = decoded(b"GET /x HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00")
    assert isinstance(head, RequestHead)
    assert (head.keep_alive, end) == (False, END)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_make_events_or_the_declared_error(data: bytes) -> None:
    decoder = RequestDecoder(HEAD_BYTES)
    try:
        decoder.receive(data)
        decoder.receive(data)
    except HttpError:
        pass


@given(st.data())
def test_a_mutated_stream_makes_events_or_the_declared_error(data: st.DataObject) -> None:
    mutated = bytearray(STREAM)
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    at = data.draw(st.integers(0, len(mutated)))
    decoder = RequestDecoder(HEAD_BYTES)
    try:
        for piece in (mutated[:at], mutated[at:]):
            decoder.receive(bytes(piece))
    except HttpError:
        pass


def test_heads_of_answers_and_chunks() -> None:
    assert response_head("1.1", 200, {"A": "b", "Größe": "ß"}) == "HTTP/1.1 200 OK\r\nA: b\r\nGröße: ß\r\n\r\n".encode()
    assert response_head("1.0", 799, {}) == b"HTTP/1.0 799 Unknown\r\n\r\n"
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb"])
def test_a_header_cannot_smuggle_another(value: str) -> None:
    with pytest.raises(ValueError, match="end of a line"):
        response_head("1.1", 200, {"Location": value})
