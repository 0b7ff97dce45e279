"""Bytes to AMQP values (AMQP 1.0 part 1).

Every encoding the standard has is accepted, and the type is kept in the value (``values``). Nesting is
bounded, and neither time nor memory exceeds a small multiple of the bytes read.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

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

MAX_DEPTH = 16
"""How deep lists, maps, arrays and described values may nest."""

_MAX_EMPTY_ELEMENTS = 16
"""Elements of an array whose encoding takes no bytes: bounds what a few bytes can make us allocate."""


class AmqpDecodeError(Exception):
    """The bytes are not AMQP as the standard has it. ``condition`` is what the wire answers."""

    condition: ClassVar[str] = "amqp:decode-error"


class AmqpFramingError(AmqpDecodeError):
    """The frame around the bytes is malformed or too large."""

    condition: ClassVar[str] = "amqp:connection:framing-error"


def _truncated() -> AmqpDecodeError:
    return AmqpDecodeError("the value ends beyond its frame, section or enclosing value")


_U8, _U16, _U32, _U64 = struct.Struct(">B"), struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_I8, _I16, _I32, _I64 = struct.Struct(">b"), struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_F32, _F64 = struct.Struct(">f"), struct.Struct(">d")

_Reader = Callable[[bytes, int], object]


def _number(layout: struct.Struct, kind: Callable[[Any], object]) -> _Reader:
    unpack = layout.unpack_from
    return lambda data, position: kind(unpack(data, position)[0])


def _opaque(width: int, kind: Callable[[bytes], object]) -> _Reader:
    return lambda data, position: kind(data[position : position + width])


def _boolean(data: bytes, position: int) -> bool:
    if data[position] > 1:
        raise AmqpDecodeError("a boolean is neither 0 nor 1")
    return data[position] == 1


def _char(data: bytes, position: int) -> Char:
    return Char(data[position : position + 4].decode("utf-32-be"))


_FIXED: dict[int, tuple[int, _Reader]] = {
    0x40: (0, lambda _, __: None),
    0x41: (0, lambda _, __: True),
    0x42: (0, lambda _, __: False),
    0x43: (0, lambda _, __: UInt(0)),
    0x44: (0, lambda _, __: ULong(0)),
    0x45: (0, lambda _, __: []),
    0x50: (1, _number(_U8, UByte)),
    0x51: (1, _number(_I8, Byte)),
    0x52: (1, _number(_U8, UInt)),
    0x53: (1, _number(_U8, ULong)),
    0x54: (1, _number(_I8, Int)),
    0x55: (1, _number(_I8, int)),
    0x56: (1, _boolean),
    0x60: (2, _number(_U16, UShort)),
    0x61: (2, _number(_I16, Short)),
    0x70: (4, _number(_U32, UInt)),
    0x71: (4, _number(_I32, Int)),
    0x72: (4, _number(_F32, Float)),
    0x73: (4, _char),
    0x74: (4, _opaque(4, Decimal32)),
    0x80: (8, _number(_U64, ULong)),
    0x81: (8, _number(_I64, int)),
    0x82: (8, _number(_F64, float)),
    0x83: (8, _number(_I64, Timestamp)),
    0x84: (8, _opaque(8, Decimal64)),
    0x94: (16, _opaque(16, Decimal128)),
    0x98: (16, lambda data, position: uuid.UUID(bytes=data[position : position + 16])),
}
"""Constructor byte to width in bytes and reader."""


def decode(data: bytes, position: int, end: int) -> tuple[object, int]:
    """The value that starts at ``position`` and the position after it; nothing beyond ``end`` is looked at.

    Raises ``AmqpDecodeError`` for anything malformed, cut short or nested too deeply.
    """
    try:
        return _value(data, position, end, MAX_DEPTH)
    except UnicodeDecodeError:
        raise AmqpDecodeError("a text is not valid UTF-8") from None


def decode_all(data: bytes) -> object:
    """The one value that ``data`` holds. Raises ``AmqpDecodeError`` as ``decode``, and when bytes are left over."""
    value, position = decode(data, 0, len(data))
    if position != len(data):
        raise AmqpDecodeError("bytes follow the value")
    return value


def _value(data: bytes, position: int, end: int, depth: int) -> tuple[object, int]:
    if position >= end:
        raise _truncated()
    code = data[position]
    if code == 0x00:
        if depth <= 0:
            raise AmqpDecodeError(f"values nest deeper than {MAX_DEPTH}")
        descriptor, position = _value(data, position + 1, end, depth - 1)
        value, position = _value(data, position, end, depth - 1)
        return Described(descriptor, value), position
    return _content(code, data, position + 1, end, depth)


def _content(code: int, data: bytes, position: int, end: int, depth: int) -> tuple[object, int]:
    """The value whose constructor byte was ``code``; its content starts at ``position``."""
    fixed = _FIXED.get(code)
    if fixed is not None:
        stop = position + fixed[0]
        if stop > end:
            raise _truncated()
        return fixed[1](data, position), stop
    # All other types carry their size: in one byte when bit 4 of the constructor is clear, else in four.
    kind = code | 0x10
    if kind not in _SIZED:
        raise AmqpDecodeError(f"no type has the constructor 0x{code:02x}")
    wide = code & 0x10
    start = position + (4 if wide else 1)
    if start > end:
        raise _truncated()
    stop = start + (_U32.unpack_from(data, position)[0] if wide else data[position])
    if stop > end:
        raise _truncated()
    return _SIZED[kind](data, start, stop, wide, depth), stop


_SizedReader = Callable[[bytes, int, int, int, int], object]


def _binary(data: bytes, start: int, stop: int, _wide: int, _depth: int) -> bytes:
    return data[start:stop]


def _string(data: bytes, start: int, stop: int, _wide: int, _depth: int) -> str:
    return data[start:stop].decode()


def _symbol(data: bytes, start: int, stop: int, _wide: int, _depth: int) -> Symbol:
    return Symbol(data[start:stop].decode())


def _count(data: bytes, start: int, stop: int, wide: int, depth: int) -> tuple[int, int]:
    """The number of elements of a compound value or array, and where they start."""
    if depth <= 0:
        raise AmqpDecodeError(f"values nest deeper than {MAX_DEPTH}")
    position = start + (4 if wide else 1)
    if position > stop:
        raise _truncated()
    return (_U32.unpack_from(data, start)[0] if wide else data[start]), position


def _list(data: bytes, start: int, stop: int, wide: int, depth: int) -> list[object]:
    count, position = _count(data, start, stop, wide, depth)
    if count > stop - position:
        raise _truncated()
    items: list[object] = []
    for _ in range(count):
        item, position = _value(data, position, stop, depth - 1)
        items.append(item)
    if position != stop:
        raise AmqpDecodeError("a list is longer than its elements")
    return items


def _map(data: bytes, start: int, stop: int, wide: int, depth: int) -> dict[object, object]:
    count, position = _count(data, start, stop, wide, depth)
    if count & 1:
        raise AmqpDecodeError("a map has a key without a value")
    if count > stop - position:
        raise _truncated()
    pairs: dict[object, object] = {}
    for _ in range(count >> 1):
        key, position = _value(data, position, stop, depth - 1)
        if isinstance(key, (list, dict, Described)):
            raise AmqpDecodeError("a map's key is not a simple value")
        pairs[key], position = _value(data, position, stop, depth - 1)
    if len(pairs) != count >> 1:
        raise AmqpDecodeError("a map has the same key twice")
    if position != stop:
        raise AmqpDecodeError("a map is longer than its elements")
    return pairs


def _array(data: bytes, start: int, stop: int, wide: int, depth: int) -> Array:
    count, position = _count(data, start, stop, wide, depth)
    descriptor: object = None
    if position < stop and data[position] == 0x00:
        descriptor, position = _value(data, position + 1, stop, depth - 1)
    if position >= stop:
        raise _truncated()
    code = data[position]
    position += 1
    if code not in _FIXED and code | 0x10 not in _SIZED:
        raise AmqpDecodeError(f"no type has the constructor 0x{code:02x}")
    if count > (stop - position if code & 0xF0 != 0x40 else _MAX_EMPTY_ELEMENTS):
        raise _truncated()
    items = Array((), _CANONICAL.get(code, code | 0x10 if code >= 0xA0 else code), descriptor)
    for _ in range(count):
        item, position = _content(code, data, position, stop, depth - 1)
        items.append(item)
    if position != stop:
        raise AmqpDecodeError("an array is longer than its elements")
    return items


_SIZED: dict[int, _SizedReader] = {
    0xB0: _binary,
    0xB1: _string,
    0xB3: _symbol,
    0xD0: _list,
    0xD1: _map,
    0xF0: _array,
}
"""Constructor byte of the wide form to reader; 0x10 less is the narrow form."""

_CANONICAL = {
    **dict.fromkeys((0x41, 0x42), 0x56),
    **dict.fromkeys((0x43, 0x52), 0x70),
    **dict.fromkeys((0x44, 0x53), 0x80),
    0x45: 0xD0,
    0x54: 0x71,
    0x55: 0x81,
}
"""Short constructor of an array's elements to that of their full form, which ``Array.code`` holds."""
