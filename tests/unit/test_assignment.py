"""Assignments and moves between hubs, killed at every step: no device in two hubs, none lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from provisioning_parts import GROUP_KEY, FakeHub, Killed, Service, Steps, attempt_of, service

from muster.core.errors import ARGUMENT_INVALID, SERVER_ERROR, HubError
from muster.core.provisioning_limits import ASSIGNMENT_RETRY
from muster.identity.changes import ANY
from muster.identity.keys import Credentials
from muster.provisioning.attestation.symmetric_key import derive
from muster.provisioning.contract import WebhookError
from muster.provisioning.model import (
    AllocationKind,
    CustomAllocation,
    DeviceData,
    EnrollmentKey,
    EnrollmentKind,
    Registration,
    RegistrationStatus,
    ReprovisionPolicy,
    Substatus,
)
from muster.provisioning.rules import Draft, DraftedKeys

OLD, NEW = "old.example", "new.example"
INITIAL, LIVED = DeviceData({"t": 1}, {"d": 1}), DeviceData({"t": 2}, {"d": 2}, {"r": 2})
MIGRATE, RESET, NEVER = ReprovisionPolicy(), ReprovisionPolicy(True, False), ReprovisionPolicy(False, True)


class World:
    """Two hubs, and a service that assigns to the one that its group names."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.steps = directory, Steps()
        self.old, self.new = FakeHub(OLD, self.steps), FakeHub(NEW, self.steps)

    def running(self) -> Any:
        return service(self.directory, [self.old, self.new])

    def where(self, device: str = "dev") -> list[str]:
        return [one.host for one in (self.old, self.new) if device in one.devices]


async def point(running: Service, host: str, policy: ReprovisionPolicy | None = MIGRATE, **more: Any) -> None:
    await running.group(
        hubs=(host,), allocation=AllocationKind.STATIC, reprovision=policy, initial_twin=INITIAL, **more
    )


async def settled_in_old(world: World, policy: ReprovisionPolicy | None = MIGRATE) -> None:
    """A device that was assigned to the old hub, has lived there, and is to go to the new one."""
    async with world.running() as running:
        await point(running, OLD, policy)
        assert (await running.register("dev")).assigned_hub == OLD
        credentials, edge, _ = world.old.devices["dev"]
        world.old.devices["dev"] = credentials, edge, LIVED
        await point(running, NEW, policy)
    world.steps.done.clear()


async def test_a_move_takes_the_data_with_it_and_the_device_from_its_old_hub(tmp_path: Path) -> None:
    world = World(tmp_path)
    await settled_in_old(world)
    async with world.running() as running:
        found = await running.register("dev")
    assert (found.assigned_hub, found.substatus) == (NEW, Substatus.MIGRATED)
    assert (world.where(), world.new.devices["dev"][2]) == ([NEW], LIVED)
    assert world.steps.done == [f"put {NEW}", f"remove {OLD}"]


async def test_a_reset_moves_with_the_first_twin(tmp_path: Path) -> None:
    world = World(tmp_path)
    await settled_in_old(world, RESET)
    async with world.running() as running:
        found = await running.register("dev")
    assert (found.assigned_hub, found.substatus) == (NEW, Substatus.RESET)
    assert (world.where(), world.new.devices["dev"][2]) == ([NEW], INITIAL)


@pytest.mark.parametrize(("policy", "version"), [(NEVER, "2021-10-01"), (None, "2018-04-01")])
async def test_a_device_that_shall_stay_stays(tmp_path: Path, policy: ReprovisionPolicy | None, version: str) -> None:
    world = World(tmp_path)
    await settled_in_old(world, policy)
    async with world.running() as running:
        found = await running.register("dev", version=version)
    assert (found.assigned_hub, found.substatus, world.where()) == (
        OLD,
        Substatus.SAME_HUB if policy is NEVER else Substatus.INITIAL,
        [OLD],
    )
    assert world.old.devices["dev"][2] == LIVED


