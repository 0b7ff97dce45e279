"""Network rules: judged as `ipaddress` says and in their order, read and written in ARM's shape, kept."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from azure.mgmt.iothub.v2023_06_30 import models as hub_models
from azure.mgmt.iothubprovisioningservices import models as dps_models
from hypothesis import given
from hypothesis import strategies as st
from test_linked_hubs import Kept

from muster.core.door_limits import NETWORK_RULES
from muster.core.errors import DEVICE_UNAUTHORIZED, SERVER_ERROR, HubError
from muster.dialect.json_body import Members
from muster.dialect.network_bodies import network_body, read_network
from muster.identity.causes import BY_NAME
from muster.identity.changes import Match
from muster.identity.network import (
    EVERYBODY,
    Action,
    FilterRule,
    Gatekeeper,
    NetworkRules,
    RuleSet,
    Ruling,
    Target,
    host_of,
    network_of,
)
from muster.identity.network_access import HUB_SETTING, NetworkAccess
from muster.identity.refusals import Refusals
from muster.testing.clock import VirtualAmbient

OFFICE = FilterRule("office", Action.ACCEPT, "10.1.0.0/16")
NOBODY = FilterRule("nobody else", Action.REJECT, "0.0.0.0/0")

# --- the judgement

_v4 = st.integers(0, 2**32 - 1)
_near = st.sampled_from([0, 1, 2**31, 0x0A000000, 0x0A000001, 0x0A0000FF, 0x0A010000, 2**32 - 1])
_small6 = st.integers(0, 3) | st.just(2**127) | st.integers(0, 2**128 - 1)
ADDRESSES = st.builds(lambda number: str(ip_address(number)), _near | _v4) | st.builds(
    lambda number: str(IPv6Address(number)), _small6
)
MASKS = (
    st.builds(lambda number, bits: f"{ip_address(number)}/{bits}", _near | _v4, st.integers(0, 32))
    | st.builds(lambda number, bits: f"{IPv6Address(number)}/{bits}", _small6, st.integers(0, 128))
    | ADDRESSES
)
_rules = st.lists(
    st.builds(FilterRule, st.just("r"), st.sampled_from(Action), MASKS, st.sampled_from(Target)), max_size=6
)
_allowed = st.lists(st.builds(FilterRule, st.just("a"), st.just(Action.ACCEPT), MASKS), max_size=3).map(tuple)
RULES = st.builds(
    NetworkRules,
    st.booleans(),
    _rules.map(tuple),
    st.none() | st.builds(RuleSet, _allowed, st.sampled_from(Action), st.booleans()),
    st.lists(MASKS, max_size=2).map(tuple),
)


def matches(mask: str, address: str) -> bool:
    """As `ipaddress` has it; all of IPv4 means everybody, and IPv4 in IPv6 is IPv4."""
    network, one = ip_network(mask, strict=False), ip_address(address)
    if isinstance(one, IPv6Address):
        one = one.ipv4_mapped or one
    if network.version == 6 and network.subnet_of(ip_network("::ffff:0:0/96")):  # type: ignore[arg-type]
        return isinstance(one, type(ip_address("1.2.3.4"))) and IPv6Address(f"::ffff:{one}") in network
    return network == EVERYBODY or one in network


def naive(rules: NetworkRules, address: str, target: Target, *, events: bool) -> bool:
    if any(matches(mask, address) for mask in rules.private):
        return True
    if not rules.public:
        return False
    found = rules.rule_set
    if events and not (found is not None and found.events):
        return True
    for rule in [*rules.filters, *([] if found is None else found.rules)]:
        if rule.target in (Target.ALL, target) and matches(rule.mask, address):
            return rule.action is Action.ACCEPT
    return found is None or found.default is Action.ACCEPT


@given(RULES, ADDRESSES, st.sampled_from(Target), st.booleans())
def test_the_first_rule_that_matches_decides(rules: NetworkRules, address: str, target: Target, events: bool) -> None:
    keeper = Gatekeeper(rules)
    wanted = naive(rules, address, target, events=events)
    for _ in range(2):  # the second time from memory
        ruling = keeper.ruling(address, target, events=events)
        assert ruling.allowed is wanted
        assert bool(ruling.cause) is not wanted
        assert ruling.by
        assert wanted or ruling.cause in BY_NAME
    assert keeper.watches or wanted, "who is not watched is let in"


def test_rulings_say_what_decided() -> None:
    keeper = Gatekeeper(NetworkRules(filters=(OFFICE, NOBODY), private=("fd00::/8",)))
    assert keeper.ruling("10.1.2.3") == Ruling(True, "the rule 'office' (Accept 10.1.0.0/16)")
    assert keeper.ruling("10.2.0.1") == Ruling(False, "the rule 'nobody else' (Reject 0.0.0.0/0)", "network-rule")
    assert keeper.ruling("2001:db8::1").cause == "network-rule", "who rejects all of IPv4 rejects all"
    assert keeper.ruling("fd00::1%eth0") == Ruling(True, "the private network fd00::/8")
    assert keeper.ruling("::ffff:10.1.2.3").allowed
    assert keeper.ruling("unknown").cause == "network-rule"
    assert Gatekeeper(NetworkRules(rule_set=RuleSet((OFFICE,)))).ruling("unknown").cause == "network-default"
    assert Gatekeeper(NetworkRules(public=False)).ruling("10.1.2.3").cause == "network-public-off"


def test_memory_for_rulings_is_bounded() -> None:
    keeper = Gatekeeper(NetworkRules(filters=(NOBODY,)))
    for number in range(10_000):
        keeper.ruling(f"2001:db8::{number:x}")
    assert len(keeper._remembered) <= 4096


def test_addresses_of_peers() -> None:
    assert [host_of(peer) for peer in ("10.0.0.1:5671", "[fe80::1%lo]:1", "unknown")] == ["10.0.0.1", "fe80::1%lo", ""]
    assert network_of("10.1.2.3/16") == ip_network("10.1.0.0/16")
    assert network_of("::ffff:10.1.0.0/112") == ip_network("10.1.0.0/16")


# --- ARM's shape


def read(body: dict[str, Any], *, hub: bool = True) -> NetworkRules:
    return read_network(Members.of(body, "properties"), hub=hub)


def test_a_hubs_properties_of_the_azure_client_are_read_and_written() -> None:
    properties = hub_models.IotHubProperties(
        public_network_access="Disabled",
        ip_filter_rules=[hub_models.IpFilterRule(filter_name="one", action="Reject", ip_mask="10.0.0.0/8")],
        network_rule_sets=hub_models.NetworkRuleSetProperties(
            default_action="Deny",
            apply_to_built_in_event_hub_endpoint=True,
            ip_rules=[hub_models.NetworkRuleSetIpRule(filter_name="two", action="Allow", ip_mask="10.1.2.3")],
        ),
    )
    rules = read(properties.serialize())
    assert rules == NetworkRules(
        public=False,
        filters=(FilterRule("one", Action.REJECT, "10.0.0.0/8"),),
        rule_set=RuleSet((FilterRule("two", Action.ACCEPT, "10.1.2.3"),), Action.REJECT, events=True),
    )
    told = hub_models.IotHubProperties.deserialize(network_body(rules, hub=True))
    assert {name: value for name, value in told.serialize().items() if value is not None} == properties.serialize()
    assert network_body(NetworkRules(), hub=True)["networkRuleSets"] is None
    assert read({}) == NetworkRules() == read({"ipFilterRules": None, "networkRuleSets": None})
    assert read({"networkRuleSets": {"ipRules": []}}).rule_set == RuleSet(), "what nobody says is Deny"


def test_a_provisioning_services_rules_have_targets() -> None:
    written = dps_models.IotDpsPropertiesDescription(
        public_network_access="Enabled",
        ip_filter_rules=[
            dps_models.IpFilterRule(filter_name="one", action="Reject", ip_mask="10.0.0.0/8", target="deviceApi"),
            dps_models.IpFilterRule(filter_name="two", action="Accept", ip_mask="10.0.0.0/8"),
        ],
    )
    body = written.as_dict() if "ipFilterRules" in written.as_dict() else written.serialize()
    rules = read(body, hub=False)
    assert [one.target for one in rules.filters] == [Target.DEVICE, Target.ALL]
    keeper = Gatekeeper(rules)
    assert not keeper.ruling("10.0.0.1", Target.DEVICE).allowed
    assert keeper.ruling("10.0.0.1", Target.SERVICE).allowed
    assert network_body(rules, hub=False)["ipFilterRules"][0]["target"] == "deviceApi"


@given(RULES)
def test_what_is_written_is_read_again(rules: NetworkRules) -> None:
    named = rules.filters and tuple(
        FilterRule(f"{at}", one.action, one.mask, Target.ALL) for at, one in enumerate(rules.filters)
    )
    found = rules.rule_set and RuleSet(
        tuple(FilterRule(f"a{at}", one.action, one.mask) for at, one in enumerate(rules.rule_set.rules)),
        rules.rule_set.default,
        rules.rule_set.events,
    )
    rules = NetworkRules(rules.public, named, found, rules.private)
    assert read(network_body(rules, hub=True)) == rules


def _row(**more: Any) -> dict[str, Any]:
    return {"ipFilterRules": [{"filterName": "a", "action": "Accept", "ipMask": "10.0.0.1", **more}]}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (_row(ipMask="10.0.0.256"), "ipFilterRules[0].ipMask"),
        (_row(ipMask="10.0.0.0/33"), "ipFilterRules[0].ipMask"),
        (_row(ipMask="somewhere"), "fd00::/8"),
        (_row(ipMask=None), "ipFilterRules[0].ipMask is missing"),
        (_row(action="Perhaps"), "Accept, Reject"),
        (_row(action=None), "ipFilterRules[0].action is missing"),
        (_row(filterName="tab\t"), "ipFilterRules[0].filterName"),
        (_row(filterName="x" * 129), "ipFilterRules[0].filterName"),
        ({"ipFilterRules": [*_row()["ipFilterRules"], *_row(filterName="A")["ipFilterRules"]]}, "named 'A'"),
        ({"ipFilterRules": [None]}, "ipFilterRules[0]"),
        (
            {"networkRuleSets": {"ipRules": [{"filterName": "a", "action": "Deny", "ipMask": "::"}]}},
            "ipRules[0].action",
        ),
        ({"networkRuleSets": {"defaultAction": "Maybe"}}, "networkRuleSets.defaultAction"),
        ({"publicNetworkAccess": "Sometimes"}, "publicNetworkAccess"),
        ({"privateNetworks": ["10.0.0.0/8", "x"]}, "privateNetworks[1]"),
        ({"ipFilterRules": [{**_row()["ipFilterRules"][0], "filterName": f"{n}"} for n in range(1001)]}, "1000"),
        ({"privateNetworks": ["10.0.0.1"] * (NETWORK_RULES.open + 1)}, "1000"),
    ],
)
def test_what_cannot_be_is_named(body: dict[str, Any], named: str) -> None:
    with pytest.raises(HubError) as refused:
        read(body)
    assert refused.value.row.status == 400
    assert named in refused.value.message


# --- in force


def access(kept: Kept) -> NetworkAccess:
    ambient = VirtualAmbient()
    return NetworkAccess(kept, HUB_SETTING, Refusals(ambient), ambient)


@given(RULES)
async def test_rules_are_kept(rules: NetworkRules) -> None:
    kept = Kept()
    await access(kept).change(rules)
    again = access(kept)
    await again.load()
    assert (again.rules, again.version) == (rules, 1)


async def test_what_could_not_be_kept_does_not_count_and_nobody_is_told() -> None:
    kept = Kept()
    held, changes = access(kept), list[int]()
    held.when_changed(lambda: changes.append(1))
    kept.error = HubError(SERVER_ERROR, "the disk is full")
    with pytest.raises(HubError):
        await held.change(NetworkRules(public=False))
    assert (held.rules, held.version, held.watches, changes) == (NetworkRules(), 0, False, [])
    kept.error = None
    await held.change(NetworkRules(public=False), Match(0))
    assert (held.version, held.watches, changes) == (1, True, [1])
    with pytest.raises(HubError) as late:
        await held.change(NetworkRules(), Match(0))
    assert late.value.row.status == 412
    await held.change(NetworkRules(), Match())
    assert not held.watches


async def test_a_refusal_is_a_verdict_of_one_check_and_says_nothing_on_the_wire() -> None:
    held = access(Kept())
    assert held.refusal("mqtt", "10.2.0.1:1") is None
    await held.change(NetworkRules(filters=(NOBODY,)))
    verdict = held.refusal("mqtt", "10.2.0.1:1", principal="dev", error=DEVICE_UNAUTHORIZED)
    assert verdict is not None
    assert (verdict.cause, verdict.error, verdict.principal) == ("network-rule", DEVICE_UNAUTHORIZED, "dev")
    assert [(one.name, one.seen) for one in verdict.checks] == [
        ("network", "10.2.0.1: the rule 'nobody else' (Reject 0.0.0.0/0)")
    ]
    with pytest.raises(HubError) as refused:
        held.require("https", "10.2.0.1:1")
    assert refused.value.row.code == 401002
    assert refused.value.message == "Unauthorized"
    kept = await held._refusals.find(refused.value.tracking_id)
    assert kept is not None
    assert kept.report["cause"] == "network-rule"
