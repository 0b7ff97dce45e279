"""Hypothesis strategies for AMQP values of every type, and the comparison that looks at types too."""

from __future__ import annotations

import struct
from typing import Any

from hypothesis import strategies as st

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

_INTEGERS: list[tuple[type[int], int, int, int]] = [
    (UByte, 0, 2**8 - 1, 0x50),
    (UShort, 0, 2**16 - 1, 0x60),
    (UInt, 0, 2**32 - 1, 0x70),
    (ULong, 0, 2**64 - 1, 0x80),
    (Byte, -(2**7), 2**7 - 1, 0x51),
    (Short, -(2**15), 2**15 - 1, 0x61),
    (Int, -(2**31), 2**31 - 1, 0x71),
    (int, -(2**63), 2**63 - 1, 0x81),
    (Timestamp, -(2**63), 2**63 - 1, 0x83),
]


def _as_float32(number: float) -> float:
    return float(struct.unpack(">f", struct.pack(">f", number))[0])


TYPED: list[tuple[int, st.SearchStrategy[Any]]] = [
    (0x40, st.none()),
    (0x56, st.booleans()),
    *((code, st.integers(low, high).map(kind)) for kind, low, high, code in _INTEGERS),
    (0x72, st.floats(width=32).map(_as_float32).map(Float)),
    (0x82, st.floats()),
    (0x73, st.characters(exclude_categories=["Cs"]).map(Char)),
    (0x74, st.binary(min_size=4, max_size=4).map(Decimal32)),
    (0x84, st.binary(min_size=8, max_size=8).map(Decimal64)),
    (0x94, st.binary(min_size=16, max_size=16).map(Decimal128)),
    (0x98, st.uuids()),
    (0xB0, st.binary(max_size=300)),
    (0xB1, st.text(max_size=300)),
    (0xB3, st.text(max_size=20).map(Symbol)),
]
"""Constructor byte of the full form and what has that type."""

SIMPLE: st.SearchStrategy[Any] = st.one_of(*(values for _, values in TYPED))
_KEYS = st.one_of(st.text(max_size=8), st.text(max_size=8).map(Symbol), st.integers(0, 2**64 - 1).map(ULong))
_DESCRIPTORS = st.one_of(st.integers(0, 2**64 - 1).map(ULong), st.text(max_size=8).map(Symbol))


def _array_of(code: int, items: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(Array, st.lists(items, max_size=5), st.just(code), st.none() | _DESCRIPTORS)


_ARRAYS = st.one_of(*(_array_of(code, values) for code, values in TYPED))


def _compound(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists, maps = st.lists(children, max_size=4), st.dictionaries(_KEYS, children, max_size=4)
    return st.one_of(
        lists,
        maps,
        st.builds(Described, _DESCRIPTORS, children),
        _array_of(0xD0, lists),
        _array_of(0xD1, maps),
        _array_of(0xF0, _ARRAYS),
    )


VALUES: st.SearchStrategy[Any] = st.recursive(st.one_of(SIMPLE, _ARRAYS), _compound, max_leaves=12)


def shape(value: Any) -> Any:
    """``value`` with the type of every part spelled out, NaN made comparable."""
    kind = type(value).__name__
    if isinstance(value, Described):
        return (kind, shape(value.descriptor), shape(value.value))
    if isinstance(value, Array):
        return (kind, value.code, shape(value.descriptor), [shape(item) for item in value])
    if isinstance(value, list):
        return (kind, [shape(item) for item in value])
    if isinstance(value, dict):
        return (kind, [(shape(key), shape(item)) for key, item in value.items()])
    if isinstance(value, float):
        return (kind, struct.pack(">d", value))
    return (kind, value)
