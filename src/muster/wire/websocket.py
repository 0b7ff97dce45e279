"""WebSocket (RFC 6455), the server's side, for protocols that treat binary messages as one stream of bytes.

Where messages and frames begin and end has no meaning to MQTT and AMQP, so payload is passed on as it comes:
nothing is allocated by a length the peer announces, and nothing but an unfinished header or control frame
is kept. No extensions are offered.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final, NamedTuple

NORMAL_CLOSURE: Final = 1000
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
INVALID_TEXT: Final = 1007

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_CONTROL_LIMIT: Final = 125
_NO_STATUS: Final = 1005


def valid_key(key: str) -> bool:
    """Whether ``key`` is what a client may send as ``Sec-WebSocket-Key``: 16 bytes in base64 (section 4.2.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def accept_key(key: str) -> str:
    """``Sec-WebSocket-Accept`` for a client's ``Sec-WebSocket-Key`` (section 4.2.2)."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def handshake_response(key: str, subprotocol: str) -> bytes:
    """The 101 answer. ``subprotocol`` must be spelt as the client offered it: several refuse any other case."""
    return (
        "HTTP/1.1 101 Switching Protocols\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n"
        f"Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    ).encode()


def encode_binary(data: bytes | bytearray | memoryview) -> bytes:
    """``data`` as one unfragmented binary message."""
    length = len(data)
    if length <= _CONTROL_LIMIT:
        return b"".join((b"\x82", length.to_bytes(1, "big"), data))
    if length <= 0xFFFF:
        return b"".join((b"\x82\x7e", length.to_bytes(2, "big"), data))
    return b"".join((b"\x82\x7f", length.to_bytes(8, "big"), data))


def encode_close(code: int, reason: str = "") -> bytes:
    """A close frame. ``reason`` is cut where it would not fit."""
    body = code.to_bytes(2, "big") + reason.encode()[: _CONTROL_LIMIT - 2]
    while reason and not _is_text(body[2:]):
        body = body[:-1]
    return bytes((_FINAL | _CLOSE, len(body))) + body


class Received(NamedTuple):
    """What a read brought: ``payload`` for the inner protocol, ``answers`` to be sent to the peer.

    ``close_code`` is not ``None`` when the connection ends here, by the peer's close frame (its code, 1005 when it
    had none) or by its fault, which ``fault`` then names; the closing frame is in ``answers`` already.
    """

    payload: bytes
    answers: bytes = b""
    close_code: int | None = None
    fault: str = ""


_NOTHING: Final = Received(b"")


class _Fault(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameDecoder:
    """Takes a client's frames apart."""

    __slots__ = ("_answers", "_close_code", "_in_message", "_mask", "_payload", "_remaining", "_rest")

    def __init__(self) -> None:
        self._rest = b""
        self._remaining = 0
        self._mask = b""
        self._in_message = False
        self._close_code: int | None = None
        self._payload: list[bytes] = []
        self._answers: list[bytes] = []

    def receive(self, data: bytes) -> Received:
        """Decode ``data``, which may begin and end anywhere. What comes behind the end is ignored."""
        if self._close_code is not None:
            return _NOTHING
        if self._rest:
            data = self._rest + data
            self._rest = b""
        elif not self._remaining and not self._in_message:
            whole = _only_frame(data)
            if whole is not None:
                return Received(whole)
        fault = ""
        try:
            self._frames(data)
        except _Fault as error:
            fault, self._close_code = error.reason, error.code
            self._answers.append(encode_close(error.code, error.reason))
        payload, answers = self._payload, self._answers
        self._payload, self._answers = [], []
        return Received(b"".join(payload), b"".join(answers), self._close_code, fault)

    def _frames(self, data: bytes) -> None:
        at, end = 0, len(data)
        while at < end and self._close_code is None:
            if self._remaining:
                at = self._stream(data, at, end)
                continue
            body = self._header(data, at, end)
            if body == 0:
                self._rest = data[at:]
                return
            if data[at] & 0x08:
                stop = body + self._remaining
                if stop > end:
                    self._remaining = 0
                    self._rest = data[at:]
                    return
                self._remaining = 0
                self._control(data[at] & 0x0F, _unmasked(data[body:stop], self._mask))
                at = stop
            else:
                at = body

    def _stream(self, data: bytes, at: int, end: int) -> int:
        """Pass on what is here of the data frame begun; returns where it stops."""
        stop = min(at + self._remaining, end)
        self._payload.append(_unmasked(data[at:stop], self._mask))
        self._remaining -= stop - at
        turn = (stop - at) & 3
        if self._remaining and turn:
            self._mask = self._mask[turn:] + self._mask[:turn]
        return stop

    def _header(self, data: bytes, at: int, end: int) -> int:
        """Judge the frame header at ``at`` and take length and mask from it.

        Returns where its payload begins, 0 while the header is incomplete.
        """
        first = data[at]
        if first != _FINAL | _BINARY or self._in_message:
            self._judge(first)
        if at + 1 == end:
            return 0
        second = data[at + 1]
        if not second & _MASKED:
            raise _Fault(PROTOCOL_ERROR, "a client must mask its frames")
        length = second & 0x7F
        mask = at + 2
        if length > _CONTROL_LIMIT:
            if first & 0x08:
                raise _Fault(PROTOCOL_ERROR, "a control frame carries at most 125 bytes")
            mask += 2 if length == 126 else 8
        if mask + 4 > end:
            return 0
        if length > _CONTROL_LIMIT:
            length = int.from_bytes(data[at + 2 : mask], "big")
            if length >> 63:
                raise _Fault(PROTOCOL_ERROR, "a frame's length has its highest bit set")
        self._remaining = length
        self._mask = data[mask : mask + 4]
        if not first & 0x08:
            self._in_message = not first & _FINAL
        return mask + 4

    def _judge(self, first: int) -> None:
        """Refuse a first byte that may not stand here (section 5.2 and 5.4)."""
        opcode = first & 0x0F
        if first & _RESERVED:
            raise _Fault(PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed")
        if opcode in {_CLOSE, _PING, _PONG}:
            if not first & _FINAL:
                raise _Fault(PROTOCOL_ERROR, "a control frame is fragmented")
        elif opcode == _CONTINUATION:
            if not self._in_message:
                raise _Fault(PROTOCOL_ERROR, "a continuation frame without a message to continue")
        elif self._in_message and opcode in {_TEXT, _BINARY}:
            raise _Fault(PROTOCOL_ERROR, "a message begins inside another")
        elif opcode == _TEXT:
            raise _Fault(UNSUPPORTED_DATA, "a text message; send binary ones")
        elif opcode != _BINARY:
            raise _Fault(PROTOCOL_ERROR, f"frame type {opcode} is reserved")

    def _control(self, opcode: int, body: bytes) -> None:
        if opcode == _PING:
            self._answers.append(bytes((_FINAL | _PONG, len(body))) + body)
        elif opcode == _CLOSE:
            code = _close_code(body)
            self._close_code = _NO_STATUS if code is None else code
            self._answers.append(bytes((_FINAL | _CLOSE, 0)) if code is None else encode_close(code))


def _only_frame(data: bytes) -> bytes | None:
    """The payload when ``data`` is exactly one masked binary message of one frame, the usual read; else ``None``."""
    count = len(data)
    if count < 6 or data[0] != _FINAL | _BINARY:
        return None
    length, mask = data[1] - _MASKED, 2
    if length == 126:
        length, mask = data[2] << 8 | data[3], 4
    elif not 0 <= length <= _CONTROL_LIMIT:
        return None
    if length != count - mask - 4:
        return None
    return _unmasked(data[mask + 4 :], data[mask : mask + 4])


def _unmasked(data: bytes, mask: bytes) -> bytes:
    """``data`` XOR the repeated ``mask`` (section 5.3), as one large number: a loop over bytes would cost 20 times."""
    count = len(data)
    key = (mask * (count // 4 + 1))[:count]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(count, "little")


def _close_code(body: bytes) -> int | None:
    """The status code in a close frame, ``None`` when it has none (section 5.5.1 and 7.4)."""
    if not body:
        return None
    if len(body) == 1:
        raise _Fault(PROTOCOL_ERROR, "a close frame has one byte of a status code")
    code = int.from_bytes(body[:2], "big")
    if not (1000 <= code <= 1014 and code not in {1004, 1005, 1006}) and not 3000 <= code <= 4999:
        raise _Fault(PROTOCOL_ERROR, f"{code} is no status code for a close frame")
    if not _is_text(body[2:]):
        raise _Fault(INVALID_TEXT, "the reason in a close frame is not UTF-8")
    return code


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
