"""docs/capacity.md says what its results and its arithmetic say."""

from __future__ import annotations

import re

from bench.capacity import KINDS, PAGE, RESULTS, Assumed, measured, newest, page, sized


def test_the_page_is_that_of_the_results_that_it_names() -> None:
    text = PAGE.read_text()
    named = re.findall(r"\(results/(\d{4}-\d\d-\d\d-([a-z-]+))\.md\)", text)
    files = {kind: RESULTS / f"{stem}.json" for stem, kind in named}
    assert set(files) <= set(KINDS)
    assert page(files) == text, "write it anew: python -m bench.capacity"


def test_more_devices_take_more_and_more_messages_share_what_nats_does() -> None:
    cost = measured(newest())
    one, two = (sized(cost, Assumed(devices=count, seconds_between_messages=10)) for count in (1_000_000, 2_000_000))
    assert two.memory_gib > one.memory_gib
    assert two.storm_cores > one.storm_cores
    assert two.gathered > one.gathered > 1
    assert two.stream_messages == one.stream_messages, "what the servers can do"
    seldom = sized(cost, Assumed(seconds_between_messages=3600))
    assert seldom.gathered == 1
    assert seldom.nats_cores < one.nats_cores
