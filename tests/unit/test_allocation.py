"""Allocation policies: the spread follows the weights, and stays."""

from __future__ import annotations

import pytest
from provisioning_parts import FakeHub, Steps

from muster.core.errors import HubError
from muster.core.provisioning_errors import NO_HUB
from muster.provisioning.allocation import POLICIES, candidates, hashed, latency, static
from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.model import AllocationKind, Enrollment, EnrollmentKey, EnrollmentKind

NAMES = [f"device-{number}" for number in range(20_000)]


def hub(host: str, weight: int = 1, *, allocates: bool = True) -> FakeHub:
    return FakeHub(host, Steps(), weight, allocates=allocates)


def shares(hubs: list[FakeHub], policy: AllocationKind = AllocationKind.HASHED) -> dict[str, float]:
    picked = [POLICIES[policy](hubs, name).host for name in NAMES]
    return {one.host: picked.count(one.host) / len(NAMES) for one in hubs}


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (1, 2, 5), (100, 1)])
def test_hashed_allocation_follows_the_weights(weights: tuple[int, ...]) -> None:
    hubs = [hub(f"h{number}.example", weight) for number, weight in enumerate(weights)]
    for one, share in shares(hubs).items():
        wanted = next(each.weight for each in hubs if each.host == one) / sum(weights)
        deviation = (wanted * (1 - wanted) / len(NAMES)) ** 0.5
        assert abs(share - wanted) < 5 * deviation


def test_the_same_device_gets_the_same_hub_on_every_machine() -> None:
    hubs = [hub("a.example"), hub("b.example", 3), hub("c.example")]
    picked = [hashed.pick(hubs, name).host for name in NAMES[:8]]
    assert picked == [hashed.pick(hubs[::-1], name).host for name in NAMES[:8]]
    assert [one[0] for one in picked] == ["a", "b", "a", "b", "b", "b", "c", "b"], "as it was at the first release"


def test_a_hub_that_comes_takes_its_share_and_moves_nobody_else() -> None:
    before = [hub("a.example", 2), hub("b.example")]
    after = [*before, hub("c.example", 3)]
    moved = [(hashed.pick(before, name).host, hashed.pick(after, name).host) for name in NAMES]
    assert {new for old, new in moved if old != new} == {"c.example"}


def test_a_weight_of_zero_takes_no_part_unless_all_have_it() -> None:
    assert shares([hub("a.example", 0), hub("b.example", 1)]) == {"a.example": 0, "b.example": 1}
    assert 0.45 < shares([hub("a.example", 0), hub("b.example", 0)])["a.example"] < 0.55


def test_lowest_latency_spreads_evenly_whatever_the_weights() -> None:
    found = shares([hub("a.example", 1), hub("b.example", 9)], AllocationKind.GEO_LATENCY)
    assert 0.47 < found["a.example"] < 0.53
    assert latency.pick([hub("a.example")], "x").host == "a.example"


def test_static_takes_the_first_that_is_named() -> None:
    assert static.pick([hub("b.example"), hub("a.example")], "x").host == "b.example"


def test_who_may_be_picked_is_the_enrollments_or_who_takes_part() -> None:
    hubs = {one.host: one for one in (hub("a.example"), hub("b.example", allocates=False), hub("c.example"))}

    def hosts(*named: str) -> list[str]:
        key = EnrollmentKey(EnrollmentKind.GROUP, "g")
        enrollment = Enrollment(key=key, attestation=SymmetricKeys("", ""), hubs=named)
        return [one.host for one in candidates(enrollment, list(hubs.values()))]

    assert hosts() == ["a.example", "c.example"]
    assert hosts("b.example", "gone.example", "a.example") == ["b.example", "a.example"]
    with pytest.raises(HubError) as refused:
        hosts("gone.example")
    assert refused.value.row is NO_HUB
