"""Shared access policies of a hub and of the provisioning service, where sockets do not reach."""

from __future__ import annotations

import json

import pytest
from test_linked_hubs import Kept

from muster.core.errors import SERVER_ERROR, HubError
from muster.core.hub_limits import POLICIES
from muster.identity.kept_policies import (
    HUB,
    PROVISIONING,
    KeptPolicies,
    PolicyDraft,
    PolicyKind,
    Rotation,
    open_policies,
)
from muster.identity.policies import (
    BUILT_IN,
    LOCAL,
    PROVISIONING_OWNER,
    PROVISIONING_RIGHTS,
    SharedAccessPolicy,
    development_policies,
    development_provisioning_policy,
    rights_from,
    rights_text,
)
from muster.identity.verdict import Right
from muster.testing.clock import VirtualAmbient

READ = PolicyDraft(Right.REGISTRY_READ)
MADE = {HUB.owner: development_policies(), PROVISIONING.owner: [development_provisioning_policy()]}


async def policies(kept: Kept, kind: PolicyKind = HUB) -> KeptPolicies:
    return await open_policies(kind, kept, VirtualAmbient(seed=len(kept.settings)), lambda: MADE[kind.owner])


def keys_of(policy: SharedAccessPolicy) -> tuple[str, str]:
    return policy.primary_key, policy.secondary_key


async def test_what_is_changed_is_found_again_at_the_next_start() -> None:
    kept = Kept()
    held = await policies(kept)
    assert {one.name: one.rights for one in held.values()} == BUILT_IN
    own = await held.put("reader", READ)
    await held.remove("device")
    await held.put("service", PolicyDraft(Right.SERVICE_CONNECT | Right.REGISTRY_READ))
    await held.rotate("iothubowner", Rotation.PRIMARY)
    again = await policies(kept)
    assert dict(again) == dict(held)
    assert list(again) == ["iothubowner", "service", "registryRead", "registryReadWrite", "reader"]
    assert (again["reader"], again.owner) == (own, held["iothubowner"])


async def test_one_too_many_is_refused_and_one_that_is_there_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.identity.kept_policies.POLICIES", POLICIES._replace(open=7))
    held = await policies(Kept())
    for name in ("a", "b"):
        await held.put(name, READ)
    for refused in (held.put("c", READ), held.replace(dict.fromkeys(("iothubowner", *"abcdefg"), READ))):
        with pytest.raises(HubError) as error:
            await refused
        assert error.value.row.code == 403203
    assert (await held.put("b", PolicyDraft(Right.SERVICE_CONNECT))).rights is Right.SERVICE_CONNECT


@pytest.mark.parametrize("kind", [HUB, PROVISIONING], ids=lambda kind: kind.owner)
async def test_what_could_not_be_kept_does_not_count(kind: PolicyKind) -> None:
    kept, draft = Kept(), PolicyDraft(kind.rights)
    held, changes = await policies(kept, kind), list[int]()
    held.when_changed(lambda: changes.append(1))
    made = await held.put("a", draft)
    names = list(held)
    kept.error = HubError(SERVER_ERROR, "the disk is full")
    for attempt in (
        held.put("b", draft),
        held.put("a", PolicyDraft(Right.DEVICE_CONNECT)),
        held.rotate("a", Rotation.SWAP),
        held.remove("a"),
        held.replace({kind.owner: draft}),
    ):
        with pytest.raises(HubError):
            await attempt
    assert (held["a"], list(held), changes) == (made, names, [1])
    assert (await policies(kept, kind))["a"] == made


async def test_each_rotation_changes_what_it_says_and_nothing_else() -> None:
    held = await policies(Kept())
    first = held["service"]
    second = await held.rotate("service", Rotation.SECONDARY)
    assert second.primary_key == first.primary_key
    assert second.secondary_key not in keys_of(first)
    swapped = await held.rotate("service", Rotation.SWAP)
    assert keys_of(swapped) == keys_of(second)[::-1]
    third = await held.rotate("service", Rotation.PRIMARY)
    assert third.secondary_key == swapped.secondary_key
    assert third.primary_key not in keys_of(swapped)
    assert held["service"] == third
    assert third.rights == first.rights
    assert held["device"] == development_policies()[2]


