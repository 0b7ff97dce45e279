"""Twins as imports write them."""

from __future__ import annotations

from typing import Any

import pytest

from muster.core.errors import ARGUMENT_INVALID, MESSAGE_TOO_LARGE, PRECONDITION_FAILED, HubError
from muster.twins.document import EMPTY, patch_twin, report
from muster.twins.restoring import GivenProperties, GivenTwin, check_given, restore

NOW = 1_700_000_000.0
THEN = "2020-01-02T03:04:05.0000000Z"
META: dict[str, Any] = {
    "$lastUpdated": THEN, "$lastUpdatedVersion": 7,
    "a": {"$lastUpdated": THEN, "$lastUpdatedVersion": 6, "b": {"$lastUpdated": THEN}},
}  # fmt: skip
DESIRED = GivenProperties({"a": {"b": 1}}, META, 7)
REPORTED = GivenProperties({"c": [1]}, {"$lastUpdated": THEN, "c": {"$lastUpdated": THEN}}, 9)


def test_a_twin_that_nobody_has_written_takes_everything_over() -> None:
    twin = restore(EMPTY, GivenTwin({"t": 1, "n": None}, DESIRED, REPORTED), NOW)
    assert dict(twin.tags) == {"t": 1}
    assert (dict(twin.desired.values), dict(twin.desired.metadata), twin.desired.version) == ({"a": {"b": 1}}, META, 7)
    assert (dict(twin.reported.values), twin.reported.metadata, twin.reported.version) == (
        {"c": [1]},
        REPORTED.metadata,
        9,
    )
    assert (twin.version, twin.revision) == (3, 2)


def test_what_is_the_same_already_is_the_same_object() -> None:
    given = GivenTwin({"t": 1}, DESIRED, REPORTED)
    twin = restore(EMPTY, given, NOW)
    assert restore(twin, given, NOW + 1) is twin
    assert restore(EMPTY, GivenTwin({}, GivenProperties({}), GivenProperties({})), NOW) is EMPTY
    assert restore(EMPTY, GivenTwin(), NOW) is EMPTY


def test_what_a_device_has_reported_is_not_written_over() -> None:
    twin = report(EMPTY, {"own": 1}, NOW)
    after = restore(twin, GivenTwin({"t": 1}, DESIRED, REPORTED), NOW)
    assert dict(after.reported.values) == {"own": 1}
    assert (dict(after.desired.values), after.desired.version) == ({"a": {"b": 1}}, 2), "numbers of others do not count"
    assert restore(twin, GivenTwin(reported=REPORTED), NOW) is twin


def test_parts_that_are_not_given_stay_and_those_that_are_replace() -> None:
    twin = patch_twin(EMPTY, {"x": 1, "y": 2}, {"d": 1, "e": 2}, NOW)
    after = restore(twin, GivenTwin(tags={"y": 3}), NOW + 1)
    assert (dict(after.tags), after.desired is twin.desired) == ({"y": 3}, True)
    after = restore(twin, GivenTwin(desired=GivenProperties({"e": 5})), NOW + 1)
    assert (after.tags is twin.tags, dict(after.desired.values), after.desired.version) == (True, {"e": 5}, 3)
    assert (after.version, after.revision) == (twin.version + 1, twin.revision + 1)


def test_only_reported_properties_leave_the_revision() -> None:
    twin = restore(EMPTY, GivenTwin(reported=REPORTED), NOW)
    assert (twin.version, twin.revision) == (3, 1)


@pytest.mark.parametrize(
    "metadata",
    [
        None, 7, {}, {**META, "z": META["a"]}, {**META, "a": None}, {**META, "a": {"$lastUpdated": THEN}},
        {**META, "$lastUpdated": "yesterday"}, {**META, "$lastUpdatedVersion": 8}, {**META, "$lastUpdatedVersion": "7"},
        {**META, "a": {**META["a"], "b": {"$lastUpdated": THEN, "more": 1}}},
    ],
)  # fmt: skip
def test_metadata_that_is_none_is_made_anew(metadata: Any) -> None:
    twin = restore(EMPTY, GivenTwin(desired=DESIRED._replace(metadata=metadata)), NOW)
    assert twin.desired.version == 7
    stamp = {"$lastUpdated": "2023-11-14T22:13:20.0000000Z", "$lastUpdatedVersion": 7}
    assert dict(twin.desired.metadata) == {**stamp, "a": {**stamp, "b": stamp}}


@pytest.mark.parametrize("version", [None, 0, -1, 2**52, True, "7", 1.0])
def test_a_version_that_is_none_counts_from_the_beginning(version: Any) -> None:
    twin = restore(EMPTY, GivenTwin(desired=DESIRED._replace(version=version)), NOW)
    assert twin.desired.version == 2
    assert twin.desired.metadata["$lastUpdatedVersion"] == 2


def test_what_may_not_stand_in_a_twin_is_refused() -> None:
    for given, row in (
        (GivenTwin(revision=2), PRECONDITION_FAILED),
        (GivenTwin(tags={str(number): "x" * 4000 for number in range(3)}), MESSAGE_TOO_LARGE),
        (GivenTwin(reported=GivenProperties({str(number): "x" * 4000 for number in range(9)})), MESSAGE_TOO_LARGE),
    ):
        with pytest.raises(HubError) as caught:
            restore(EMPTY, given, NOW)
        assert caught.value.row is row
    for part in (
        {"tags": {"a.b": 1}},
        {"desired": GivenProperties({"a": 2**60})},
        {"reported": GivenProperties({"": 1})},
    ):
        with pytest.raises(HubError) as caught:
            check_given(GivenTwin(**part))  # type: ignore[arg-type]
        assert caught.value.row is ARGUMENT_INVALID
