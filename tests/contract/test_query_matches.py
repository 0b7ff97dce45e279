"""Whether one device is among those that a condition selects: what grants of roles for some devices ask."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from query_hub import Place, QueryHub

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.identity.model import IdentityKey

BERLIN, HOT = "tags.site = 'berlin'", "properties.reported.temperature > 30"


@pytest.fixture
async def hub(place: Place) -> AsyncIterator[QueryHub]:
    async with place.open(["tags.site"]) as hub:
        for name, site in (("a", "berlin"), ("b", "paris"), ("b%", "berlin"), ("c", "berlin")):
            await hub.add(name, tags={"site": site})
        await hub.add("b", "m", tags={"site": "berlin"})
        yield hub


@pytest.mark.parametrize(
    ("device", "conditions", "expected"),
    [
        ("a", [BERLIN], True),
        ("b", [BERLIN], False),  # its module's twin is not its own
        ("b%", [BERLIN], True),
        ("A", [BERLIN], False),
        ("nobody", [BERLIN], False),
        ("nobody", ["true", "NOT is_defined(tags.site)"], False),
        ("' OR true OR '", ["true"], False),
        ("", ["true"], False),
        ("b", [HOT, BERLIN], False),
        ("a", [HOT, BERLIN], True),
        ("a", ["deviceId = 'a' OR deviceId = 'b'"], True),
        ("c", ["deviceId IN ['a', 'b']"], False),
        ("c", [f"{BERLIN} AND deviceId != 'c'"], False),
        ("a", [], False),
    ],
)
async def test_one_device_is_asked(hub: QueryHub, device: str, conditions: list[str], expected: bool) -> None:
    assert await hub.queries.matches(device, conditions) is expected


async def test_a_change_counts_at_once(hub: QueryHub) -> None:
    for site, expected in (("paris", False), ("berlin", True), ("Berlin", False)):
        await hub.change(IdentityKey("a"), tags={"site": site})
        assert await hub.queries.matches("a", [BERLIN]) is expected
    await hub.drop("c")
    assert not await hub.queries.matches("c", [BERLIN])


@pytest.mark.parametrize(
    "condition",
    [
        "",
        " ",
        "tags.site =",
        f"{BERLIN} GROUP BY tags.site",
        f"{BERLIN}; DROP TABLE twins",
        "1 = 1) OR (1 = 1",
        "nofield = 1",
    ],
)
async def test_what_is_no_condition_is_refused(hub: QueryHub, condition: str) -> None:
    with pytest.raises(HubError) as refused:
        await hub.queries.matches("a", [condition])
    assert refused.value.row is ARGUMENT_INVALID


async def test_the_most_conditions_that_are_asked_at_once(hub: QueryHub) -> None:
    """As many and as long as a decision asks for."""
    long = " AND ".join(["tags.site != 'x'"] * 48)
    assert len(long) < 1024
    assert await hub.queries.matches("a", [f"{long} AND tags.n != {number}" for number in range(31)] + [BERLIN])