@pytest.mark.parametrize("policy", [MIGRATE, NEVER], ids=["migrate", "never"])
async def test_a_device_whose_id_is_changed_in_its_enrollment_takes_its_data_with_it(
    tmp_path: Path, policy: ReprovisionPolicy
) -> None:
    world, key = World(tmp_path), EnrollmentKey(EnrollmentKind.INDIVIDUAL, "dev")
    own = derive(GROUP_KEY, "dev")
    async with world.running() as running:
        for device_id in ("", "renamed"):
            draft = Draft(
                key=key, attestation=DraftedKeys(own, own), device_id=device_id, hubs=(OLD,), reprovision=policy
            )
            await running.enrollments.put(draft)
            found = await running.register("dev")
            for name, (credentials, edge, _) in world.old.devices.items():
                if not device_id:
                    world.old.devices[name] = credentials, edge, LIVED
    expected = "renamed" if policy is MIGRATE else "dev"
    assert (found.device_id, list(world.old.devices)) == (expected, [expected])
    assert world.old.devices[expected][2] == LIVED


async def test_a_device_whose_hub_is_linked_no_more_gets_another_also_when_it_shall_stay(tmp_path: Path) -> None:
    world = World(tmp_path)
    await settled_in_old(world, NEVER)
    async with service(tmp_path, [world.new]) as running:
        found = await running.register("dev")
    assert (found.assigned_hub, world.new.devices["dev"][2]) == (NEW, INITIAL)


async def test_a_hub_that_is_unlinked_in_the_midst_of_an_assignment_is_chosen_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.provisioning.registrar.ASSIGNMENT_RETRY", ASSIGNMENT_RETRY._replace(open=0))
    world = World(tmp_path)
    async with world.running() as running:
        await running.group()
        names = [f"dev{number}" for number in range(20)]

        async def unlink() -> None:
            running.hubs._hubs.pop(NEW, None)
            raise HubError(SERVER_ERROR, "the hub is closing")

        world.new.meanwhile = unlink
        found = [await running.register(name) for name in names]
    assert {(one.status, one.assigned_hub) for one in found} == {(RegistrationStatus.ASSIGNED, OLD)}
    assert (sorted(world.old.devices), world.new.devices) == (sorted(names), {})
    assert f"put {NEW}" in world.steps.done, "one was on its way there"


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("kill_at", [1, 2])
@pytest.mark.parametrize("policy", [MIGRATE, RESET], ids=["migrate", "reset"])
async def test_a_move_that_was_killed_at_any_step_is_finished_after_the_next_start(
    tmp_path: Path, policy: ReprovisionPolicy, kill_at: int, before: bool
) -> None:
    world = World(tmp_path)
    await settled_in_old(world, policy)
    world.steps.kill_at, world.steps.before = kill_at, before
    async with world.running() as running:
        await running.registrar.register(attempt_of("dev"))
        with pytest.raises(asyncio.CancelledError):  # the task that was killed takes the service with it
            await killed(running)
        assert world.where(), "the device is somewhere at every moment"
        assert (await running.registrar.get("dev")).status is RegistrationStatus.ASSIGNING
    async with world.running() as running:
        found = await running.settled("dev")
    assert (found.status, found.assigned_hub, world.where()) == (RegistrationStatus.ASSIGNED, NEW, [NEW])
    assert world.new.devices["dev"][2] == (LIVED if policy is MIGRATE else INITIAL)


async def killed(running: Service) -> None:
    """Wait until the assignment's task has died of ``Killed``."""
    (one,) = running.registrar._running.values()
    assert one.task is not None
    try:
        await asyncio.shield(one.task)
    except Killed:
        raise asyncio.CancelledError from None


async def test_a_first_assignment_that_was_killed_is_finished_after_the_next_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number, before in enumerate((True, False)):
        name = f"dev{number}"
        async with world.running() as running:
            await point(running, NEW)
            world.steps.kill_at, world.steps.before = len(world.steps.done) + 1, before
            await running.registrar.register(attempt_of(name))
            with pytest.raises(asyncio.CancelledError):
                await killed(running)
        async with world.running() as running:
            found = await running.settled(name)
        assert (found.assigned_hub, world.where(name), world.new.devices[name][2]) == (NEW, [NEW], INITIAL)


async def test_a_hub_that_refuses_leaves_the_device_where_it_was(tmp_path: Path) -> None:
    world = World(tmp_path)
    await settled_in_old(world)
    world.steps.kill_at, world.steps.before = 1, False
    world.steps.error = HubError(ARGUMENT_INVALID, "The hub is full.")
    async with world.running() as running:
        found = await running.register("dev")
        assert (found.status, found.error_code, found.assigned_hub) == (RegistrationStatus.FAILED, 400209, OLD)
        assert "The hub is full." in found.error_message
        assert world.where() == [OLD]
        assert (await running.register("dev")).status is RegistrationStatus.ASSIGNED
    assert world.where() == [NEW]


