"""Strings and JSON in PostgreSQL: what goes in comes out, and compares as it did."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.json_text import JsonObject, decode, encode, encode_finite
from muster.stores.postgres.database import Database
from muster.stores.postgres.texts import meant, meant_json, meant_object, spelled, spelled_json, spelled_object
from tests.postgres import emptied_database

_CHARACTERS = st.sampled_from('\0\1\2a\\"u01e+5\U0001f600') | st.characters(exclude_categories=["Cs"])
_TEXTS = st.text(_CHARACTERS, max_size=12)
_NUMBERS = st.integers(-(2**52), 2**52) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    _TEXTS | _NUMBERS | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXTS, inner, max_size=4),
    max_leaves=12,
)
_OBJECTS = st.dictionaries(_TEXTS, _VALUES, max_size=6)


@given(_TEXTS, _TEXTS)
def test_spelled_texts_compare_and_begin_as_the_texts_do(one: str, other: str) -> None:
    assert (spelled(one).encode() < spelled(other).encode()) is (one.encode() < other.encode())
    assert spelled(other).startswith(spelled(one)) is other.startswith(one)
    assert spelled(one + other) == spelled(one) + spelled(other)
    assert "\0" not in spelled(one)
    assert meant(spelled(one)) == one


@given(_OBJECTS)
def test_json_means_what_it_meant_however_it_was_written(content: dict[str, Any]) -> None:
    for text in (encode(content), encode_finite(content)):
        assert r"\u0000" not in spelled_json(text).replace(r"\\", "")
        _same(meant_json(spelled_json(text)), content)


@pytest.fixture
def url() -> str:
    return emptied_database()


async def test_postgresql_gives_back_what_it_was_given(url: str) -> None:
    database = Database(url, lanes=0)
    await database.open()
    try:
        for content in _examples():
            kept = await database.value("SELECT $1::jsonb", spelled_object(content))
            _same(meant_object(kept).plain(), content)
            assert "  " not in meant_object(kept).text
            assert decode(meant_object(kept).text) == content
            assert await database.value("SELECT $1::text", spelled(encode(content))) == encode(content)
        kept = await database.value("SELECT $1::jsonb", spelled_object(JsonObject('{"a":{"b":[1]}}')))
        assert meant_object(kept).text == '{"a":{"b":[1]}}'
    finally:
        await database.close()


def _examples() -> list[dict[str, Any]]:
    numbers = [0, -1, 2**52, 1.0, -0.5, 1e16, 1.5e300, -1e22, 5e-324, math.ulp(1.0), 1.7976931348623157e308, 0.1, 1e-7]
    texts = [
        "",
        "\0",
        "\1",
        "\1\1\0\2",
        "\\u0000",
        "\\\0",
        '"\0"',
        "1e5",
        "\\u0001",
        "ü\N{SNOWMAN}\U0001f600",
        "\x1f\x7f",
    ]
    return [
        {},
        {"n": numbers},
        {f"k{at}": text for at, text in enumerate(texts)},
        {"t": texts, "o": {"x": {"y": [[], {}]}}},
    ]


def _same(found: Any, wanted: Any) -> None:
    """Equal, and each number of the kind that it was."""
    assert found == wanted
    if isinstance(wanted, dict):
        for name, value in wanted.items():
            _same(found[name], value)
    elif isinstance(wanted, list):
        for one, other in zip(found, wanted, strict=True):
            _same(one, other)
    else:
        assert type(found) is type(wanted)
