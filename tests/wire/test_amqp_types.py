"""AMQP values: what is written is read back with its type; nothing malformed gets further than its error."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from amqp_values import VALUES, shape
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.wire.amqp.decoding import MAX_DEPTH, AmqpDecodeError, decode, decode_all
from muster.wire.amqp.encoding import encode
from muster.wire.amqp.values import Array, Byte, Char, Described, Int, Symbol, Timestamp, UByte, UInt, ULong, symbols


@given(VALUES)
def test_round_trip_keeps_value_and_type(value: Any) -> None:
    encoded = encode(value)
    decoded = decode_all(encoded)
    assert shape(decoded) == shape(value)
    assert encode(decoded) == encoded


@given(VALUES, st.data())
def test_every_truncation_is_a_decode_error(value: Any, data: st.DataObject) -> None:
    encoded = encode(value)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(AmqpDecodeError):
        decode_all(encoded[:cut])


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_raise_the_declared_error(junk: bytes) -> None:
    try:
        decode(junk, 0, len(junk))
    except AmqpDecodeError:
        return


@settings(max_examples=300)
@given(VALUES, st.data())
def test_a_flipped_byte_decodes_or_raises_the_declared_error(value: Any, data: st.DataObject) -> None:
    encoded = bytearray(encode(value))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_all(bytes(encoded))
    except AmqpDecodeError:
        return


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("40", None),
        ("41", True),
        ("5600", False),
        ("43", UInt(0)),
        ("5207", UInt(7)),
        ("7000000007", UInt(7)),
        ("44", ULong(0)),
        ("530a", ULong(10)),
        ("80000000000000000a", ULong(10)),
        ("50ff", UByte(255)),
        ("51ff", Byte(-1)),
        ("54c8", Int(-56)),
        ("71000000c8", Int(200)),
        ("55ff", -1),
        ("81ffffffffffffffff", -1),
        ("83000001908d1a0e80", Timestamp(0x01908D1A0E80)),
        ("730001f600", Char("\U0001f600")),
        ("98" + "00112233445566778899aabbccddeeff", uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")),
        ("a3036b6579", Symbol("key")),
        ("b3000000036b6579", Symbol("key")),
        ("45", []),
        ("d0000000050000000141", [True]),
        ("c10602a1016b5501", {"k": 1}),
        ("c10502a1016b41", {"k": True}),
        ("f00000000a00000002a302504c0141", symbols("PL", "A")),
        ("00531045", Described(ULong(0x10), [])),
    ],
)
def test_known_encodings(text: str, value: object) -> None:
    """Hand-made encodings, in all widths."""
    assert shape(decode_all(bytes.fromhex(text))) == shape(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "01",
        "5602",  # a boolean of 2
        "73ffffffff",  # no code point
        "a102ff00",  # not UTF-8
        "4040",  # something left over
        "c0030141",  # a list that ends early
        "c003014141",  # a list that is longer than its elements
        "c00101",  # a list with fewer elements than it says
        "c10401a1016b",  # a map with a key alone
        "c109 04 a1016b41 a1016b41",  # a key twice
        "c104024541 00",  # a list as a key
        "e00902a305414e4f4e5901",  # an array that ends early
        "e00701 a3 014142",  # an array that is longer than its elements
        "e0020199",  # an array of nothing known
        "e00101",  # an array without a constructor
    ],
)
def test_malformed_encodings(text: str) -> None:
    with pytest.raises(AmqpDecodeError):
        decode_all(bytes.fromhex(text))


def test_an_array_of_symbols_reads_in_both_widths() -> None:
    narrow = bytes.fromhex("e0 0c 02 a3 05 504c41494e 03 414243".replace(" ", ""))
    assert decode_all(narrow) == symbols("PLAIN", "ABC")
    assert decode_all(encode(symbols("PLAIN", "ABC"))) == symbols("PLAIN", "ABC")


def test_small_descriptors_are_always_smallulong() -> None:
    assert encode(Described(ULong(0), None)) == b"\x00\x53\x00\x40"
    assert encode(Described(ULong(0x75), b"x")) == b"\x00\x53\x75\xa0\x01x"


def test_nesting_is_bounded() -> None:
    value: object = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert decode_all(encode(value)) == value
    with pytest.raises(AmqpDecodeError, match="deeper"):
        decode_all(encode([value]))
    with pytest.raises(AmqpDecodeError, match="deeper"):
        decode_all(b"\x00" * 10_000 + b"\x40" * 10_001)


@pytest.mark.parametrize("constructor", ["40", "41", "43", "44", "45", "00537045"])
def test_an_array_of_a_billion_empty_elements_costs_nothing(constructor: str) -> None:
    content = bytes.fromhex(constructor)
    bomb = b"\xf0" + (4 + len(content)).to_bytes(4, "big") + (10**9).to_bytes(4, "big") + content
    begun = time.perf_counter()
    with pytest.raises(AmqpDecodeError):
        decode_all(bomb)
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize(
    "value", [UByte(256), ULong(-1), Int(2**31), 2**63, Char("ab"), object(), Array([1], 0x99), Array([300], 0x50)]
)
def test_what_does_not_fit_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode(value)