async def test_what_passes_is_tried_again_and_the_device_hears_assigning_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.provisioning.registrar.ASSIGNMENT_RETRY", ASSIGNMENT_RETRY._replace(open=0))
    world = World(tmp_path)
    await settled_in_old(world)
    world.steps.kill_at, world.steps.error = 2, HubError(SERVER_ERROR, "the disk is full")
    async with world.running() as running:
        found = await running.register("dev")
    assert (found.status, world.where()) == (RegistrationStatus.ASSIGNED, [NEW])
    assert world.steps.done == [f"put {NEW}", f"remove {OLD}"] * 2


async def test_registering_is_idempotent_while_an_assignment_is_in_progress(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as running:
        await point(running, NEW)
        operations = await asyncio.gather(*(running.registrar.register(attempt_of("dev")) for _ in range(5)))
        identifiers = {one.registration.operation_id for one in operations if one.registration is not None}
        assert len(identifiers) == 1
        await running.settled("dev")
        again = await running.registrar.register(attempt_of("dev"))
        assert again.registration is not None
        assert again.registration.operation_id not in identifiers


async def test_without_a_hub_the_registration_fails_with_a_code(tmp_path: Path) -> None:
    async with service(tmp_path, []) as running:
        await running.group()
        found = await running.register("dev")
        assert (found.status, found.error_code) == (RegistrationStatus.FAILED, 400208)


# --- custom allocation


async def custom(running: Service, answer: Any, **more: Any) -> Registration:
    definition = CustomAllocation("https://function.example/api", "2021-10-01")
    await running.group(
        allocation=AllocationKind.CUSTOM, custom=definition, initial_twin=INITIAL, reprovision=MIGRATE, **more
    )
    running.answer = answer
    return await running.register("dev", payload={"model": 7})


async def test_a_webhook_picks_the_hub_the_twin_and_what_the_device_is_told(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as running:
        twin = {"tags": {"w": 1}, "properties": {"desired": {"x": 2}}}
        found = await custom(running, {"iotHubHostName": NEW.upper(), "initialTwin": twin, "payload": {"told": [1]}})
        assert (found.assigned_hub, found.payload) == (NEW, {"told": [1]})
        assert world.new.devices["dev"][2] == DeviceData({"w": 1}, {"x": 2})
        ((url, body),) = running.asked
        assert url == "https://function.example/api"
        group = body.pop("enrollmentGroup")
        assert body == {
            "deviceRuntimeContext": {"registrationId": "dev", "symmetricKey": {}, "payload": {"model": 7}},
            "linkedHubs": [OLD, NEW],
        }
        assert (group["enrollmentGroupId"], group["attestation"]) == ("group", {"type": "symmetricKey"})
        assert group["etag"][0] == group["etag"][-1] == '"'
        running.asked.clear()
        found = await custom(running, {"iotHubHostName": OLD})
        assert (found.assigned_hub, found.payload, found.substatus) == (OLD, None, Substatus.MIGRATED)
        assert world.where() == [OLD]
        context = running.asked[0][1]["deviceRuntimeContext"]
        assert (context["currentIotHubHostName"], context["currentDeviceId"]) == (NEW, "dev")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (WebhookError("the webhook answered 400", 400), "Custom allocation failed with status code: 400"),
        (WebhookError("the webhook did not answer within 5 seconds"), "did not answer"),
        (b"<html>", "not JSON"),
        ([], "no iotHubHostName"),
        ({"iotHubHostName": "elsewhere.example"}, "elsewhere.example"),
        ({"iotHubHostName": NEW, "initialTwin": 7}, "initialTwin"),
        ({"iotHubHostName": NEW, "initialTwin": {"tags": {"a.b": 1}}}, "initialTwin"),
    ],
)
async def test_a_webhook_that_does_not_do_its_part_fails_the_registration(
    tmp_path: Path, answer: Any, said: str
) -> None:
    world = World(tmp_path)
    async with world.running() as running:
        found = await custom(running, answer)
    assert (found.status, found.error_code, world.where()) == (RegistrationStatus.FAILED, 400207, [])
    assert said in found.error_message


