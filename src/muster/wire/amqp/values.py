"""AMQP values that plain Python types cannot tell apart.

Plain Python stands for the common types: ``None`` null, ``bool`` boolean, ``int`` long, ``float`` double,
``str`` string, ``bytes`` binary, ``uuid.UUID`` uuid, ``list`` list, ``dict`` map. Every other type has a
class here that behaves like the Python value it extends, so that reading needs no unwrapping and what was
read is written again with its very type. Not checked on construction: the encoder refuses what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Symbol(str):
    """symbol: a name from a closed vocabulary."""

    __slots__ = ()


class Char(str):
    """char: one Unicode code point."""

    __slots__ = ()


class UByte(int):
    """ubyte: 0 to 2**8 - 1."""

    __slots__ = ()


class UShort(int):
    """ushort: 0 to 2**16 - 1."""

    __slots__ = ()


class UInt(int):
    """uint: 0 to 2**32 - 1."""

    __slots__ = ()


class ULong(int):
    """ulong: 0 to 2**64 - 1."""

    __slots__ = ()


class Byte(int):
    """byte: -2**7 to 2**7 - 1."""

    __slots__ = ()


class Short(int):
    """short: -2**15 to 2**15 - 1."""

    __slots__ = ()


class Int(int):
    """int: -2**31 to 2**31 - 1."""

    __slots__ = ()


class Timestamp(int):
    """timestamp: milliseconds since 1970-01-01 UTC."""

    __slots__ = ()


class Float(float):
    """float: 32 bits. Keeps the precision it was made with until it is encoded."""

    __slots__ = ()


class Decimal32(bytes):
    """decimal32, as its four bytes."""

    __slots__ = ()


class Decimal64(bytes):
    """decimal64, as its eight bytes."""

    __slots__ = ()


class Decimal128(bytes):
    """decimal128, as its sixteen bytes."""

    __slots__ = ()


class Described(NamedTuple):
    """A value with a descriptor (``Symbol`` or ``ULong``) that says what it means."""

    descriptor: object
    value: object


class Array(list[Any]):
    """array: values of one type. ``code`` is the constructor byte of that type's full form (0xb3: symbols).

    ``descriptor`` is that of the elements when they are described. Empty arrays keep their element type, but
    azure-eventhub's decoder trips over them: never send one to a client.
    """

    __slots__ = ("code", "descriptor")

    def __init__(self, items: Iterable[object], code: int, descriptor: object = None) -> None:
        super().__init__(items)
        self.code = code
        self.descriptor = descriptor

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Array):
            return NotImplemented
        return self.code == other.code and self.descriptor == other.descriptor and list.__eq__(self, other)

    __hash__ = None


def symbols(*names: str) -> Array:
    """An array of symbols, as capabilities and mechanisms are written."""
    return Array([Symbol(name) for name in names], 0xB3)


def strings(*texts: str) -> Array:
    """An array of strings."""
    return Array(texts, 0xB1)
