"""Allocation policies: the spread follows the weights, and stays."""

from __future__ import annotations

import pytest
from provisioning_parts import FakeHub, Steps

from muster.core.bus import LocalBus
from muster.core.errors import HubError
from muster.core.provisioning_errors import NO_HUB
from muster.provisioning.allocation import POLICIES, candidates, hashed, latency, static
from muster.provisioning.allocation.candidate import Candidate
from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.model import AllocationKind, Enrollment, EnrollmentKey, EnrollmentKind
from tests.unit.shared_rows import Rows, kept_alone

NAMES = [f"device-{number}" for number in range(20_000)]


def shares(hubs: list[Candidate], policy: AllocationKind = AllocationKind.HASHED) -> dict[str, float]:
    picked = [POLICIES[policy](hubs, name).host for name in NAMES]
    return {one.host: picked.count(one.host) / len(NAMES) for one in hubs}


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (1, 2, 5), (100, 1)])
def test_hashed_allocation_follows_the_weights(weights: tuple[int, ...]) -> None:
    hubs = [Candidate(f"h{number}.example", weight) for number, weight in enumerate(weights)]
    for one, share in shares(hubs).items():
        wanted = next(each.weight for each in hubs if each.host == one) / sum(weights)
        deviation = (wanted * (1 - wanted) / len(NAMES)) ** 0.5
        assert abs(share - wanted) < 5 * deviation


def test_the_same_device_gets_the_same_hub_on_every_machine() -> None:
    hubs = [Candidate("a.example"), Candidate("b.example", 3), Candidate("c.example")]
    picked = [hashed.pick(hubs, name).host for name in NAMES[:8]]
    assert picked == [hashed.pick(hubs[::-1], name).host for name in NAMES[:8]]
    assert [one[0] for one in picked] == ["a", "b", "a", "b", "b", "b", "c", "b"], "as it was at the first release"


def test_a_hub_that_comes_takes_its_share_and_moves_nobody_else() -> None:
    before = [Candidate("a.example", 2), Candidate("b.example")]
    after = [*before, Candidate("c.example", 3)]
    moved = [(hashed.pick(before, name).host, hashed.pick(after, name).host) for name in NAMES]
    assert {new for old, new in moved if old != new} == {"c.example"}


def test_a_weight_of_zero_takes_no_part_unless_all_have_it() -> None:
    assert shares([Candidate("a.example", 0), Candidate("b.example", 1)]) == {"a.example": 0, "b.example": 1}
    assert 0.45 < shares([Candidate("a.example", 0), Candidate("b.example", 0)])["a.example"] < 0.55


def test_lowest_latency_spreads_evenly_whatever_the_weights() -> None:
    found = shares([Candidate("a.example", 1), Candidate("b.example", 9)], AllocationKind.GEO_LATENCY)
    assert 0.47 < found["a.example"] < 0.53
    assert latency.pick([Candidate("a.example")], "x").host == "a.example"


def test_static_takes_the_first_that_is_named() -> None:
    assert static.pick([Candidate("b.example"), Candidate("a.example")], "x").host == "b.example"


async def test_who_may_be_picked_is_the_enrollments_or_who_has_a_weight() -> None:
    hubs, kept = LinkedHubs(FakeHub(host, Steps()) for host in ("a.example", "b.example", "c.example")), kept_alone()
    await hubs.allocate(AllocationKind.STATIC, {"b.example": 0, "c.example": 3}, kept)

    def found(*named: str) -> list[Candidate]:
        key = EnrollmentKey(EnrollmentKind.GROUP, "g")
        return list(candidates(Enrollment(key=key, attestation=SymmetricKeys("", ""), hubs=named), hubs))

    assert found() == [("a.example", 1), ("c.example", 3)]
    assert found("b.example", "gone.example", "a.example") == [("b.example", 0), ("a.example", 1)]
    with pytest.raises(HubError) as refused:
        found("gone.example")
    assert refused.value.row is NO_HUB
    again = LinkedHubs()
    await again.load(kept)
    assert (again.default, again.weight("c.example"), again.weight("new.example")) == (AllocationKind.STATIC, 3, 1)


@pytest.mark.parametrize(
    ("policy", "weights"),
    [(AllocationKind.CUSTOM, {}), (None, {"b.example": 1}), (None, {"a.example": -1}), (None, {"a.example": 1001})],
)
async def test_an_allocation_that_makes_no_sense_is_refused_and_nothing_kept(
    policy: AllocationKind | None, weights: dict[str, int]
) -> None:
    rows = Rows()
    hubs, kept = LinkedHubs([FakeHub("a.example", Steps())]), rows.on(LocalBus())
    with pytest.raises(HubError) as refused:
        await hubs.allocate(policy, weights, kept)
    assert (refused.value.row.code, rows.values) == (400004, {})
