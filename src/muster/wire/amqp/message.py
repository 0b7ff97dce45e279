"""Messages: the sections of a transfer's payload (AMQP 1.0 part 3, section 3.2)."""

from __future__ import annotations

from typing import Any, NamedTuple

from muster.wire.amqp.composite import (
    ANY,
    BINARY,
    BOOLEAN,
    STRING,
    SYMBOL,
    TIMESTAMP,
    UBYTE,
    UINT,
    encode_composite,
    layout_named,
    make_composite,
    register,
)
from muster.wire.amqp.decoding import AmqpDecodeError, decode
from muster.wire.amqp.encoding import encode as encode_value
from muster.wire.amqp.encoding import encode_binary, encode_list, encode_map
from muster.wire.amqp.values import Described, Symbol, ULong


class Header(NamedTuple):
    """How the message is to be carried. ``ttl`` in milliseconds."""

    durable: bool = False
    priority: int = 4
    ttl: int | None = None
    first_acquirer: bool = False
    delivery_count: int = 0


class Properties(NamedTuple):
    """The standard properties. Ids keep the type they came with (string, ulong, uuid, binary); times are in
    milliseconds since 1970."""

    message_id: Any = None
    user_id: bytes | None = None
    to: Any = None
    subject: str | None = None
    reply_to: Any = None
    correlation_id: Any = None
    content_type: str | None = None
    content_encoding: str | None = None
    absolute_expiry_time: int | None = None
    creation_time: int | None = None
    group_id: str | None = None
    group_sequence: int | None = None
    reply_to_group_id: str | None = None


register(Header, 0x70, "header", BOOLEAN, UBYTE, UINT, BOOLEAN, UINT)
register(
    Properties, 0x73, "properties",
    ANY, BINARY, ANY, STRING, ANY, ANY, SYMBOL, SYMBOL, TIMESTAMP, TIMESTAMP, STRING, UINT, STRING,
)  # fmt: skip

DELIVERY_ANNOTATIONS = b"\x00\x53\x71"
MESSAGE_ANNOTATIONS = b"\x00\x53\x72"
APPLICATION_PROPERTIES = b"\x00\x53\x74"
DATA = b"\x00\x53\x75"
SEQUENCE = b"\x00\x53\x76"
VALUE = b"\x00\x53\x77"
FOOTER = b"\x00\x53\x78"

NO_VALUE: Any = object()
"""Stands for the absence of an amqp-value body; null is a value."""


class Message(NamedTuple):
    """One message. The body is ``data``, or ``sequences``, or ``value``; ``None`` stands for an absent section."""

    header: Header | None = None
    delivery_annotations: dict[Any, Any] | None = None
    message_annotations: dict[Any, Any] | None = None
    properties: Properties | None = None
    application_properties: dict[Any, Any] | None = None
    data: tuple[bytes, ...] = ()
    sequences: tuple[list[Any], ...] = ()
    value: Any = NO_VALUE
    footer: dict[Any, Any] | None = None

    @property
    def body(self) -> bytes:
        """The data sections, joined."""
        return b"".join(self.data)


def encode_message(message: Message) -> bytes:
    """The sections that ``message`` has, in the order of the standard. Raises ``ValueError`` as ``encode``."""
    parts = []
    if message.header is not None:
        parts.append(encode_composite(message.header))
    if message.delivery_annotations is not None:
        parts.append(DELIVERY_ANNOTATIONS + encode_map(message.delivery_annotations))
    if message.message_annotations is not None:
        parts.append(MESSAGE_ANNOTATIONS + encode_map(message.message_annotations))
    if message.properties is not None:
        parts.append(encode_composite(message.properties))
    if message.application_properties is not None:
        parts.append(APPLICATION_PROPERTIES + encode_map(message.application_properties))
    parts.extend([DATA + encode_binary(part) for part in message.data])
    parts.extend([SEQUENCE + encode_list(part) for part in message.sequences])
    if message.value is not NO_VALUE:
        parts.append(VALUE + encode_value(message.value))
    if message.footer is not None:
        parts.append(FOOTER + encode_map(message.footer))
    return b"".join(parts)


_MAPS = {
    0x71: "delivery_annotations",
    0x72: "message_annotations",
    0x74: "application_properties",
    0x78: "footer",
}
_NAMES = {
    "amqp:header:list": 0x70,
    "amqp:delivery-annotations:map": 0x71,
    "amqp:message-annotations:map": 0x72,
    "amqp:properties:list": 0x73,
    "amqp:application-properties:map": 0x74,
    "amqp:data:binary": 0x75,
    "amqp:amqp-sequence:list": 0x76,
    "amqp:amqp-value:*": 0x77,
    "amqp:footer:map": 0x78,
}


def decode_message(payload: bytes) -> Message:
    """The message that ``payload`` holds.

    Raises ``AmqpDecodeError`` for anything but known sections in the order of the standard.
    """
    sections: dict[str, Any] = {}
    data: list[bytes] = []
    sequences: list[list[Any]] = []
    position, last = 0, 0
    while position < len(payload):
        section, position = decode(payload, position, len(payload))
        code = _section_code(section)
        assert isinstance(section, Described)
        content = section.value
        if code < last or (code == last and code not in {0x75, 0x76}):
            raise AmqpDecodeError("the sections of a message are out of order")
        last = code
        if code == 0x75 and isinstance(content, bytes):
            data.append(content)
        elif code == 0x76 and isinstance(content, list):
            sequences.append(content)
        elif code == 0x77:
            sections["value"] = content
        elif code in _MAPS and isinstance(content, dict):
            sections[_MAPS[code]] = content
        elif code in {0x70, 0x73}:
            layout = layout_named(section.descriptor)
            assert layout is not None
            sections[layout.name] = make_composite(layout, content)
        else:
            raise AmqpDecodeError(f"a section of kind 0x{code:02x} holds a {type(content).__name__}")
    if bool(data) + bool(sequences) + ("value" in sections) > 1:
        raise AmqpDecodeError("a message has bodies of two kinds")
    return Message(data=tuple(data), sequences=tuple(sequences), **sections)


def _section_code(section: object) -> int:
    if isinstance(section, Described):
        descriptor = section.descriptor
        if isinstance(descriptor, ULong) and 0x70 <= descriptor <= 0x78:
            return descriptor
        if isinstance(descriptor, Symbol) and descriptor in _NAMES:
            return _NAMES[descriptor]
    raise AmqpDecodeError("a payload is not made of message sections")
