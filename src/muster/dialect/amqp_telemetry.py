"""Telemetry as devices send it over AMQP, into its stored form: looked at, not decoded (device.md 4.4).

The stored form is a bare AMQP message, and so is what comes: sections that are well-formed, and written as every
receiver reads them, go into the record as they are. What is written otherwise is decoded and written anew. Either way
the result is one that ``wire.amqp.message.decode_message`` reads, and azure-eventhub too, which knows no descriptor
but ``smallulong`` and not all types.
"""

from __future__ import annotations

import uuid
from struct import Struct
from typing import Any

from muster.core.errors import ARGUMENT_INVALID, MESSAGE_TOO_LARGE, HubError
from muster.core.limits import MESSAGE_BYTES, Profile
from muster.dialect.record import annotation_head
from muster.identity.mistakes import shown
from muster.messages.properties import check_batch
from muster.wire.amqp.decoding import decode
from muster.wire.amqp.message import NO_VALUE, Message, Properties, decode_message, encode_message
from muster.wire.amqp.values import Byte, Described, Float, Int, Short, Symbol, Timestamp, UByte, UInt, ULong, UShort

BATCH_FORMAT = 0x80013700
"""The message format of a batch: each Data section is a message by itself (C# and C)."""

_KEPT = ("iothub-interface-id", "dt-subject", "Diagnostic-Id", "Correlation-Context")
"""Annotations that a device may make; others say what only the hub knows, or nothing to anybody."""

_MOVED = ("iothub-outputname", "iothub-message-schema")
"""Application properties that are system properties: MQTT has them as such, and they are stored as annotations."""

_FORGED = ("iothub-connection-", "iothub-enqueuedtime", "iothub-message-source")
"""What application properties that pretend to be the hub's begin with; Java sends its own ids so."""

_SIMPLE = (
    type(None), bool, int, float, str, bytes, uuid.UUID, Symbol, Timestamp, UByte, UShort, UInt, ULong, Byte, Short,
    Int, Float,
)  # fmt: skip
"""The simple types that azure-eventhub reads."""

_REMEMBERED_BYTES = 1024
"""What a link remembers of a message at most: properties that are longer are looked at each time."""

_PLAIN_HEAD = annotation_head({})
_EMPTY_DATA = b"\x00\x53\x75\xa0\x00"
_MOST = MESSAGE_BYTES.open
_U32 = Struct(">I").unpack_from

_TEXT, _SYMBOL, _MOMENT = (0x40, 0xA1, 0xB1), (0x40, 0xA3, 0xB3), (0x40, 0x83)
_ID = (0x40, 0xA0, 0xA1, 0xB1, 0x98, 0x44, 0x53, 0x80)
_FIELDS = (
    _ID, (0x40, 0xA0, 0xB0), _TEXT, _TEXT, _TEXT, _ID, _SYMBOL, _SYMBOL, _MOMENT, _MOMENT, _TEXT,
    (0x40, 0x43, 0x52, 0x70), _TEXT,
)  # fmt: skip
"""Of each field of the properties section the constructors that need no second look."""

_WIDTHS = {
    0x40: 0, 0x41: 0, 0x42: 0, 0x43: 0, 0x44: 0, 0x50: 1, 0x51: 1, 0x52: 1, 0x53: 1, 0x54: 1, 0x55: 1, 0x60: 2, 0x61: 2,
    0x70: 4, 0x71: 4, 0x72: 4, 0x80: 8, 0x81: 8, 0x82: 8, 0x83: 8, 0x98: 16,
}  # fmt: skip


class TelemetryReader:
    """Makes the part of a record that follows its sender. One for each link: it remembers what it has seen last."""

    __slots__ = ("_application", "_before", "_begin")

    def __init__(self) -> None:
        self._application = b""
        self._before = b"\xff"
        """All that stood before the content of the data section, the last one, of a message that was good."""
        self._begin = 0
        """Where in that its bare message begins."""

    def read(self, payload: bytes) -> bytes:
        """``payload``, one message of format 0, as annotations and sections.

        Raises ``AmqpDecodeError`` when it is no message, ``HubError`` 413001 when it is over 256 KiB, 400004 when its
        body or a property cannot be delivered.
        """
        size = len(payload)
        if size > _MOST:
            return _rewritten(payload)
        if payload.startswith(self._before) and _fills(payload, len(self._before), size):
            return _PLAIN_HEAD + payload[self._begin :]
        position, last, begin, end, latest = 0, 0, -1, -1, 0
        while position < size:
            code, stop = _section(payload, position, size)
            if stop < 0 or (code <= last and code != 0x75):
                return _rewritten(payload)
            latest, last = position, code
            if code == 0x75:
                end = stop
            elif code == 0x73:
                if not _good_properties(payload, position + 3, stop):
                    return _rewritten(payload)
            elif code == 0x74:
                if not self._good_application(payload[position:stop]):
                    return _rewritten(payload)
            elif code > 0x75 or code == 0x72:
                return _rewritten(payload)
            if begin < 0 and code >= 0x73:
                begin = position
            position = stop
        if end < 0:
            return _rewritten(payload)
        if latest < _REMEMBERED_BYTES:
            self._before, self._begin = payload[: latest + 3], begin
        return _PLAIN_HEAD + payload[begin:end]

    def read_batch(self, payload: bytes, profile: Profile) -> list[bytes]:
        """The messages of a batch, each as ``read`` makes it. Raises as that, and 400004 when there are none, or more
        than ``profile`` allows."""
        parts = decode_message(payload).data
        check_batch(len(parts), profile)
        found = [self.read(part) for part in parts]
        if not found:
            raise HubError(ARGUMENT_INVALID, "The batch holds no message; send each in a Data section.")
        if len(payload) > _MOST and sum(_counted(decode_message(part)) for part in parts) > _MOST:
            raise HubError(MESSAGE_TOO_LARGE, f"The batch is over {_MOST} bytes, send fewer messages in one.")
        return found

    def _good_application(self, section: bytes) -> bool:
        """Whether the application properties can stay as they are. Often they are those of the message before."""
        if section == self._application:
            return True
        if b"iothub-" in section:
            return False
        content = decode(section, 0, len(section))[0]
        assert isinstance(content, Described)
        pairs = content.value
        if not isinstance(pairs, dict) or not all(type(name) is str for name in pairs):
            return False
        if not all(type(value) in _SIMPLE for value in pairs.values()):
            return False
        self._application = section
        return True


