"""Refusals in memory: found again, bounded, counted; and what is handed to the store in a flood."""

from __future__ import annotations

from collections.abc import Sequence

from muster.core.ambient import tracking_id
from muster.core.errors import DEVICE_UNAUTHORIZED
from muster.core.limits import REFUSALS_IN_MEMORY, REFUSALS_PER_PRINCIPAL, REFUSALS_WRITTEN
from muster.identity.refusals import KeptRefusal, Refusals
from muster.identity.verdict import Verdict
from muster.testing.clock import VirtualAmbient


def refused(ambient: VirtualAmbient, principal: str, cause: str = "wrong-key") -> Verdict:
    ambient.advance(0.001)
    return Verdict(
        tracking_id=tracking_id(ambient), at=ambient.now(), transport="mqtt", peer="::1", principal=principal,
        checks=(), cause=cause, error=DEVICE_UNAUTHORIZED,
    )  # fmt: skip


class Notebook:
    """A store that remembers what it was handed."""

    def __init__(self) -> None:
        self.kept: list[KeptRefusal] = []

    def keep(self, refusal: KeptRefusal) -> None:
        self.kept.append(refusal)

    async def find(self, tracking_id: str) -> KeptRefusal | None:
        return next((one for one in self.kept if one.tracking_id.startswith(tracking_id[:32])), None)

    async def newest(self, principal: str | None, limit: int) -> Sequence[KeptRefusal]:
        return [one for one in reversed(self.kept) if principal in {None, one.principal}][:limit]


async def test_a_refusal_is_found_by_tracking_id_by_principal_and_as_the_last() -> None:
    ambient = VirtualAmbient()
    refusals = Refusals(ambient)
    assert await refusals.last() is None
    verdicts = [refused(ambient, name) for name in ("dev1", "dev1/mod1", "dev12", "service (policy)", "dev1")]
    for verdict in verdicts:
        refusals.add(verdict)
    for text in (verdicts[0].tracking_id, verdicts[0].tracking_id[:32].upper(), f" {verdicts[0].tracking_id} "):
        found = await refusals.find(text)
        assert found is not None
        assert found.report["trackingId"] == verdicts[0].tracking_id
    assert await refusals.find("0" * 32) is None
    assert (await refusals.last() or found).tracking_id == verdicts[4].tracking_id
    assert [one.principal for one in await refusals.newest("dev1")] == ["dev1", "dev1/mod1", "dev1"]
    assert [one.principal for one in await refusals.newest("dev1/mod1")] == ["dev1/mod1"]
    assert [one.principal for one in await refusals.newest(limit=2)] == ["dev1", "service (policy)"]


async def test_memory_is_bounded_and_one_principal_does_not_push_out_the_others() -> None:
    ambient = VirtualAmbient()
    refusals = Refusals(ambient)
    refusals.add(refused(ambient, "quiet", "token-expired"))
    flood = 3 * REFUSALS_IN_MEMORY.open
    for _ in range(flood):
        refusals.add(refused(ambient, "loud"))
    assert len(await refusals.newest("loud", flood)) == REFUSALS_PER_PRINCIPAL.open
    assert len(await refusals.newest("quiet")) == 1
    for number in range(flood):
        refusals.add(refused(ambient, f"dev{number}"))
    assert len(await refusals.newest(limit=flood)) == REFUSALS_IN_MEMORY.open
    assert await refusals.newest("quiet") == []
    assert refusals.counts() == {"token-expired": 1, "wrong-key": 2 * flood}


async def test_a_principal_that_is_pushed_out_and_comes_back_is_found_again() -> None:
    ambient = VirtualAmbient()
    refusals = Refusals(ambient)
    refusals.add(refused(ambient, "dev"))
    for number in range(REFUSALS_IN_MEMORY.open - 1):
        refusals.add(refused(ambient, f"other{number}"))
    for _ in range(2 * REFUSALS_PER_PRINCIPAL.open):
        refusals.add(refused(ambient, "dev"))
    assert len(await refusals.newest("dev", 100)) == REFUSALS_PER_PRINCIPAL.open


async def test_a_flood_is_written_at_a_bounded_rate_and_an_old_one_is_found_in_the_store() -> None:
    ambient = VirtualAmbient()
    store = Notebook()
    refusals = Refusals(ambient, store=store)
    first = refused(ambient, "first")
    refusals.add(first)
    for number in range(5000):
        refusals.add(refused(ambient, f"dev{number}"))
    burst = REFUSALS_WRITTEN.open * 10
    assert burst <= len(store.kept) <= burst + 5 * REFUSALS_WRITTEN.open + 1
    assert refusals.unwritten == 5001 - len(store.kept)
    found = await refusals.find(first.tracking_id)
    assert found is not None, "memory has let it go, the store has it"
    assert (await refusals.newest("first"))[0].tracking_id == first.tracking_id
    last = await refusals.last()
    assert last is not None
    assert last.principal == "dev4999"
    ambient.advance(10)
    before = len(store.kept)
    refusals.add(refused(ambient, "later"))
    assert len(store.kept) == before + 1
