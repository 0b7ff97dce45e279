"""The twin document: merge laws, metadata, versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.ambient import iso
from muster.twins.document import (
    EMPTY,
    LAST_UPDATED,
    LAST_UPDATED_VERSION,
    NEVER_UPDATED,
    Properties,
    merge,
    patch_properties,
    patch_twin,
    replace_properties,
    replace_twin,
    report,
)

NOW = 1_800_000_000.0

names = st.sampled_from(["a", "b", "c", "long name"]) | st.text(min_size=1, max_size=3)
leaves = st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3) | st.lists(st.integers())


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(names, values, max_size=4)


contents = objects(st.recursive(leaves, objects, max_leaves=6))
patches = objects(st.recursive(leaves | st.none(), objects, max_leaves=6))


def without_nulls(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: without_nulls(member) for name, member in value.items() if member is not None}


def leaf_paths(value: Mapping[str, Any], path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for name, member in value.items():
        found |= leaf_paths(member, (*path, name)) if isinstance(member, Mapping) else {(*path, name)}
    return found


def shape(value: Any) -> Any:
    """The objects of a value; everything else is an empty object, as it is in metadata."""
    return {name: shape(member) for name, member in value.items()} if isinstance(value, Mapping) else {}


def mirrored(metadata: Any) -> Any:
    return {name: mirrored(member) for name, member in metadata.items() if not name.startswith("$")}


def stamps(metadata: Any) -> list[dict[str, Any]]:
    own = {name: value for name, value in metadata.items() if name.startswith("$")}
    return [own, *(s for name, inner in metadata.items() if not name.startswith("$") for s in stamps(inner))]


def keyed(strategy: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Contents as the rules let them pass: no ``$`` in names."""
    return strategy.filter(lambda content: "$" not in str(content))


# --- the merge


@given(contents, patches)
def test_a_patch_merged_twice_is_merged_once(values: dict[str, Any], patch: dict[str, Any]) -> None:
    once = merge(values, patch)
    assert merge(once, patch) == once


@given(contents)
def test_an_empty_patch_changes_nothing(values: dict[str, Any]) -> None:
    assert merge(values, {}) == values


@given(contents, patches)
def test_nothing_is_null_after_a_merge(values: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = merge(values, patch)
    assert merged == without_nulls(merged)


@given(patches)
def test_merged_into_nothing_a_patch_is_itself_without_its_nulls(patch: dict[str, Any]) -> None:
    assert merge({}, patch) == without_nulls(patch)


@given(contents, contents)
def test_what_a_patch_sets_is_there_and_what_it_does_not_name_stays(
    values: dict[str, Any], patch: dict[str, Any]
) -> None:
    merged = merge(values, patch)
    assert leaf_paths(patch) <= leaf_paths(merged)
    for name in set(values) - set(patch):
        assert merged[name] == values[name]


@given(contents)
def test_null_for_every_member_empties(values: dict[str, Any]) -> None:
    assert merge(values, dict.fromkeys(values)) == {}


@given(contents, patches)
def test_a_merge_leaves_its_arguments_alone(values: dict[str, Any], patch: dict[str, Any]) -> None:
    before = repr(values), repr(patch)
    merge(values, patch)
    assert (repr(values), repr(patch)) == before


@pytest.mark.parametrize(
    ("values", "patch", "merged"),
    [
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": None, "z": 3}}, {"a": {"x": 1, "z": 3}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),
        ({"a": {"x": 1}}, {"a": 5}, {"a": 5}),
        ({"a": 5}, {"a": {"x": None}}, {"a": {}}),
        ({"a": 5}, {"b": None}, {"a": 5}),
        ({"a": {"x": 1}}, {"a": {}}, {"a": {"x": 1}}),
    ],
)
def test_merges_by_example(values: dict[str, Any], patch: dict[str, Any], merged: dict[str, Any]) -> None:
    assert merge(values, patch) == merged


# --- properties


@given(st.lists(keyed(patches), max_size=5), st.booleans())
def test_metadata_mirrors_the_values_whatever_was_patched(history: list[dict[str, Any]], versioned: bool) -> None:
    properties = Properties()
    for step, patch in enumerate(history):
        properties = patch_properties(properties, patch, NOW + step, versioned=versioned)
        assert mirrored(properties.metadata) == shape(properties.values)
    assert properties.version == 1 + sum(1 for patch in history if patch)
    for stamp in stamps(properties.metadata):
        if stamp[LAST_UPDATED] == NEVER_UPDATED:
            assert properties.version == 1
        else:
            assert set(stamp) == ({LAST_UPDATED, LAST_UPDATED_VERSION} if versioned else {LAST_UPDATED})
            assert stamp.get(LAST_UPDATED_VERSION, 2) in range(2, properties.version + 1)


@given(keyed(contents), keyed(contents))
def test_a_replacement_is_all_there_is(first: dict[str, Any], second: dict[str, Any]) -> None:
    before = patch_properties(Properties(), first, NOW, versioned=True)
    after = replace_properties(before, second, NOW + 1, versioned=True)
    assert after.values == second
    assert mirrored(after.metadata) == shape(second)
    assert after.version == before.version + 1
    assert all(
        stamp == {LAST_UPDATED: iso(NOW + 1), LAST_UPDATED_VERSION: after.version} for stamp in stamps(after.metadata)
    )


def test_metadata_tells_when_each_part_was_last_updated() -> None:
    first = patch_properties(Properties(), {"a": {"x": 1, "y": [1]}, "b": True}, NOW, versioned=True)
    second = patch_properties(first, {"a": {"x": 2}}, NOW + 60, versioned=True)
    old = {"$lastUpdated": iso(NOW), "$lastUpdatedVersion": 2}
    new = {"$lastUpdated": iso(NOW + 60), "$lastUpdatedVersion": 3}
    assert second.metadata == {**new, "a": {**new, "x": new, "y": old}, "b": old}
    third = patch_properties(second, {"a": None}, NOW + 90, versioned=True)
    assert third.metadata == {"$lastUpdated": iso(NOW + 90), "$lastUpdatedVersion": 4, "b": old}


# --- the twin


@given(st.lists(st.tuples(st.sampled_from("prt"), keyed(patches), keyed(patches)), max_size=6))
def test_versions_count_every_change(history: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> None:
    twin, changes, by_service = EMPTY, 0, 0
    for kind, one, other in history:
        before = twin
        if kind == "p":
            twin = patch_twin(twin, one, other, NOW)
            assert twin.reported is before.reported
        elif kind == "r":
            twin = replace_twin(twin, one, other, NOW)
            assert (twin.tags, twin.desired.values) == (without_nulls(one), without_nulls(other))
        else:
            twin = report(twin, one, NOW)
            assert (twin.tags, twin.desired) == (before.tags, before.desired)
        if twin is before:
            assert not one
            continue
        changes += 1
        by_service += kind != "t"
        assert twin.version == 2 + changes
        assert twin.revision == 1 + by_service


def test_an_empty_change_is_none() -> None:
    assert patch_twin(EMPTY, {}, {}, NOW) is EMPTY
    assert report(EMPTY, {}, NOW) is EMPTY
    tagged = patch_twin(EMPTY, {"t": 1}, {}, NOW)
    assert (tagged.desired.version, tagged.version, tagged.revision) == (1, 3, 2)
