"""The verdict on a service's bearer token: each check by name, 401 and 403 told apart, no work done twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from muster.access import issuers as issuers_module
from muster.access.decision import Caller, Decision, by_claim
from muster.access.issuers import Issuer, Issuers
from muster.access.roles import Action, DataAction, ManagementAction, ProvisioningAction, StreamAction
from muster.core.access_errors import FORBIDDEN
from muster.core.access_limits import BEARERS_REMEMBERED
from muster.core.errors import UNAUTHORIZED, UNAVAILABLE
from muster.core.limits import Profile
from muster.identity.bearer_gate import BearerAttempt, BearerGate, is_bearer
from muster.identity.refusals import Refusals
from muster.identity.verdict import Outcome, Verdict
from muster.testing.clock import VirtualAmbient
from tests.issuer_parts import HUBS, TestIssuer

ALICE = "alice (https://issuer.test/tenant)"
READER = ["IoT Hub Data Reader"]
READ, WRITE = (DataAction.TWINS_READ,), (DataAction.TWINS_WRITE,)
STEPS = ["token", "issuer", "signature", "audience", "expiry", "not-before", "role", "scope"]


class Decisions:
    """Asks the claim, and counts; a device ``mine`` belongs to everybody."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, caller: Caller, action: Action, hub: str, device_id: str | None) -> Decision:
        self.asked += 1
        if device_id == "mine":
            return Decision(allowed=True, everywhere=False, ground="a grant")
        decision = await by_claim(caller, action, hub, device_id)
        elsewhere = "" if decision.allowed or "bob" not in caller.subjects else "the hub other"
        return decision._replace(elsewhere=elsewhere)


class Scene:
    def __init__(self, *audiences: str) -> None:
        self.ambient = VirtualAmbient()
        self.there = TestIssuer(self.ambient.now)
        self.refusals = Refusals(self.ambient, Profile.OPEN)
        self.decide = Decisions()
        issuers = Issuers([Issuer(self.there.url, self.there.fetch, self.ambient)], audiences)
        self.gate = BearerGate(issuers, self.decide, self.ambient, self.refusals, "hub")

    async def judge(self, token: str, actions: tuple[Action, ...] = READ, device_id: str | None = None) -> Verdict:
        attempt = BearerAttempt(transport="https", peer="p", token=token, actions=actions, device_id=device_id)
        return await self.gate.judge(attempt)

    def token(self, *args: Any, roles: Any = READER, **claims: Any) -> str:
        return f"Bearer {self.there.token(*args, roles=roles, **claims)}"


async def test_a_token_with_the_role_is_let_in_and_every_check_is_told() -> None:
    scene = Scene()
    verdict = await scene.judge(scene.token())
    assert verdict.allowed
    assert [check.name for check in verdict.checks] == STEPS
    assert {check.outcome for check in verdict.checks} == {Outcome.PASSED}
    assert verdict.principal == ALICE
    assert verdict.caller is not None
    assert verdict.expires_at == scene.ambient.now() + 3600 + 300
    assert verdict.checks[6].seen == "role IoT Hub Data Reader of the token"


@pytest.mark.parametrize(
    ("more", "actions", "step", "cause", "error"),
    [
        ({"aud": "https://graph.microsoft.com"}, READ, "audience", "bearer-audience", UNAUTHORIZED),
        ({"aud": None}, READ, "audience", "bearer-audience", UNAUTHORIZED),
        ({"aud": HUBS}, (ManagementAction.READ,), "audience", "bearer-audience", UNAUTHORIZED),
        ({"aud": HUBS}, (ProvisioningAction.GROUPS_READ,), "audience", "bearer-audience", UNAUTHORIZED),
        ({"aud": "https://eventhubs.azure.net"}, READ, "audience", "bearer-audience", UNAUTHORIZED),
        ({"iss": "https://evil.test"}, READ, "issuer", "bearer-issuer", UNAUTHORIZED),
        ({"iss": None}, READ, "issuer", "bearer-issuer", UNAUTHORIZED),
        ({"exp": 1_800_000_000 - 301}, READ, "expiry", "bearer-expired", UNAUTHORIZED),
        ({"nbf": 1_800_000_000 + 301}, READ, "not-before", "bearer-too-early", UNAUTHORIZED),
        ({"exp": None}, READ, "token", "bearer-malformed", UNAUTHORIZED),
        ({"kid": "k9", "signed_with": "k1"}, READ, "signature", "bearer-key-unknown", UNAUTHORIZED),
        ({"signed_with": "k2"}, READ, "signature", "bearer-signature", UNAUTHORIZED),
        ({"x": "y" * 20_000}, READ, "token", "bearer-too-long", UNAUTHORIZED),
        ({}, WRITE, "role", "role-missing", FORBIDDEN),
        ({"roles": None}, READ, "role", "role-missing", FORBIDDEN),
        ({"roles": "IoT Hub Data Reader"}, READ, "role", "role-missing", FORBIDDEN),
        ({}, READ + WRITE, "role", "role-missing", FORBIDDEN),
        ({"sub": "bob"}, WRITE, "scope", "role-elsewhere", FORBIDDEN),
        ({}, (), "role", "bearer-not-here", FORBIDDEN),
    ],
)
async def test_each_refusal_has_its_name_and_its_error(
    more: dict[str, Any], actions: tuple[Action, ...], step: str, cause: str, error: object
) -> None:
    scene = Scene()
    verdict = await scene.judge(scene.token(**more), actions)
    assert (verdict.cause, verdict.error) == (cause, error)
    failed = [check.name for check in verdict.checks if check.outcome is Outcome.FAILED]
    assert failed == [step]
    assert sorted(check.name for check in verdict.checks) == sorted(STEPS), "what was not looked at is told too"
    assert await scene.refusals.find(verdict.tracking_id) is not None
    assert "eyJ" not in repr(verdict), "nothing of the token is kept"