async def test_the_webhook_is_asked_again_when_the_service_was_killed_meanwhile(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as running:
        await custom_killed(running)
    async with world.running() as running:
        running.answer = {"iotHubHostName": NEW}
        found = await running.settled("dev")
    assert (found.assigned_hub, world.where()) == (NEW, [NEW])


async def custom_killed(running: Service) -> None:
    definition = CustomAllocation("https://function.example/api", "2021-10-01")
    await running.group(allocation=AllocationKind.CUSTOM, custom=definition)
    asked = asyncio.Event()

    async def silent(url: str, body: bytes) -> bytes:
        asked.set()
        return await asyncio.Future()

    running.webhook = silent  # type: ignore[method-assign]
    await running.registrar.register(attempt_of("dev"))
    await asked.wait()


# --- what services do meanwhile


async def test_what_is_being_assigned_is_not_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with world.running() as running:
        await custom_killed(running)
        with pytest.raises(HubError) as refused:
            await running.registrar.delete("dev")
        assert refused.value.row.code == 409202
        await running.enrollments.delete(EnrollmentKey(EnrollmentKind.GROUP, "group"), ANY)
        assert (await running.registrar.get("dev")).intent is not None
    async with world.running() as running:
        found = await running.settled("dev")
        assert (found.status, found.error_code) == (RegistrationStatus.FAILED, 404201)


GROUP = EnrollmentKey(EnrollmentKind.GROUP, "group")
GONE = [("deleted", 404201), ("disabled", 403201)]


async def end(running: Service, how: str) -> None:
    if how == "deleted":
        await running.enrollments.delete(GROUP, ANY)
    else:
        await point(running, NEW, enabled=False)


@pytest.mark.parametrize(("how", "code"), GONE)
@pytest.mark.parametrize(
    ("killed_at", "ends_in"), [((1, True), OLD), ((1, False), OLD), ((2, True), OLD), ((2, False), NEW)]
)
async def test_an_enrollment_that_goes_in_the_midst_of_a_move_leaves_the_device_in_one_hub(
    tmp_path: Path, how: str, code: int, killed_at: tuple[int, bool], ends_in: str
) -> None:
    world = World(tmp_path)
    await settled_in_old(world)
    world.steps.kill_at, world.steps.before = killed_at
    async with world.running() as running:
        await running.registrar.register(attempt_of("dev"))
        with pytest.raises(asyncio.CancelledError):
            await killed(running)
        await end(running, how)
    async with world.running() as running:
        found = await running.settled("dev")
    assert (found.assigned_hub, world.where()) == (ends_in, [ends_in])
    expected = (RegistrationStatus.FAILED, code) if ends_in == OLD else (RegistrationStatus.ASSIGNED, 0)
    assert (found.status, found.error_code) == expected
    assert next(hub for hub in (world.old, world.new) if hub.host == ends_in).devices["dev"][2] == LIVED


@pytest.mark.parametrize(("how", "code"), GONE)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_an_enrollment_that_goes_before_a_first_assignment_ends_leaves_the_device_nowhere(
    tmp_path: Path, how: str, code: int, before: bool
) -> None:
    world = World(tmp_path)
    world.steps.kill_at, world.steps.before = 1, before
    async with world.running() as running:
        await point(running, NEW)
        await running.registrar.register(attempt_of("dev"))
        with pytest.raises(asyncio.CancelledError):
            await killed(running)
        await end(running, how)
    async with world.running() as running:
        found = await running.settled("dev")
    assert (found.status, found.error_code, world.where()) == (RegistrationStatus.FAILED, code, [])


@pytest.mark.parametrize(("how", "code"), GONE)
async def test_an_enrollment_that_goes_while_the_hub_takes_the_device_has_it_taken_back(
    tmp_path: Path, how: str, code: int
) -> None:
    world = World(tmp_path)
    async with world.running() as running:
        await point(running, NEW)
        world.new.meanwhile = lambda: end(running, how)
        found = await running.register("dev")
    assert (found.status, found.error_code, world.where()) == (RegistrationStatus.FAILED, code, [])


async def test_a_device_that_somebody_else_made_meanwhile_is_not_taken_back(tmp_path: Path) -> None:
    world, theirs = World(tmp_path), (Credentials(), False, LIVED)
    async with world.running() as running:
        await point(running, NEW)

        async def taken() -> None:
            world.new.devices["dev"] = theirs
            raise HubError(ARGUMENT_INVALID, "The hub has one of this name.")

        world.new.meanwhile = taken
        found = await running.register("dev")
    assert (found.status, found.error_code) == (RegistrationStatus.FAILED, 400209)
    assert world.new.devices == {"dev": theirs}
