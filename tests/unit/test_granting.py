"""Roles granted by the operator: what is refused, what counts from which place, and what is decided by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from muster.access.custom_roles import CustomRole, make_role
from muster.access.decision import Caller, Decision, read_caller
from muster.access.granting import Granting
from muster.access.grants import Grant, KeptRoles, PrincipalKind
from muster.access.roles import Action, DataAction, ManagementAction, ProvisioningAction
from muster.core.audit import Draft
from muster.core.errors import INVALID_OPERATION, NOT_FOUND, HubError
from muster.core.grant_limits import CONDITION_CHARACTERS, CUSTOM_ROLES, GRANTS
from muster.twins.query.parser import parse_condition

ISSUER = "https://issuer.test/"
READER, TWINS = "IoT Hub Data Reader", "IoT Hub Twin Contributor"
BERLIN = "tags.site = 'berlin'"


class Store:
    """A ``GrantStore`` in memory."""

    def __init__(self) -> None:
        self.roles: dict[str, CustomRole] = {}
        self.grants: dict[str, Grant] = {}

    async def load(self) -> KeptRoles:
        return KeptRoles(list(self.roles.values()), list(self.grants.values()))

    async def put_role(self, role: CustomRole, draft: Draft | None = None) -> None:
        self.roles[role.name] = role

    async def remove_role(self, name: str, draft: Draft | None = None) -> None:
        del self.roles[name]

    async def put_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        self.grants[grant.id] = grant

    async def remove_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        del self.grants[grant.id]


class Hub:
    """Devices and what conditions are true of them."""

    def __init__(self) -> None:
        self.true: set[tuple[str, str, str]] = set()
        self.asked: list[tuple[str, str, Sequence[str]]] = []

    async def matches(self, hub: str, device_id: str, conditions: Sequence[str]) -> bool:
        self.asked.append((hub, device_id, conditions))
        return any((hub, device_id, one) in self.true for one in conditions)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def granting(store: Store, hub: Hub) -> Granting:
    return Granting(store, lambda text: void(parse_condition(text)), hub.matches)


def void(_: object) -> None:
    return None


def caller(**claims: Any) -> Caller:
    return read_caller(claims.pop("iss", ISSUER), claims, 1_800_000_000.0)


def to(principal: str = "ops", kind: PrincipalKind = PrincipalKind.GROUP, **members: str) -> Grant:
    return Grant(**{"role": READER, "kind": kind, "principal": principal, **members})  # type: ignore[arg-type]


OPS = caller(sub="s", groups=["ops"])


async def may(granting: Granting, who: Caller, action: Action, *at: str | None) -> Decision:
    hub, device = (*at, None)[:2] if at else ("north", None)
    assert hub is not None
    return await granting.decide(who, action, hub, device)


# --- the decision


@pytest.mark.parametrize(
    ("kind", "claims", "allowed"),
    [
        (PrincipalKind.SUBJECT, {"sub": "x"}, True),
        (PrincipalKind.SUBJECT, {"sub": "y", "oid": "x"}, True),
        (PrincipalKind.SUBJECT, {"sub": "y", "groups": ["x"], "azp": "x", "roles": ["x"]}, False),
        (PrincipalKind.GROUP, {"sub": "y", "groups": ["w", "x"]}, True),
        (PrincipalKind.GROUP, {"sub": "x", "azp": "x"}, False),
        (PrincipalKind.GROUP, {"sub": "y", "groups": "x"}, False),
        (PrincipalKind.APPLICATION, {"azp": "x"}, True),
        (PrincipalKind.APPLICATION, {"appid": "x"}, True),
        (PrincipalKind.APPLICATION, {"client_id": "x"}, True),
        (PrincipalKind.APPLICATION, {"sub": "x", "groups": ["x"]}, False),
        (PrincipalKind.SUBJECT, {"sub": "X"}, False),
    ],
)
async def test_a_principal_is_known_by_the_claims_of_its_kind(
    granting: Granting, kind: PrincipalKind, claims: dict[str, Any], allowed: bool
) -> None:
    await granting.grant(to("x", kind))
    decision = await may(granting, caller(**claims), DataAction.TWINS_READ)
    assert (decision.allowed, decision.everywhere) == (allowed, True)
    assert decision.ground == (f"role {READER} granted to {kind} x" if allowed else "")
    assert not (await may(granting, caller(**claims), DataAction.TWINS_WRITE)).allowed


@pytest.mark.parametrize(
    ("issuer", "allowed"),
    [("", True), (ISSUER, True), (ISSUER.rstrip("/"), True), ("https://other.test/", False), (ISSUER + "x", False)],
)
async def test_only_tokens_of_the_named_issuer_count(granting: Granting, issuer: str, allowed: bool) -> None:
    await granting.grant(to(issuer=issuer))
    assert (await may(granting, OPS, DataAction.TWINS_READ)).allowed is allowed


async def test_a_grant_at_a_hub_counts_there_alone(granting: Granting) -> None:
    await granting.grant(to(hub="north"))
    assert (await may(granting, OPS, DataAction.TWINS_READ, "north", "d")).allowed
    assert (await may(granting, OPS, DataAction.TWINS_READ, "North")).allowed
    for other in ("south", "", "nort", "north2"):
        refused = await may(granting, OPS, DataAction.TWINS_READ, other)
        assert (refused.allowed, refused.elsewhere) == (False, f"{READER} at north")


async def test_a_grant_for_all_hubs_counts_where_its_actions_are(granting: Granting) -> None:
    for role in (READER, "Device Provisioning Service Data Reader", "Reader"):
        await granting.grant(to(role=role))
    assert (await may(granting, OPS, DataAction.TWINS_READ, "south")).allowed
    assert (await may(granting, OPS, ProvisioningAction.ENROLLMENTS_READ, "0ne00000001")).allowed
    assert (await may(granting, OPS, ManagementAction.READ, "")).allowed
    assert not (await may(granting, OPS, ManagementAction.WRITE, "")).allowed


async def test_a_grant_for_some_devices_is_asked_of_the_one_device_each_time(granting: Granting, hub: Hub) -> None:
    await granting.grant(to(role=TWINS, devices=BERLIN))
    refused = await may(granting, OPS, DataAction.TWINS_WRITE, "north", "d")
    assert not refused.allowed
    assert refused.elsewhere == f"this device is none of them: {TWINS} at all hubs for devices where {BERLIN}"
    hub.true.add(("north", "d", BERLIN))
    allowed = await may(granting, OPS, DataAction.TWINS_WRITE, "north", "d")
    assert (allowed.allowed, allowed.everywhere) == (True, False)
    assert not (await may(granting, OPS, DataAction.TWINS_WRITE, "south", "d")).allowed
    assert not (await may(granting, OPS, DataAction.DEVICES_WRITE, "north", "d")).allowed
    assert hub.asked == [("north", "d", (BERLIN,)), ("north", "d", (BERLIN,)), ("south", "d", (BERLIN,))]


async def test_what_is_not_about_one_device_is_not_for_a_grant_for_some(granting: Granting, hub: Hub) -> None:
    await granting.grant(to(devices=BERLIN, hub="north"))
    refused = await may(granting, OPS, DataAction.TWINS_READ, "north", None)
    assert refused.elsewhere.startswith("this operation is not about one device: ")
    assert not refused.allowed
    assert not hub.asked


async def test_many_grants_for_some_devices_are_asked_in_few_questions(granting: Granting, hub: Hub) -> None:
    conditions = [f"tags.n = {number}" for number in range(70)]
    for condition in conditions:
        await granting.grant(to(devices=condition))
    hub.true.add(("north", "d", conditions[-1]))
    assert (await may(granting, OPS, DataAction.TWINS_READ, "north", "d")).allowed
    assert [len(asked) for _, _, asked in hub.asked] == [32, 32, 6]


async def test_the_roles_claim_counts_on_and_names_custom_roles_too(granting: Granting) -> None:
    assert (await may(granting, caller(roles=[READER]), DataAction.TWINS_READ)).allowed
    named = caller(roles=["Operator"])
    refused = await may(granting, named, DataAction.METHODS_INVOKE)
    assert (refused.allowed, refused.elsewhere) == (False, "")
    assert "Operator" not in refused.roles
    await granting.define("Operator", ["directMethods/*"])
    allowed = await may(granting, named, DataAction.METHODS_INVOKE)
    assert (allowed.allowed, allowed.ground) == (True, "role Operator of the token")
    assert not (await may(granting, named, DataAction.TWINS_READ)).allowed
    assert "Operator" in (await may(granting, OPS, DataAction.METHODS_INVOKE)).roles


# --- changes


async def test_changes_count_at_once_are_told_and_survive(granting: Granting, store: Store, hub: Hub) -> None:
    told: list[bool] = []
    granting.changed = lambda: told.append(True)
    await granting.define("Operator", ["twins/*"])
    await granting.grant(to(role="Operator"))
    assert (await may(granting, OPS, DataAction.TWINS_WRITE)).allowed
    again = Granting(store, lambda text: void(parse_condition(text)), hub.matches)
    await again.load()
    assert (await may(again, OPS, DataAction.TWINS_WRITE)).allowed
    await granting.define("Operator", ["twins/read"])
    assert not (await may(granting, OPS, DataAction.TWINS_WRITE)).allowed
    await granting.revoke(to(role="Operator").id)
    assert not (await may(granting, OPS, DataAction.TWINS_READ)).allowed
    await granting.remove_role("Operator")
    assert (len(told), store.grants, store.roles) == (5, {}, {})


async def test_the_same_grant_twice_is_one(granting: Granting) -> None:
    for _ in range(2):
        await granting.grant(to())
    assert [told.grant for told in granting.grants()] == [to()]
    assert to().id != to(devices=BERLIN).id != to(devices=BERLIN, hub="north").id


@pytest.mark.parametrize(
    ("grant", "said"),
    [
        (to(""), "group is empty, name whom"),
        (to("", PrincipalKind.SUBJECT), "subject is empty, name whom"),
        (to("x" * 257), "group is 'xx.* up to 256 characters"),
        (to("a\nb", PrincipalKind.APPLICATION), "application is .* as they stand in tokens"),
        (to(" ops"), "group is ' ops'"),
        (to(issuer="a b\0"), "issuer is "),
        (to(hub="north\n"), "hub is "),
        (to(role="Nobody"), "role 'Nobody' is unknown, take one of: muster role list"),
        (to(role=""), "role '' is no name"),
        (to(devices="tags.site ="), r"devices is no condition \(such as tags.site = 'berlin'\): .*expected"),
        (to(devices=" "), "devices is no condition"),
        (to(devices="true GROUP BY tags.a"), "devices is no condition.*expected an operator or the end"),
        (to(devices="true" + " " * CONDITION_CHARACTERS.open), "devices has 1028 characters, 1024 are allowed"),
    ],
)
async def test_what_cannot_be_granted_is_named(granting: Granting, store: Store, grant: Grant, said: str) -> None:
    with pytest.raises(HubError, match=said):
        await granting.grant(grant)
    with pytest.raises(HubError, match=f"grant 2: {said}"):
        granting.take_file(KeptRoles([], [to("good"), grant]))
    assert not list(granting.grants())
    assert not store.grants


async def test_there_is_a_most_of_each(granting: Granting) -> None:
    for number in range(CUSTOM_ROLES.open):
        await granting.define(f"r{number}", ["twins/read"])
    await granting.define("r0", ["twins/*"])
    with pytest.raises(HubError, match="100 roles already, remove one"):
        await granting.define("one more", ["twins/read"])
    for number in range(GRANTS.open):
        await granting.grant(to(f"g{number}"))
    await granting.grant(to("g0"))
    with pytest.raises(HubError, match="1000 grants already, grant roles to groups"):
        await granting.grant(to("one more"))


@pytest.mark.parametrize(
    ("role", "row"), [(READER, INVALID_OPERATION), ("Operator", NOT_FOUND), ("Used", INVALID_OPERATION)]
)
async def test_roles_that_are_not_to_be_removed(granting: Granting, role: str, row: object) -> None:
    await granting.define("Used", ["twins/read"])
    await granting.grant(to(role="Used"))
    with pytest.raises(HubError) as refused:
        await granting.remove_role(role)
    assert refused.value.row is row


async def test_a_hub_that_closes_takes_its_grants_along(granting: Granting) -> None:
    for grant in (to(hub="north"), to(hub="south"), to()):
        await granting.grant(grant)
    granting.hub_closed("North")
    assert {told.grant.hub for told in granting.grants()} == {"south", ""}


# --- the file


async def test_the_file_counts_and_is_changed_in_the_file_only(granting: Granting) -> None:
    granting.take_file(KeptRoles([make_role("Filed", ["twins/*"])], [to(role="Filed")]))
    assert (await may(granting, OPS, DataAction.TWINS_WRITE)).allowed
    assert [(told.in_file, told.counts) for told in granting.grants()] == [(True, True)]
    for refused in (granting.revoke(to(role="Filed").id), granting.grant(to(role="Filed")),
                    granting.remove_role("Filed"), granting.define("Filed", ["twins/read"])):  # fmt: skip
        with pytest.raises(HubError, match="file of roles") as error:
            await refused
        assert error.value.row is INVALID_OPERATION
    granting.take_file(KeptRoles([], []))
    assert not (await may(granting, OPS, DataAction.TWINS_READ)).allowed


async def test_a_role_that_left_the_file_allows_nothing_until_it_is_back(granting: Granting) -> None:
    granting.take_file(KeptRoles([make_role("Filed", ["twins/*"])], []))
    await granting.grant(to(role="Filed"))
    granting.take_file(KeptRoles([], []))
    assert [told.counts for told in granting.grants()] == [False]
    assert not (await may(granting, OPS, DataAction.TWINS_READ)).allowed
    await granting.define("Filed", ["twins/read"])
    assert (await may(granting, OPS, DataAction.TWINS_READ)).allowed


async def test_a_file_that_is_wrong_changes_nothing(granting: Granting) -> None:
    granting.take_file(KeptRoles([], [to()]))
    role = make_role("Filed", ["twins/*"])
    for wrong in (KeptRoles([role, role], []), KeptRoles([], [to(f"g{n}") for n in range(1001)]),
                  KeptRoles([make_role(f"r{n}", ["twins/read"]) for n in range(101)], [])):  # fmt: skip
        with pytest.raises(HubError):
            granting.take_file(wrong)
    assert [told.grant for told in granting.grants()] == [to()]


async def test_of_a_role_in_both_places_the_file_counts(granting: Granting) -> None:
    await granting.define("Both", ["twins/read"])
    await granting.grant(to(role="Both"))
    granting.take_file(KeptRoles([make_role("Both", ["twins/write"])], []))
    assert (await may(granting, OPS, DataAction.TWINS_WRITE)).allowed
    assert not (await may(granting, OPS, DataAction.TWINS_READ)).allowed