async def test_a_refused_role_names_those_that_would_do() -> None:
    verdict = await (scene := Scene()).judge(scene.token(), WRITE)
    check = next(check for check in verdict.checks if check.name == "role")
    assert check.expected == "IoT Hub Twin Contributor or IoT Hub Data Contributor"
    assert check.seen == "IoT Hub Data Reader"
    assert verdict.principal == ALICE


async def test_an_expired_token_for_another_audience_is_told_both() -> None:
    verdict = await (scene := Scene()).judge(scene.token(aud="x", exp=1_800_000_000 - 999))
    assert [c.name for c in verdict.checks if c.outcome is Outcome.FAILED] == ["audience", "expiry"]
    assert verdict.cause == "bearer-audience"


async def test_an_issuer_that_is_down_is_no_fault_of_the_token() -> None:
    scene = Scene()
    scene.there.down = True
    verdict = await scene.judge(scene.token())
    assert (verdict.cause, verdict.error) == ("issuer-unreachable", UNAVAILABLE)


@pytest.mark.parametrize(
    ("audience", "roles", "actions"),
    [
        ("https://iothubs.azure.net/", READER, READ),
        (["x", "https://iothubs.azure.net"], READER, READ),
        ("muster", READER, READ),
        ("https://eventhubs.azure.net/", ["Azure Event Hubs Data Receiver"], tuple(StreamAction)),
        (HUBS, ["IoT Hub Data Contributor"], tuple(StreamAction)),
        (HUBS, ["IoT Hub Data Contributor"], tuple(DataAction)),
        (
            "https://azure-devices-provisioning.net",
            ["Device Provisioning Service Data Contributor"],
            tuple(ProvisioningAction),
        ),
        ("https://management.azure.com/", ["Owner"], tuple(ManagementAction)),
        ("muster", ["Reader"], (ManagementAction.READ,)),
    ],
)
async def test_each_surface_has_its_audience(audience: object, roles: list[str], actions: tuple[Action, ...]) -> None:
    scene = Scene("muster/")
    assert (await scene.judge(scene.token(aud=audience, roles=roles), actions)).allowed


async def test_a_token_that_was_let_in_is_known_until_it_expires() -> None:
    scene = Scene()
    token = scene.token()
    assert scene.gate.proven(token, READ) is None
    await scene.judge(token)
    asked = scene.decide.asked
    assert scene.gate.proven(token, READ) == ALICE
    assert scene.gate.proven(token, WRITE) is None
    assert scene.gate.proven(token, ()) is None
    assert scene.gate.proven(token, READ, "another") is None
    assert scene.decide.asked == asked
    scene.ambient.advance(3600 + 299)
    scene.gate.proven(token, READ)
    for _ in range(20):
        await asyncio.sleep(0)
    assert scene.gate.proven(token, READ) == ALICE
    scene.ambient.advance(1)
    assert scene.gate.proven(token, READ) is None
    assert (await scene.judge(token)).cause == "bearer-expired"


async def test_a_signature_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, verified, real = Scene(), [], issuers_module.check_signature
    monkeypatch.setattr(issuers_module, "check_signature", lambda *it: (verified.append(it), real(*it)))
    token = scene.token()
    for actions in (READ, WRITE, READ + WRITE):
        for device_id in (None, "mine", "d"):
            await scene.judge(token, actions, device_id)
    assert len(verified) == 1