def _fills(payload: bytes, position: int, size: int) -> bool:
    """Whether the content of a data section that begins at ``position`` ends with the message."""
    if position + 1 < size and payload[position] == 0xA0:
        return position + 2 + payload[position + 1] == size
    return position + 4 < size and payload[position] == 0xB0 and position + 5 + _U32(payload, position + 1)[0] == size


def _section(payload: bytes, position: int, size: int) -> tuple[int, int]:
    """The code of the section at ``position`` and where it ends; -1 when it is not written in the usual way."""
    if position + 5 > size or payload[position] or payload[position + 1] != 0x53:
        return 0, -1
    code, kind = payload[position + 2], payload[position + 3]
    if code == 0x70 and kind == 0x45:  # an empty header, as Proton writes it
        return code, position + 4
    if kind & 0x10:
        stop = position + 8 + _U32(payload, position + 4)[0] if position + 8 <= size else -1
    else:
        stop = position + 5 + payload[position + 4]
    if stop > size or _KINDS.get(code) != kind | 0x10:
        return 0, -1
    return code, stop


_KINDS = {0x70: 0xD0, 0x71: 0xD1, 0x72: 0xD1, 0x73: 0xD0, 0x74: 0xD1, 0x75: 0xB0, 0x78: 0xD1}
"""Section to the wide constructor of its content."""


def _good_properties(payload: bytes, position: int, stop: int) -> bool:
    """Whether the list at ``position`` holds the standard properties, each of its usual type."""
    if payload[position] == 0xC0 and stop - position >= 3:
        count, position = payload[position + 2], position + 3
    elif payload[position] == 0xD0 and stop - position >= 9:
        count, position = _U32(payload, position + 5)[0], position + 9
    else:
        return False
    if count > len(_FIELDS):
        return False
    for usual in _FIELDS[:count]:
        if position >= stop:
            return False
        kind = payload[position]
        position += 1
        if kind not in usual:
            return False
        if kind < 0xA0:
            position += _WIDTHS[kind]
            continue
        if position >= stop:
            return False
        if kind < 0xB0:
            start = position + 1
            position = start + payload[position]
        else:
            start = position + 4
            if start > stop:
                return False
            position = start + _U32(payload, position)[0]
        if kind & 0xF and not payload[start:position].isascii():
            return False
    return position == stop


def counted_bytes(payload: bytes, message_format: int) -> list[int]:
    """How large each message of ``payload`` counts. Raises ``AmqpDecodeError`` when it is none."""
    message = decode_message(payload)
    return [_counted(decode_message(part)) for part in message.data] if message_format else [_counted(message)]


# --- the long way


def _rewritten(payload: bytes) -> bytes:
    message = decode_message(payload)
    if _counted(message) > _MOST:
        raise HubError(MESSAGE_TOO_LARGE, f"The message is over {_MOST} bytes with its properties.")
    if message.sequences or message.value is not NO_VALUE:
        raise HubError(ARGUMENT_INVALID, "The body is no binary data, send it as Data sections.")
    given = message.message_annotations or {}
    annotations = {name: _text(name, given[name]) for name in _KEPT if given.get(name) is not None}
    application: dict[Any, Any] = {}
    for name, value in (message.application_properties or {}).items():
        if name in _MOVED and value is not None:
            annotations[str(name)] = _text(str(name), value)
        elif not str(name).startswith(_FORGED):
            _check_simple(str(name), value)
            application[str(name)] = value
    properties = message.properties
    if properties is not None:
        for name, value in properties._asdict().items():
            _check_simple(name.replace("_", "-"), value)
    bare = Message(
        properties=None if properties is None or properties == Properties() else properties,
        application_properties=application or None,
        data=message.data,
    )
    return annotation_head(annotations) + encode_message(bare) + (b"" if message.data else _EMPTY_DATA)


def _text(name: str, value: object) -> str:
    _check_simple(name, value)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _check_simple(name: str, value: object) -> None:
    if type(value) not in _SIMPLE:
        raise HubError(ARGUMENT_INVALID, f"{shown(name)} is a {type(value).__name__}, send text or a number.")


def _counted(message: Message) -> int:
    """How large a message counts: body, values of system properties, names and values of application properties."""
    system = (message.properties or Properties())._asdict().values()
    application = (message.application_properties or {}).items()
    texts = [value for value in system if value is not None] + [part for pair in application for part in pair]
    return sum(len(part) for part in message.data) + sum(_bytes_in(value) for value in texts)


def _bytes_in(value: object) -> int:
    if isinstance(value, bytes):
        return len(value)
    return len(str(value).encode(errors="replace"))
