"""Settings that several nodes have in common: what one node changes counts on the others, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from muster.core import shared_settings
from muster.core.audit import Act, Draft
from muster.core.errors import PRECONDITION_FAILED, SERVER_ERROR, UNAVAILABLE, HubError
from muster.core.resource import load_record
from muster.core.settings_store import SettingsOf
from muster.core.shared_settings import SharedSettings
from muster.identity.hub import TAKES_ALL
from muster.identity.kept_policies import HUB, KeptPolicies, PolicyDraft, Rotation, open_policies
from muster.identity.kept_switches import open_switches
from muster.identity.network import Action, FilterRule, NetworkRules
from muster.identity.network_access import HUB_SETTING, NetworkAccess
from muster.identity.policies import development_policies
from muster.identity.refusals import Refusals
from muster.identity.verdict import Right
from muster.messages.groups import ConsumerGroups
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.model import AllocationKind
from muster.testing.clock import VirtualAmbient
from tests.node_buses import NodeBusHere, Nodes
from tests.unit.shared_rows import Rows


class Two:
    """Two nodes on the same rows."""

    def __init__(self) -> None:
        self.nodes, self.rows = Nodes(), Rows()
        self.buses: list[NodeBusHere] = [self.nodes.bus(name) for name in ("a", "b")]
        self.here, self.there = [self.rows.on(bus) for bus in self.buses]
        self.ambient = VirtualAmbient()

    async def heard(self) -> None:
        """What was told has come and is in force."""
        for _ in range(3):
            await asyncio.sleep(0)
        for settings in (self.here, self.there):
            await settings.settled()

    async def policies(self) -> list[KeptPolicies]:
        made = [
            await open_policies(HUB, SettingsOf(one, "hub"), self.ambient, lambda: development_policies("hub"))
            for one in (self.here, self.there)
        ]
        await self.heard()
        return made


@pytest.fixture
async def two() -> AsyncIterator[Two]:
    made = Two()
    yield made
    made.here.close()
    made.there.close()


async def test_a_policy_changed_on_one_node_counts_on_the_other(two: Two) -> None:
    here, there = await two.policies()
    told: list[str] = []
    here.when_changed(lambda: told.append("here"))
    there.when_changed(lambda: told.append("there"))
    await here.put("new", PolicyDraft(Right.SERVICE_CONNECT))
    await two.heard()
    assert told == ["here", "there"]
    assert there["new"] == here["new"]
    rotated = await there.rotate("new", Rotation.PRIMARY)
    await two.heard()
    assert here["new"] == rotated
    await here.remove("new")
    await two.heard()
    assert "new" not in there
    assert sorted(told) == ["here"] * 3 + ["there"] * 3


async def test_every_piece_that_remembers_a_setting_takes_what_another_node_has_put(two: Two) -> None:
    switches = [await open_switches(TAKES_ALL, one) for one in (two.here, two.there)]
    refusals = Refusals(two.ambient)
    network = [NetworkAccess(one, HUB_SETTING, refusals, two.ambient) for one in (two.here, two.there)]
    groups = [ConsumerGroups([], one, two.ambient) for one in (two.here, two.there)]
    for piece in (*network, *groups):
        await piece.load()
    resources = [await load_record(one) for one in (two.here, two.there)]
    linked = [LinkedHubs(), LinkedHubs()]
    for hubs, store in zip(linked, (two.here, two.there), strict=True):
        await hubs.load(store)
    told: list[str] = []
    switches[1].when_changed(lambda: told.append("switches"))
    network[1].when_changed(lambda: told.append("network"))

    name = TAKES_ALL._fields[0]
    await switches[0].set({name: True})
    await network[0].change(NetworkRules(filters=(FilterRule("one", Action.REJECT, "10.0.0.0/8"),)))
    await groups[0].add("analytics")
    await resources[0].change(tags={"a": "b"})
    await linked[0].allocate(AllocationKind.STATIC, {}, two.here)
    await two.heard()
    assert getattr(switches[1].now(), name)
    assert network[1].rules == network[0].rules
    assert network[1].version == 1
    assert "analytics" in groups[1]
    assert resources[1].resource == resources[0].resource
    assert linked[1].default is AllocationKind.STATIC
    assert sorted(told) == ["network", "switches"]
    await groups[1].remove("analytics")
    await two.heard()
    assert "analytics" not in groups[0]


async def test_what_two_nodes_change_at_the_same_time_is_refused_to_the_later_one(two: Two) -> None:
    here, there = await two.policies()
    apart = two.nodes.cut("b")  # it hears nothing yet
    await here.put("one", PolicyDraft(Right.SERVICE_CONNECT))
    with pytest.raises(HubError, match="another node") as refused:
        await there.put("two", PolicyDraft(Right.SERVICE_CONNECT))
    assert refused.value.row is PRECONDITION_FAILED
    assert "two" not in there
    await two.heard()
    assert "one" in there  # it was taken by the refusal
    await there.put("two", PolicyDraft(Right.SERVICE_CONNECT))
    two.nodes.join(apart)
    await two.heard()
    assert {"one", "two"} <= set(here)
    assert {"one", "two"} <= set(there)


async def test_what_nobody_follows_may_be_put_by_all(two: Two) -> None:
    assert await two.here.get_setting("use") is None
    await two.there.put_settings({"use": b"1"})
    await two.here.put_settings({"use": b"2"}, Draft("hub", Act("x", "y"), "s", 1.0))
    assert await two.there.get_setting("use") == b"2"
    assert len(two.rows.drafts) == 1


async def test_after_an_outage_of_the_bus_everything_is_taken_anew(two: Two) -> None:
    here, there = await two.policies()
    apart = two.nodes.cut("b")
    await here.put("one", PolicyDraft(Right.SERVICE_CONNECT))
    await two.heard()
    assert "one" not in there
    two.nodes.join(apart)
    await two.heard()
    assert "one" in there


async def test_what_cannot_be_read_is_taken_later(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_settings, "RETRY_SECONDS", 0.01)
    here, there = await two.policies()
    await here.put("one", PolicyDraft(Right.SERVICE_CONNECT))
    two.rows.failing = HubError(SERVER_ERROR)
    await asyncio.sleep(0.03)
    assert "one" not in there
    two.rows.failing = None
    await two.heard()
    assert "one" in there


async def test_a_put_whose_outcome_is_not_known_makes_all_look(two: Two) -> None:
    here, there = await two.policies()
    value = two.rows.values["hub/policies"].replace(b'"service"', b'"renamed"')
    put = two.rows.put_settings

    async def lost(*arguments: object, **more: object) -> None:
        two.rows.values["hub/policies"] = value  # it was written, only nobody was told
        raise HubError(UNAVAILABLE)

    two.rows.put_settings = lost  # type: ignore[method-assign,assignment]
    with pytest.raises(HubError):
        await here.put("one", PolicyDraft(Right.SERVICE_CONNECT))
    two.rows.put_settings = put  # type: ignore[method-assign]
    await two.heard()
    assert "renamed" in here
    assert "renamed" in there


async def test_a_hub_that_closes_follows_nothing_any_more(two: Two) -> None:
    of = SettingsOf(two.there, "h")
    loads: list[str] = []

    async def reload() -> None:
        loads.append("x")

    of.follow("a", reload)
    await two.here.put_settings({"h/a": b"1", "a": b"1"})
    await two.heard()
    assert loads == ["x"]
    SettingsOf(two.here, "h").announce("a")
    await two.heard()
    assert loads == ["x", "x"]
    of.leave()
    await two.here.put_settings({"h/a": b"2"})
    await two.heard()
    assert loads == ["x", "x"]


async def test_a_reload_that_fails_badly_does_not_stop_the_others(two: Two) -> None:
    loads: list[str] = []

    async def fail() -> None:
        raise ValueError

    async def reload() -> None:
        loads.append("x")

    for store in (two.there,):
        store.follow("a", fail)
        store.follow("b", reload)
    await two.here.put_settings({"a": b"1", "b": b"1"})
    await two.heard()
    assert loads == ["x"]
    assert isinstance(two.there, SharedSettings)
