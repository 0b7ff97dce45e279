"""Direct methods in MQTT topics and in REST bodies."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.method_bodies import timespan
from muster.dialect.mqtt_methods import AnswerTopic, methods_taken, read_answer, request_topic


def test_a_request_ends_with_its_id() -> None:
    assert request_topic("reboot", "0a1b") == "$iothub/methods/POST/reboot/?$rid=0a1b"


@pytest.mark.parametrize(
    ("topic", "expected"),
    [
        ("$iothub/methods/res/200/?$rid=0a1b", AnswerTopic(200, "0a1b")),
        ("$iothub/methods/res/-5/?$rid=7", AnswerTopic(-5, "7")),
        ("$iothub/methods/res/0/?$rid=a%2Bb&x=y", AnswerTopic(0, "a+b")),
        ("$iothub/methods/res/%2D2147483648/?$rid=1", AnswerTopic(-(2**31), "1")),
    ],
)
def test_answers_as_clients_write_them(topic: str, expected: AnswerTopic) -> None:
    assert read_answer(topic.encode()) == expected


@pytest.mark.parametrize("status", ["", "1.5", "٣", "x", "2147483648", "-2147483649", "1" * 5000])
def test_a_status_must_be_a_whole_number_of_32_bits(status: str) -> None:
    with pytest.raises(HubError, match="request id") as caught:
        read_answer(f"$iothub/methods/res/{status}/?$rid=1".encode())
    assert caught.value.row is ARGUMENT_INVALID


@given(st.text(st.characters(blacklist_characters="\0#+", blacklist_categories=["Cs"])))
def test_any_other_topic_is_refused_and_never_fails_otherwise(rest: str) -> None:
    try:
        found = read_answer(f"$iothub/methods/{rest}".encode())
    except HubError:
        return
    assert rest.startswith("res/")
    assert found.request_id


@pytest.mark.parametrize(
    ("filters", "taken", "passed_over"),
    [
        (["$iothub/methods/POST/#"], ["a", "a*b"], []),
        (["devices/d/messages/devicebound/#", "$iothub/methods/POST/a/#"], ["a"], ["b", "ab"]),
        (["$iothub/methods/POST/a/+", "$iothub/methods/POST/b/#"], ["a", "b"], ["c"]),
        (["$iothub/methods/POST/+/+"], ["a"], []),
        (["$iothub/methods/POST/+", "$iothub/methods/POST/a", "$iothub/methods/POST/a/?$rid=1"], [], ["a"]),
    ],
)
def test_filters_take_methods_as_mqtt_matches_them(
    filters: list[str], taken: list[str], passed_over: list[str]
) -> None:
    takes = methods_taken(filters)
    assert takes is not None
    assert all(map(takes, taken))
    assert not any(map(takes, passed_over))


@pytest.mark.parametrize("filters", [[], ["$iothub/twin/res/#"]])
def test_without_a_filter_none_are_taken(filters: list[str]) -> None:
    assert methods_taken(filters) is None


@pytest.mark.parametrize(("seconds", "text"), [(0, "00:00:00"), (30, "00:00:30"), (61, "00:01:01"), (3600, "01:00:00")])
def test_timespans(seconds: float, text: str) -> None:
    assert timespan(seconds) == text