async def test_those_that_wait_for_a_change_are_told_before_it_is_done() -> None:
    held, told = await policies(Kept()), list[str]()

    async def later() -> None:
        told.append(f"{'reader' in held}")

    async def fails() -> None:
        raise HubError(SERVER_ERROR, "the disk is full")

    held.when_changed(later)
    held.when_changed(lambda: told.append("at once"))
    await held.put("reader", READ)
    assert told == ["at once", "True"]
    held.when_changed(fails)
    held.when_changed(lambda: told.append("last"))
    with pytest.raises(HubError):
        await held.remove("reader")
    assert told[2:] == ["at once", "last", "False"], "who may fail keeps nobody from hearing of it"


@pytest.mark.parametrize(
    ("name", "draft", "code"),
    [
        ("", READ, 400004),
        ("a b", READ, 400004),
        ("-a", READ, 400004),
        ("a" * 65, READ, 400004),
        (LOCAL, READ, 400004),
        ("a", PolicyDraft(Right.NONE), 400004),
        ("a", PolicyDraft(Right.ENROLLMENT_READ), 400004),
        ("a", PolicyDraft(Right.REGISTRY_READ, "short"), 400004),
        ("iothubowner", READ, 400003),
    ],
)
async def test_what_cannot_be_a_policy(name: str, draft: PolicyDraft, code: int) -> None:
    kept = Kept()
    held = await policies(kept)
    before = dict(held)
    for attempt in (
        held.put(name, draft),
        held.replace({"iothubowner": PolicyDraft(BUILT_IN["iothubowner"]), name: draft}),
    ):
        with pytest.raises(HubError) as refused:
            await attempt
        assert refused.value.row.code == code
        assert "short" not in str(refused.value)
    assert dict(held) == dict(await policies(kept)) == before


async def test_the_owner_stays() -> None:
    held = await policies(Kept())
    for attempt in (held.remove("iothubowner"), held.replace({"a": READ})):
        with pytest.raises(HubError) as refused:
            await attempt
        assert refused.value.row.code == 400003
    for missing in (held.remove("none"), held.rotate("none", Rotation.SWAP)):
        with pytest.raises(HubError) as refused:
            await missing
        assert refused.value.row.code == 404000
    owner = await held.put("iothubowner", PolicyDraft(BUILT_IN["iothubowner"], "A" * 44))
    assert keys_of(owner) == ("A" * 44, MADE[HUB.owner][0].secondary_key)


async def test_all_are_replaced_at_once() -> None:
    kept = Kept()
    held = await policies(kept)
    service = held["service"]
    await held.replace({"iothubowner": PolicyDraft(BUILT_IN["iothubowner"]), "service": READ, "own": READ})
    assert list(await policies(kept)) == ["iothubowner", "service", "own"]
    assert (keys_of(held["service"]), held["service"].rights) == (keys_of(service), Right.REGISTRY_READ)


async def test_who_may_write_the_registry_may_read_it() -> None:
    held = await policies(Kept())
    assert (await held.put("w", PolicyDraft(Right.REGISTRY_WRITE))).rights == Right.REGISTRY_READ | Right.REGISTRY_WRITE


@pytest.mark.parametrize("kind", [HUB, PROVISIONING], ids=lambda kind: kind.owner)
async def test_what_an_earlier_version_kept_is_taken_over(kind: PolicyKind) -> None:
    """It knew what policies grant by their names, and kept what was added to the provisioning service's apart."""
    kept = Kept()
    kept.settings[kind.setting] = json.dumps({one.name: keys_of(one) for one in MADE[kind.owner]}).encode()
    if kind is PROVISIONING:
        kept.settings["provisioning-policies-added"] = json.dumps({"own": ["EnrollmentRead", "p", "s"]}).encode()
    held = await policies(kept, kind)
    assert {name: held[name] for name in kind.built_in} == {one.name: one for one in MADE[kind.owner]}
    if kind is PROVISIONING:
        assert held["own"] == SharedAccessPolicy("own", Right.ENROLLMENT_READ, "p", "s")
        await held.remove("own")
        assert list(await policies(kept, kind)) == [PROVISIONING_OWNER]
    else:
        assert dict(await policies(kept)) == dict(held)


def test_rights_are_read_as_they_are_written() -> None:
    for rights in (Right.ENROLLMENT_READ, Right.SERVICE_CONFIG | Right.REGISTRATION_WRITE, PROVISIONING_RIGHTS):
        assert rights_from(rights_text(rights)) == rights
        assert rights_from(rights_text(rights).lower().replace(" ", "")) == rights
    with pytest.raises(ValueError, match="Everything"):
        rights_from("EnrollmentRead, Everything")
