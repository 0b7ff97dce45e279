"""What resources have in common: time spans, differences, and what may be set of a hub."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import HubError
from muster.core.throttles import Tier
from muster.dialect.arm import differences, duration_seconds, duration_text
from muster.dialect.arm_hubs import HOSTS_TAG, MOST_TAGS, read_changes, read_tags
from muster.dialect.json_body import Members
from muster.node.managed import host_beside

PRESENT = {
    "location": "local",
    "sku": {"name": "S1", "tier": "Standard", "capacity": 1},
    "properties": {
        "eventHubEndpoints": {"events": {"retentionTimeInDays": 7, "partitionCount": 4}},
        "cloudToDevice": {"maxDeliveryCount": 10, "defaultTtlAsIso8601": "PT1H"},
        "routing": {"routes": []},
        "disableLocalAuth": False,
    },
}


@given(st.integers(0, 10**9))
def test_a_time_span_is_read_as_it_was_written(seconds: int) -> None:
    assert duration_seconds(duration_text(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT1H", 3600), ("P1D", 86_400), ("P1W", 604_800), ("P1DT1M", 86_460), ("PT0.5S", 0.5), ("PT90M", 5400),
     ("P", None), ("PT", None), ("1H", None), ("PT1X", None), ("", None)],
)  # fmt: skip
def test_time_spans(text: str, seconds: float | None) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ({}, []),
        ({"a": None, "b": {}}, []),
        (PRESENT, []),
        ({"properties": {"cloudToDevice": {"defaultTtlAsIso8601": "PT60M"}}}, []),
        ({"properties": {"routing": {"routes": None, "enrichments": []}}}, []),
        ({"properties": {"disableLocalAuth": True}}, ["properties.disableLocalAuth"]),
        ({"properties": {"routing": {"routes": [1]}}}, ["properties.routing.routes"]),
        ({"other": 1}, ["other"]),
    ],
)
def test_what_differs_is_named(given: dict[str, Any], paths: list[str]) -> None:
    assert [path for path, _ in differences(given, PRESENT)] == paths


def test_what_may_be_set_comes_under_the_names_of_the_settings() -> None:
    wanted = {
        "sku": {"name": "S2", "tier": "whatever"},
        "properties": {
            "state": "told only",
            "disableLocalAuth": True,
            "eventHubEndpoints": {"events": {"retentionTimeInDays": 2}},
            "cloudToDevice": {"defaultTtlAsIso8601": "PT2H"},
        },
    }
    assert read_changes(wanted, PRESENT, new=False) == {
        "tier": Tier.S2,
        "retention_seconds": 172_800,
        "command_ttl_seconds": 7200,
        "switches": {"disable_local_auth": True},
    }


@pytest.mark.parametrize(
    ("properties", "new", "said"),
    [
        ({"eventHubEndpoints": {"events": {"partitionCount": 8}}}, False, "add another hub"),
        ({"eventHubEndpoints": {"events": {"partitionCount": 99}}}, True, "from 1 to 32"),
        ({"eventHubEndpoints": {"events": {"retentionTimeInDays": True}}}, True, "whole number"),
        ({"cloudToDevice": {"defaultTtlAsIso8601": "P3D"}}, True, "PT1M to P2D"),
        ({"disableLocalAuth": "yes"}, True, "true or false"),
        ({"routing": {"routes": [{"name": "r"}]}}, True, "no message routes"),
        ({"comments": "x" * 9000}, True, "properties.comments"),
    ],
)
def test_what_may_not_be_set_is_refused_by_its_name(properties: dict[str, Any], new: bool, said: str) -> None:
    with pytest.raises(HubError) as caught:
        read_changes({"properties": properties}, PRESENT, new=new)
    assert caught.value.row.status == 400
    assert said in caught.value.message
    assert len(caught.value.message) < 500


def test_tags_are_bounded() -> None:
    assert read_tags(Members({}, "")) is None
    assert read_tags(Members({"tags": {HOSTS_TAG: "a.example"}}, "")) == {HOSTS_TAG: "a.example"}
    for tags in ([], {str(number): "" for number in range(MOST_TAGS + 1)}, {"a": 1}, {"a": "x" * 300}, {"x" * 600: ""}):
        with pytest.raises(HubError) as caught:
            read_tags(Members({"tags": tags}, ""))
        assert caught.value.row.status == 400


@pytest.mark.parametrize(
    ("first", "host"),
    [("hub.example.com", "west.example.com"), ("localhost", "west.localhost"), ("10.0.0.1", "west.localhost"),
     ("fd00::1", "west.localhost")],
)  # fmt: skip
def test_a_hub_that_names_no_host_is_beside_the_first(first: str, host: str) -> None:
    assert host_beside("west", first) == host
