"""What may stand in a twin, and how a refusal names the place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import ARGUMENT_INVALID, MESSAGE_TOO_LARGE, HubError
from muster.core.limits import TWIN_PROPERTIES, TWIN_TAGS
from muster.twins.document import merge
from muster.twins.rules import DESIRED, REPORTED, TAGS, check_content, check_size, size_of

LARGEST, SMALLEST = 4_503_599_627_370_495, -4_503_599_627_370_496


def nested(depth: int, inner: Any = 1) -> dict[str, Any]:
    """``inner`` under ``depth`` levels of objects below the root."""
    value: Any = {"v": inner}
    for level in range(depth, 0, -1):
        value = {f"l{level}": value}
    made: dict[str, Any] = value
    return made


def refusal(place: str, content: Any) -> HubError:
    with pytest.raises(HubError) as caught:
        check_content(place, content)
    assert caught.value.row is ARGUMENT_INVALID
    return caught.value


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"a": {"b": None}},
        {"ä#-_:/": "snow\N{SNOWMAN}"},
        {"k" * 1024: "v" * 4096},
        {"ä" * 512: "ä" * 2048},
        {"n": [LARGEST, SMALLEST, 0, 1e300, -0.5]},
        {"a": [{"b": [1, "x", True]}, []]},
        nested(10),
        nested(9, [1]),
    ],
)
def test_what_is_allowed(content: dict[str, Any]) -> None:
    assert check_content(TAGS, content) is content


@pytest.mark.parametrize(
    ("content", "path", "word"),
    [
        ([], "tags", "an array"),
        ("text", "tags", "a string"),
        (True, "tags", "a boolean"),
        (1, "tags", "a number"),
        (None, "tags", "null"),
        ({"a": {"b.c": 1}}, "tags.a.b.c", "'.'"),
        ({"$version": 1}, "tags.$version", "'$'"),
        ({"a": [{"b c": 1}]}, "tags.a[0].b c", "' '"),
        ({"a\x00": 1}, "tags.a\x00", "'\\x00'"),
        ({"a\x9f": 1}, "tags.a\x9f", "'\\x9f'"),
        ({"": 1}, "tags", "empty name"),
        ({"a": {"\ud800": 1}}, "tags.a.\\ud800", "surrogate"),
        ({"a": "\udfff"}, "tags.a", "surrogate"),
        ({"a": "v" * 4097}, "tags.a", "4097 bytes"),
        ({"a": "ä" * 2049}, "tags.a", "4098 bytes"),
        ({"a": LARGEST + 1}, "tags.a", "out of range"),
        ({"a": [0, SMALLEST - 1]}, "tags.a[1]", "out of range"),
        ({"a": 10**400}, "tags.a", "out of range"),
        ({"a": float("inf")}, "tags.a", "too large"),
        ({"a": float("nan")}, "tags.a", "too large"),
        ({"a": [1, None]}, "tags.a[1]", "null"),
        ({"a": [{"b": None}]}, "tags.a[0].b", "null"),
        (nested(11), "tags.l1.l2.l3.l4.l5.l6.l7.l8.l9.l10.l11", "deeper than 10"),
        (nested(10, [1]), "tags.l1.l2.l3.l4.l5.l6.l7.l8.l9.l10.v", "deeper than 10"),
    ],
)
def test_what_is_refused_and_where(content: Any, path: str, word: str) -> None:
    message = refusal(TAGS, content).message
    assert message.startswith(f"{path} ")
    assert word in message


def test_a_long_path_is_shown_from_its_end() -> None:
    message = refusal(DESIRED, {"k" * 1024: {"wrong": None, "b.": 1}}).message
    assert message.startswith("...kkk")
    assert "kkk.b. holds" in message
    assert len(message) < 400


def test_a_name_that_is_too_long_is_refused() -> None:
    assert "1025 bytes" in refusal(REPORTED, {"k" * 1025: 1}).message


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({}, 0),
        ({"abc": "de"}, 5),
        ({"a": 1, "b": 1.5, "c": True}, 1 + 8 + 1 + 8 + 1 + 4),
        ({"o": {"p": {"q": ""}}}, 3),
        ({"a": ["xy", 1, False, {"k": "v"}]}, 1 + 2 + 8 + 4 + 2),
        ({"ä": "\N{SNOWMAN}\x00\x1f\x7f\x9f\n"}, 2),
    ],
)
def test_the_size_is_counted_as_the_cloud_does(values: dict[str, Any], size: int) -> None:
    assert size_of(values) == size


@pytest.mark.parametrize(("place", "limit"), [(TAGS, TWIN_TAGS), (REPORTED, TWIN_PROPERTIES)])
def test_the_size_is_exact(place: str, limit: Any) -> None:
    full = {f"k{number:03}": "v" * 1020 for number in range(limit.open // 1024)}
    assert size_of(full) == limit.open
    check_size(place, full, limit)
    with pytest.raises(HubError, match=f"{place} would have a size of {limit.open + 1}") as caught:
        check_size(place, {**full, "x": ""}, limit)
    assert caught.value.row is MESSAGE_TOO_LARGE


def test_what_does_not_count_is_bounded_too() -> None:
    uncounted = check_content(DESIRED, {"a": [""] * 50_000})
    with pytest.raises(HubError, match="as JSON") as caught:
        check_size(DESIRED, uncounted, TWIN_PROPERTIES)
    assert caught.value.row is MESSAGE_TOO_LARGE


any_text = st.text(st.characters(codec=None), max_size=5)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=30,
)


@given(json_values)
def test_whatever_comes_is_taken_or_refused_and_what_is_taken_can_be_written(value: Any) -> None:
    try:
        content = check_content(REPORTED, value)
    except HubError as error:
        error.message.encode()
        return
    values = merge({}, content)
    check_size(REPORTED, values, TWIN_PROPERTIES)
    assert json.loads(json.dumps(values, ensure_ascii=False, allow_nan=False).encode()) == values