async def test_what_holds_for_one_device_only_is_not_remembered_for_others() -> None:
    scene = Scene()
    token = scene.token(roles=None)
    assert (await scene.judge(token, READ, "mine")).allowed
    assert scene.gate.proven(token, READ) is None
    assert not (await scene.judge(token, READ, "yours")).allowed
    assert not (await scene.judge(token, READ, None)).allowed


async def test_when_roles_change_callers_are_asked_about_anew() -> None:
    scene = Scene()
    token = scene.token()
    await scene.judge(token)
    scene.gate.roles_changed()
    assert scene.gate.proven(token, READ) is None
    await scene.judge(token)
    assert scene.gate.proven(token, READ) == ALICE


async def test_roles_that_change_while_they_are_asked_about_are_not_remembered() -> None:
    scene = Scene()
    token, decide = scene.token(), scene.decide

    async def changed(*said: Any) -> Decision:
        decision = await decide(*said)
        scene.gate.roles_changed()
        return decision

    scene.gate = BearerGate(scene.gate._issuers, changed, scene.ambient, scene.refusals, "hub")
    assert (await scene.judge(token)).allowed
    assert scene.gate.proven(token, READ) is None


async def test_a_key_that_is_withdrawn_takes_what_it_proved_along() -> None:
    scene = Scene()
    scene.there.keys = ["k1", "k2"]
    token = scene.token()
    await scene.judge(token)
    scene.there.keys = ["k2"]
    scene.ambient.advance(600)
    assert scene.gate.proven(token, READ) is None
    assert (await scene.judge(token)).cause == "bearer-key-removed"


async def test_what_is_remembered_is_bounded() -> None:
    scene = Scene()
    first = scene.token(jti="first")
    await scene.judge(first)
    key = scene.gate._known[first]
    for at in range(BEARERS_REMEMBERED.open):
        scene.gate._remember(f"Bearer {at}", key.proof)
    assert len(scene.gate._known) == BEARERS_REMEMBERED.open
    assert scene.gate.proven(first, READ) is None


def test_what_is_a_bearer_token() -> None:
    assert is_bearer("Bearer x")
    assert is_bearer("bearer x")
    assert not is_bearer("SharedAccessSignature sr=x")
    assert not is_bearer("Bearer")
    assert not is_bearer("")


async def test_a_token_is_admitted_before_it_is_known_what_for() -> None:
    scene = Scene()
    wanted = (DataAction.C2D_SEND, DataAction.UPLOAD_NOTIFICATIONS, StreamAction.RECEIVE)
    attempt = BearerAttempt(transport="amqp", peer="p", token=scene.token(), actions=wanted)
    verdict = await scene.gate.admit(attempt)
    assert verdict.allowed
    assert verdict.admission == (wanted, {DataAction.UPLOAD_NOTIFICATIONS}, set())
    refusal = scene.gate.refused(verdict, DataAction.C2D_SEND)
    assert (refusal.error, refusal.cause, refusal.principal) == (FORBIDDEN, "role-missing", ALICE)
    assert await scene.refusals.find(refusal.tracking_id) is not None
    assert refusal.tracking_id != verdict.tracking_id


async def test_a_token_for_events_admits_to_nothing_else() -> None:
    scene = Scene()
    token = scene.token(aud="https://eventhubs.azure.net/", roles=["IoT Hub Data Contributor"])
    wanted = (DataAction.C2D_SEND, StreamAction.RECEIVE)
    verdict = await scene.gate.admit(BearerAttempt(transport="amqp", peer="p", token=token, actions=wanted))
    assert verdict.admission == ((StreamAction.RECEIVE,), {StreamAction.RECEIVE}, set())
    assert await scene.gate.again(verdict) == verdict


async def test_what_is_asked_about_for_each_device_is_told_apart() -> None:
    scene = Scene()
    both = (DataAction.C2D_SEND, DataAction.C2D_FEEDBACK)
    token = scene.token(sub="bob")
    attempt = BearerAttempt(transport="amqp", peer="p", token=token, actions=both)
    verdict = await scene.gate.admit(attempt, frozenset({DataAction.C2D_SEND}))
    assert verdict.admission == (both, set(), {DataAction.C2D_SEND}), "feedback is of all devices"
    assert await scene.gate.refuse(verdict, DataAction.C2D_SEND, "mine") is None
    refusal = await scene.gate.refuse(verdict, DataAction.C2D_SEND, "yours")
    assert refusal is not None
    assert refusal.cause == "role-elsewhere"


async def test_who_listens_hears_that_roles_have_changed() -> None:
    scene, heard = Scene(), []
    scene.gate.when_roles_change(lambda: heard.append(scene.gate.proven(token, READ)))
    token = scene.token()
    await scene.judge(token)
    scene.gate.roles_changed()
    assert heard == [None], "once nothing of before is remembered"
