"""Provisioning and bounded logs that several nodes share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from hub_database import Storage, one_of_several, settled

from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.core.limits import REFUSALS_KEPT
from muster.identity.refusals import KeptRefusal
from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.contract import EnrollmentStanding
from muster.provisioning.model import Enrollment, EnrollmentKey, EnrollmentKind, Registration, RegistrationStatus

SCOPE, NODES = "0ne00000001", 3


@pytest.fixture
async def nodes(common: str) -> AsyncIterator[list[Storage]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(one_of_several(common)) for _ in range(NODES)]


async def test_a_registration_changed_on_several_nodes_loses_no_change(nodes: list[Storage]) -> None:
    stores = [one.provisioning for one in nodes]
    key = EnrollmentKey(EnrollmentKind.INDIVIDUAL, "d")

    def again(present: Registration | None) -> Registration:
        if present is None:
            return Registration(registration_id="d", key=key, operation_id="o", status=RegistrationStatus.ASSIGNED)
        return replace(present, version=present.version + 1)

    first = again(None)
    await asyncio.gather(*(stores[at % NODES].edit_registration(SCOPE, "d", again) for at in range(60)))
    assert await stores[0].registration(SCOPE, "d") == replace(first, version=first.version + 59)


async def test_groups_that_are_made_on_several_nodes_see_each_other(nodes: list[Storage]) -> None:
    stores = [one.provisioning for one in nodes]
    keys = SymmetricKeys("a2V5", "eWVr")

    async def make(at: int) -> Enrollment | None:
        key = EnrollmentKey(EnrollmentKind.GROUP, f"g{at}")

        def unless_there_are_three(standing: EnrollmentStanding) -> Enrollment:
            if len(standing.groups) == 3:
                raise HubError(PRECONDITION_FAILED)
            return Enrollment(key=key, attestation=keys)

        return await stores[at % NODES].edit_enrollment(SCOPE, key, unless_there_are_three)

    outcomes = await asyncio.gather(*map(make, range(12)), return_exceptions=True)
    assert sum(isinstance(one, Enrollment) for one in outcomes) == 3
    assert len(await stores[0].enrollments(SCOPE, EnrollmentKind.GROUP, "", 99)) == 3


async def test_a_group_goes_while_its_devices_register(nodes: list[Storage]) -> None:
    """Nobody waits for somebody who waits for him, so all end well within the time in which that would be noticed."""
    stores = [one.provisioning for one in nodes]
    key = EnrollmentKey(EnrollmentKind.GROUP, "g")
    enrollment = Enrollment(key=key, attestation=SymmetricKeys("a2V5", "eWVr"))
    await stores[0].edit_enrollment(SCOPE, key, lambda _: enrollment)

    def made(name: str) -> Registration:
        return Registration(registration_id=name, key=key, operation_id="o", status=RegistrationStatus.ASSIGNED)

    async def register(at: int) -> None:
        name = f"d{at % 20}"
        await stores[at % NODES].edit_registration(SCOPE, name, lambda _: made(name))

    await asyncio.gather(*map(register, range(40)))
    deleting = stores[1].edit_enrollment(SCOPE, key, lambda _: None)
    await asyncio.gather(deleting, *map(register, range(80)))
    await stores[1].edit_enrollment(SCOPE, key, lambda _: None)
    assert await stores[0].registrations(SCOPE, key, "", 99) == []


async def test_a_log_that_several_nodes_write_stays_bounded(
    nodes: list[Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stores_of in ("postgres", "sqlite"):
        monkeypatch.setattr(f"muster.stores.{stores_of}.refusals.REFUSALS_KEPT", REFUSALS_KEPT._replace(open=50))
    stores = [one.of("hub", None).refusals for one in nodes]
    for number in range(240):
        tracking_id = f"{number:032x}"
        stores[number % NODES].keep(KeptRefusal(tracking_id, float(number), "d", {"trackingId": tracking_id}))
        if number % 30 == 29:
            await asyncio.sleep(0)

    await settled(*nodes)
    kept = await stores[0].newest(None, 1000)
    assert len(kept) == len({one.tracking_id for one in kept}) == 50
    assert min(one.at for one in kept) > 2, "the first of each node have gone"
