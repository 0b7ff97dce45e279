"""The digital twin: the view by the plug and play conventions, its changes, and how they become desired properties."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.ambient import iso
from muster.core.errors import (
    ARGUMENT_INVALID,
    INVALID_DIGITAL_TWIN_JSON_PATCH,
    INVALID_DIGITAL_TWIN_PATCH,
    INVALID_DIGITAL_TWIN_PATCH_PATH,
    INVALID_DIGITAL_TWIN_PAYLOAD,
    ErrorRow,
    HubError,
)
from muster.dialect.digital_twin_bodies import read_operations
from muster.twins import rules
from muster.twins.digital import COMPONENT, MARKER, Operation, changes, desired_patch, view
from muster.twins.document import EMPTY, Twin, patch_twin, report

NOW, LATER = 1_800_000_000.0, 1_800_000_060.0
MODEL = "dtmi:com:example:TemperatureController;1"


def patched(twin: Twin, *operations: dict[str, Any]) -> Twin:
    return patch_twin(twin, {}, desired_patch(twin, read_operations(list(operations))), LATER)


def add(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


def remove(path: str) -> dict[str, Any]:
    return {"op": "remove", "path": path}


def marked(**members: Any) -> dict[str, Any]:
    return {MARKER: COMPONENT, **members}


# --- reading


def test_the_view_of_the_documents_example() -> None:
    twin = Twin(model_id=MODEL)
    twin = report(twin, {"serialNumber": "s", "thermostat1": marked(maxTempSinceLastReboot=25.3)}, NOW)
    twin = patch_twin(twin, {"t": 1}, {"thermostat1": marked(targetTemperature=20.4)}, NOW)
    acknowledged = {"value": 20.4, "ac": 200, "av": 2, "ad": "Successfully executed patch"}
    twin = report(twin, {"thermostat1": {"targetTemperature": acknowledged}}, LATER)
    assert view("sample-device", twin) == {
        "$dtId": "sample-device",
        "serialNumber": "s",
        "thermostat1": {
            "maxTempSinceLastReboot": 25.3,
            "targetTemperature": 20.4,
            "$metadata": {
                "targetTemperature": {
                    "desiredValue": 20.4,
                    "desiredVersion": 2,
                    "ackVersion": 2,
                    "ackCode": 200,
                    "ackDescription": "Successfully executed patch",
                    "lastUpdateTime": iso(LATER),
                },
                "maxTempSinceLastReboot": {"lastUpdateTime": iso(NOW)},
            },
        },
        "$metadata": {"$model": MODEL, "serialNumber": {"lastUpdateTime": iso(NOW)}},
    }


def test_what_is_only_desired_has_no_value_yet() -> None:
    twin = patch_twin(EMPTY, {}, {"fanSpeed": 2.0, "c": marked(x={"y": 1})}, NOW)
    assert view("d", twin) == {
        "$dtId": "d",
        "c": {"$metadata": {"x": {"desiredValue": {"y": 1}, "desiredVersion": 2}}},
        "$metadata": {"$model": "", "fanSpeed": {"desiredValue": 2.0, "desiredVersion": 2}},
    }


def test_an_object_that_is_no_acknowledgement_is_a_value() -> None:
    values = {"a": {"value": 1}, "b": {"value": 1, "ac": 200, "more": 1}, "c": {"x": [1]}}
    seen = view("d", report(EMPTY, values, NOW))
    assert {name: seen[name] for name in values} == values


def test_one_side_marks_a_component_for_both() -> None:
    twin = patch_twin(report(EMPTY, {"c": marked(x=1)}, NOW), {}, {"c": {"x": 2}}, NOW)
    metadata = {"desiredValue": 2, "desiredVersion": 2, "lastUpdateTime": iso(NOW)}
    assert view("d", twin)["c"] == {"x": 1, "$metadata": {"x": metadata}}
    twin = patch_twin(report(EMPTY, {"c": marked(x=1)}, NOW), {}, {"c": 5}, NOW)
    assert view("d", twin)["c"] == {"x": 1, "$metadata": {"x": {"lastUpdateTime": iso(NOW)}}}


# --- changing


def test_a_property_is_replaced_whole() -> None:
    twin = patched(EMPTY, add("/p", {"a": {"x": 1, "y": 2}, "b": 1}), add("/q", 1))
    twin = patched(twin, {"op": "replace", "path": "/p", "value": {"a": {"y": 3}}})
    assert twin.desired.values == {"p": {"a": {"y": 3}}, "q": 1}
    assert view("d", twin)["$metadata"]["p"] == {"desiredValue": {"a": {"y": 3}}, "desiredVersion": 3}
    assert view("d", twin)["$metadata"]["q"]["desiredVersion"] == 2


def test_a_component_loses_what_it_is_not_given() -> None:
    twin = patched(EMPTY, add("/c", {"a": 1, "b": {"x": 1}, "$metadata": {}}))
    assert twin.desired.values == {"c": marked(a=1, b={"x": 1})}
    assert desired_patch(twin, read_operations([add("/c", {"b": {"y": 1}, "$metadata": {}})])) == {
        "c": marked(a=None, b={"x": None, "y": 1})
    }


def test_removing_the_last_property_removes_the_component() -> None:
    twin = patched(EMPTY, add("/c/a", 1), add("/c/b", 1), add("/r", 1))
    twin = patched(twin, remove("/c/a"))
    assert twin.desired.values == {"c": marked(b=1), "r": 1}
    twin = patched(twin, remove("/c/b"), remove("/r"))
    assert twin.desired.values == {}


def test_what_is_not_there_may_be_removed_and_replaced() -> None:
    assert desired_patch(EMPTY, read_operations([remove("/a"), remove("/c/a"), add("/x", 1), remove("/x")])) == {}
    assert patched(EMPTY, {"op": "replace", "path": "/c/a", "value": 1}).desired.values == {"c": marked(a=1)}


def test_a_component_that_was_removed_and_made_again_in_one_patch() -> None:
    twin = patched(EMPTY, add("/c/old", 1), add("/c/kept", 1))
    twin = patched(twin, remove("/c"), add("/c/kept", 2))
    assert twin.desired.values == {"c": marked(kept=2)}


REFUSED = [
    ({"a": 1}, INVALID_DIGITAL_TWIN_JSON_PATCH, "must be an array"),
    ([1], INVALID_DIGITAL_TWIN_JSON_PATCH, "[0] must be an object"),
    ([{"op": "test", "path": "/a", "value": 1}], INVALID_DIGITAL_TWIN_JSON_PATCH, "[0].op"),
    ([{"path": "/a", "value": 1}], INVALID_DIGITAL_TWIN_JSON_PATCH, "[0].op"),
    ([{"op": "add", "path": 5, "value": 1}], INVALID_DIGITAL_TWIN_JSON_PATCH, "[0].path"),
    ([{"op": "add", "path": "/a"}], INVALID_DIGITAL_TWIN_JSON_PATCH, "[0].value is missing"),
    ([add("a", 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "slash"),
    ([add("", 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "slash"),
    ([add("/", 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "names no property"),
    ([add("/a/b/c", 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "/a/b/c"),
    ([add("/$metadata/x", 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "$metadata"),
    ([add("/9a", 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "/9a"),
    ([add("/a_", 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "/a_"),
    ([add("/a~1b", 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "/a/b"),
    ([add("/" + "a" * 65, 1)], INVALID_DIGITAL_TWIN_PATCH_PATH, "64"),
    ([add("/a", None)], INVALID_DIGITAL_TWIN_PAYLOAD, "/a is null"),
    ([add("/a", [1])], INVALID_DIGITAL_TWIN_PAYLOAD, "/a holds an array"),
    ([add("/c/a", {"b": [1]})], INVALID_DIGITAL_TWIN_PAYLOAD, "/c/a holds an array"),
    ([add("/a", {"b c": 1})], INVALID_DIGITAL_TWIN_PAYLOAD, "'b c'"),
    ([add("/a", {"\ud800": 1})], INVALID_DIGITAL_TWIN_PAYLOAD, "\\ud800"),
    ([add("/a", {"a": {"a": {"a": {"a": {"a": {}}}}}})], INVALID_DIGITAL_TWIN_PAYLOAD, "deeper than 5"),
    ([add("/c", {"$metadata": {"a": 1}})], INVALID_DIGITAL_TWIN_PATCH, "not empty"),
    ([add("/comp", 5)], INVALID_DIGITAL_TWIN_PATCH, "/comp is a component"),
    ([add("/comp", {"x": 1})], INVALID_DIGITAL_TWIN_PATCH, "/comp is a component"),
    ([add("/seen", 1)], INVALID_DIGITAL_TWIN_PATCH, "/seen is a component"),
    ([add("/plain/x", 1)], ARGUMENT_INVALID, "'plain' exists within the device twin"),
    ([remove("/plain/x")], ARGUMENT_INVALID, "'plain' exists within the device twin"),
    ([add("/said", {"$metadata": {}})], ARGUMENT_INVALID, "'said' exists within the device twin"),
]


@pytest.mark.parametrize(("body", "row", "words"), REFUSED)
def test_refusals_name_what_is_wrong(body: Any, row: ErrorRow, words: str) -> None:
    twin = report(
        patch_twin(EMPTY, {}, {"comp": marked(a=1), "plain": {"y": 1}}, NOW), {"seen": marked(), "said": 1}, NOW
    )
    with pytest.raises(HubError) as caught:
        desired_patch(twin, read_operations(body))
    assert caught.value.row is row
    assert words in caught.value.message
    caught.value.message.encode()


# --- laws

names = st.sampled_from(["a", "b", "c1", "long_Name"])
scalars = st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text("xyz", max_size=3)
values = st.recursive(scalars, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=5)
components = st.dictionaries(names, values, max_size=3)
COMPONENTS, PROPERTIES = ["k1", "k2"], ["p1", "p2"]

operations = st.one_of(
    st.builds(lambda name, value: Operation((name,), value), st.sampled_from(PROPERTIES), values),
    st.builds(
        lambda name, value: Operation((name,), {**value, "$metadata": {}}), st.sampled_from(COMPONENTS), components
    ),
    st.builds(lambda name, inner, value: Operation((name, inner), value), st.sampled_from(COMPONENTS), names, values),
    st.builds(lambda name: Operation((name,), removes=True), st.sampled_from(COMPONENTS + PROPERTIES)),
    st.builds(lambda name, inner: Operation((name, inner), removes=True), st.sampled_from(COMPONENTS), names),
)
patches = st.lists(operations, max_size=6)


def naive(desired: dict[str, Any], patch: list[Operation]) -> dict[str, Any]:
    """What the desired properties shall be, by the shortest way to say it."""
    wanted = copy.deepcopy(desired)
    for path, value, removes in patch:
        if len(path) == 1:
            wanted.pop(path[0], None)
            if not removes:
                whole = isinstance(value, dict) and "$metadata" in value
                wanted[path[0]] = marked(**{k: v for k, v in value.items() if k != "$metadata"}) if whole else value
        elif removes:
            wanted.get(path[0], {}).pop(path[1], None)
            if wanted.get(path[0]) == marked():
                del wanted[path[0]]
        else:
            wanted.setdefault(path[0], marked())[path[1]] = value
    return wanted


@given(st.lists(patches, max_size=3))
def test_patches_do_what_they_say_and_are_read_again(made: list[list[Operation]]) -> None:
    twin = EMPTY
    for patch in made:
        wanted = naive(dict(twin.desired.values), patch)
        change = desired_patch(twin, patch)
        rules.check_content(rules.DESIRED, change)
        before, twin = twin, patch_twin(twin, {}, change, NOW)
        assert twin.desired.values == wanted
        assert twin.desired.version == before.desired.version + bool(change)
        seen = view("d", twin)
        for name, value in wanted.items():
            if name in PROPERTIES:
                assert seen["$metadata"][name]["desiredValue"] == value
                continue
            told = {inner: known["desiredValue"] for inner, known in seen[name]["$metadata"].items()}
            assert marked(**told) == value


@given(st.lists(patches, min_size=1, max_size=2))
def test_what_was_set_last_has_the_newest_version(made: list[list[Operation]]) -> None:
    twin = EMPTY
    for patch in made:
        twin = patch_twin(twin, {}, desired_patch(twin, patch), NOW)
    seen = view("d", twin)
    for name, _, removes in ((o.path[0], o.value, o.removes) for o in made[-1] if o.path[0] in PROPERTIES):
        last = [o for o in made[-1] if o.path[0] == name][-1]
        if not last.removes and not removes:
            assert seen["$metadata"][name]["desiredVersion"] == twin.desired.version


def apply(document: Any, patch: list[dict[str, Any]]) -> Any:
    """RFC 6902, as far as it is needed."""
    document = copy.deepcopy(document)
    for step in patch:
        *way, name = [part.replace("~1", "/").replace("~0", "~") for part in step["path"][1:].split("/")]
        place = document
        for part in way:
            place = place[part]
        if step["op"] == "remove":
            del place[name]
        else:
            assert (step["op"] == "replace") == (name in place)
            place[name] = step["value"]
    return document


odd = st.dictionaries(
    st.sampled_from(["a", "a/b", "~", "$x", "ü"]),
    st.recursive(
        st.none() | scalars | st.lists(scalars | st.just([1, True]), max_size=2),
        lambda inner: st.dictionaries(st.sampled_from(["a", "a/b", "~1"]), inner, max_size=3),
    ),
    max_size=4,
)


@given(odd, odd)
def test_the_changes_of_a_view_lead_from_one_to_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert repr(sorted_deep(apply(before, changes(before, after)))) == repr(sorted_deep(after))
    assert changes(after, copy.deepcopy(after)) == []


def sorted_deep(value: Any) -> Any:
    return {name: sorted_deep(value[name]) for name in sorted(value)} if isinstance(value, dict) else value


def test_the_changes_of_the_documents_example() -> None:
    first = Twin(model_id=MODEL)
    wanted = patched(first, add("/thermostat1/targetTemperature", 21.8))
    began = report(first, {"thermostat1": marked(max=1)}, NOW)
    asked = patched(began, add("/thermostat1/targetTemperature", 21.8))
    acknowledged = {"value": 21.8, "ac": 200, "ad": "done", "av": 2}
    done = report(asked, {"thermostat1": marked(targetTemperature=acknowledged)}, LATER)
    place = "/thermostat1/$metadata/targetTemperature"
    assert changes(view("d", first), view("d", wanted)) == [
        add("/thermostat1", {"$metadata": {"targetTemperature": {"desiredValue": 21.8, "desiredVersion": 2}}})
    ]
    assert changes(view("d", began), view("d", asked)) == [add(place, {"desiredValue": 21.8, "desiredVersion": 2})]
    assert changes(view("d", asked), view("d", done)) == [
        add(f"{place}/ackCode", 200),
        add(f"{place}/ackDescription", "done"),
        add(f"{place}/ackVersion", 2),
        add(f"{place}/lastUpdateTime", iso(LATER)),
        add("/thermostat1/targetTemperature", 21.8),
    ]
