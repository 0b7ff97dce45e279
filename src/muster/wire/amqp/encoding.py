"""AMQP values to bytes (AMQP 1.0 part 1), each in the shortest encoding of its type.

Save that a numeric descriptor is always ``smallulong``: azure-eventhub reads no other (clients.md 1).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any

from muster.wire.amqp.values import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Float,
    Int,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

NULL = b"\x40"

_U8, _U16, _U32, _U64 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_I8, _I16, _I32, _I64 = struct.Struct(">b"), struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_F32, _F64 = struct.Struct(">f"), struct.Struct(">d")

_Writer = Callable[[Any], bytes]


def encode(value: object) -> bytes:
    """``value`` with its constructor.

    Raises ``ValueError`` when it does not fit its type or is of none that AMQP has.
    """
    writer = _WRITERS.get(type(value))
    if writer is None:
        raise ValueError(f"{type(value).__name__} has no AMQP encoding")
    try:
        return writer(value)
    except (struct.error, OverflowError, UnicodeEncodeError) as problem:
        raise ValueError(f"the value does not fit {type(value).__name__}: {problem}") from None


def _sized(narrow: int, content: bytes) -> bytes:
    if len(content) < 256:
        return bytes((narrow, len(content))) + content
    return bytes((narrow | 0x10,)) + _U32.pack(len(content)) + content


def encode_compound(narrow: int, count: int, content: bytes) -> bytes:
    """A list (0xc0), map (0xc1) or array (0xe0) of ``count`` elements that are encoded in ``content``."""
    if count < 256 and len(content) < 255:
        return bytes((narrow, len(content) + 1, count)) + content
    return bytes((narrow | 0x10,)) + _U32.pack(len(content) + 4) + _U32.pack(count) + content


def encode_binary(value: bytes) -> bytes:
    """``value`` as binary."""
    return _sized(0xA0, value)


def encode_string(value: str) -> bytes:
    """``value`` as string."""
    return _sized(0xA1, value.encode())


def encode_symbol(value: str) -> bytes:
    """``value`` as symbol. The standard wants ASCII; UTF-8 lets a device's odd content type through."""
    return _sized(0xA3, value.encode())


def encode_uint(value: int) -> bytes:
    """``value`` as uint."""
    return b"\x43" if value == 0 else bytes((0x52, value)) if 0 < value < 256 else b"\x70" + _U32.pack(value)


def encode_ulong(value: int) -> bytes:
    """``value`` as ulong."""
    return b"\x44" if value == 0 else bytes((0x53, value)) if 0 < value < 256 else b"\x80" + _U64.pack(value)


def encode_boolean(value: bool) -> bytes:
    """``value`` as boolean."""
    return b"\x41" if value else b"\x42"


def encode_list(items: list[Any]) -> bytes:
    """``items`` as list."""
    return encode_compound(0xC0, len(items), _each(items)) if items else b"\x45"


def encode_map(pairs: dict[Any, Any]) -> bytes:
    """``pairs`` as map."""
    return encode_compound(0xC1, 2 * len(pairs), _each_pair(pairs))


def encode_descriptor(descriptor: object) -> bytes:
    """What stands in front of a described value."""
    if isinstance(descriptor, ULong) and 0 <= descriptor < 256:
        return bytes((0x00, 0x53, descriptor))
    return b"\x00" + encode(descriptor)


def _each(items: list[Any]) -> bytes:
    return b"".join([encode(item) for item in items])


def _each_pair(pairs: dict[Any, Any]) -> bytes:
    return b"".join([encode(part) for pair in pairs.items() for part in pair])


def _described(value: Described) -> bytes:
    return encode_descriptor(value.descriptor) + encode(value.value)


def _long(value: int) -> bytes:
    return b"\x55" + _I8.pack(value) if -128 <= value < 128 else b"\x81" + _I64.pack(value)


def _int(value: int) -> bytes:
    return b"\x54" + _I8.pack(value) if -128 <= value < 128 else b"\x71" + _I32.pack(value)


def _char(value: str) -> bytes:
    content = value.encode("utf-32-be")
    if len(content) != 4:
        raise ValueError("a char is one code point")
    return content


def _opaque(width: int) -> _Writer:
    def write(value: bytes) -> bytes:
        if len(value) != width:
            raise ValueError(f"{type(value).__name__} takes {width} bytes")
        return bytes(value)

    return write


def _after(constructor: int, content: _Writer) -> _Writer:
    head = bytes((constructor,))
    return lambda value: head + content(value)


def _with_size(content: _Writer) -> _Writer:
    def write(value: Any) -> bytes:
        encoded = content(value)
        return _U32.pack(len(encoded)) + encoded

    return write


def _with_count(content: _Writer) -> _Writer:
    return lambda items: _U32.pack(len(items)) + content(items)


def _array_content(items: Array) -> bytes:
    write = _CONTENTS.get(items.code)
    if write is None:
        raise ValueError(f"no full form of a type has the constructor 0x{items.code:02x}")
    head = b"" if items.descriptor is None else encode_descriptor(items.descriptor)
    return head + bytes((items.code,)) + b"".join([write(item) for item in items])


def _array(items: Array) -> bytes:
    return encode_compound(0xE0, len(items), _array_content(items))


_CONTENTS: dict[int, _Writer] = {
    0x40: lambda _: b"",
    0x50: _U8.pack,
    0x51: _I8.pack,
    0x56: lambda value: b"\x01" if value else b"\x00",
    0x60: _U16.pack,
    0x61: _I16.pack,
    0x70: _U32.pack,
    0x71: _I32.pack,
    0x72: _F32.pack,
    0x73: _char,
    0x74: _opaque(4),
    0x80: _U64.pack,
    0x81: _I64.pack,
    0x82: _F64.pack,
    0x83: _I64.pack,
    0x84: _opaque(8),
    0x94: _opaque(16),
    0x98: lambda value: bytes(value.bytes),
    0xB0: _with_size(bytes),
    0xB1: _with_size(str.encode),
    0xB3: _with_size(str.encode),
    0xD0: _with_size(_with_count(_each)),
    0xD1: _with_size(lambda pairs: _U32.pack(2 * len(pairs)) + _each_pair(pairs)),
    0xF0: _with_size(_with_count(_array_content)),
}
"""Constructor byte of a full form to the writer of its content, size included where it has one."""

_WRITERS: dict[type, _Writer] = {
    type(None): lambda _: NULL,
    bool: encode_boolean,
    UByte: _after(0x50, _CONTENTS[0x50]),
    UShort: _after(0x60, _CONTENTS[0x60]),
    UInt: encode_uint,
    ULong: encode_ulong,
    Byte: _after(0x51, _CONTENTS[0x51]),
    Short: _after(0x61, _CONTENTS[0x61]),
    Int: _int,
    int: _long,
    Float: _after(0x72, _CONTENTS[0x72]),
    float: _after(0x82, _CONTENTS[0x82]),
    Decimal32: _after(0x74, _CONTENTS[0x74]),
    Decimal64: _after(0x84, _CONTENTS[0x84]),
    Decimal128: _after(0x94, _CONTENTS[0x94]),
    Char: _after(0x73, _CONTENTS[0x73]),
    Timestamp: _after(0x83, _CONTENTS[0x83]),
    uuid.UUID: _after(0x98, _CONTENTS[0x98]),
    bytes: encode_binary,
    str: encode_string,
    Symbol: encode_symbol,
    list: encode_list,
    dict: encode_map,
    Array: _array,
    Described: _described,
}
