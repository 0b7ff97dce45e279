"""The shared access policies of the provisioning service, where sockets do not reach."""

from __future__ import annotations

import pytest
from test_linked_hubs import Kept

from muster.core.errors import SERVER_ERROR, HubError
from muster.core.provisioning_limits import SERVICE_POLICIES
from muster.identity.policies import development_provisioning_policy, rights_from, rights_text
from muster.identity.verdict import Right
from muster.provisioning.policies import PolicyDraft, ServicePolicies
from muster.testing.clock import VirtualAmbient

READ = PolicyDraft(Right.ENROLLMENT_READ)


def policies(kept: Kept) -> ServicePolicies:
    return ServicePolicies(development_provisioning_policy(), kept, VirtualAmbient())


async def test_one_too_many_is_refused_and_one_that_is_there_may_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.provisioning.policies.SERVICE_POLICIES", SERVICE_POLICIES._replace(open=2))
    held = policies(Kept())
    for name in ("a", "b"):
        await held.put(name, READ)
    with pytest.raises(HubError) as refused:
        await held.put("c", READ)
    assert refused.value.row.code == 403203
    assert (await held.put("b", PolicyDraft(Right.SERVICE_CONFIG))).rights is Right.SERVICE_CONFIG


async def test_what_could_not_be_kept_does_not_count() -> None:
    kept = Kept()
    held, changes = policies(kept), list[int]()
    held.changed = lambda: changes.append(1)
    made = await held.put("a", READ)
    kept.error = HubError(SERVER_ERROR, "the disk is full")
    for attempt in (held.put("b", READ), held.put("a", PolicyDraft(Right.SERVICE_CONFIG)), held.remove("a")):
        with pytest.raises(HubError):
            await attempt
    assert (held["a"], list(held), changes) == (made, ["provisioningserviceowner", "a"], [1])
    again = policies(kept)
    await again.load()
    assert again["a"] == made


def test_rights_are_read_as_they_are_written() -> None:
    for rights in (Right.ENROLLMENT_READ, Right.SERVICE_CONFIG | Right.REGISTRATION_WRITE):
        assert rights_from(rights_text(rights)) == rights
        assert rights_from(rights_text(rights).lower().replace(" ", "")) == rights
    with pytest.raises(ValueError, match="Everything"):
        rights_from("EnrollmentRead, Everything")
