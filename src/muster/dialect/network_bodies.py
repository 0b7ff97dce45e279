"""JSON of network rules, spelled as in the properties of a hub or provisioning service in Azure's resource manager:
``publicNetworkAccess``, ``ipFilterRules``, ``networkRuleSets`` (service.md 6.6; provisioning.md 7.1, SPEC-ARM)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from muster.core.door_limits import NETWORK_RULES
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.json_body import Members
from muster.identity.network import Action, FilterRule, NetworkRules, RuleSet, Target, is_name, network_of, twice

_PRIVATE = "privateNetworks"
"""Ours: Azure has private endpoints."""


class _Public(StrEnum):
    ENABLED = "Enabled"
    DISABLED = "Disabled"


class _Access(StrEnum):
    """What the rule set calls accepting and rejecting."""

    ALLOW = "Allow"
    DENY = "Deny"


_ACTIONS = {_Access.ALLOW: Action.ACCEPT, _Access.DENY: Action.REJECT}


def read_network(body: Members, *, hub: bool) -> NetworkRules:
    """The rules among the members ``body``; what is not there is as with new ones. Other members are passed over.

    ``hub``: they are a hub's, and have no targets; else a provisioning service's, which has no rule set.
    Raises ``HubError`` 400004 that names the member, 400005.
    """
    filters = [_rule(body, "ipFilterRules", at, targets=not hub) for at in range(len(body.items("ipFilterRules")))]
    rule_set = _rule_set(body.members("networkRuleSets")) if hub else None
    both = [*filters, *(() if rule_set is None else rule_set.rules)]
    if len(both) > NETWORK_RULES.open:
        raise HubError(ARGUMENT_INVALID, f"There are {len(both)} IP filter rules, {NETWORK_RULES.open} are allowed.")
    name = twice(both)
    if name:
        raise HubError(ARGUMENT_INVALID, f"Two IP filter rules are named {name!r}, in any case; rename one.")
    private = body.texts(_PRIVATE)
    for at, mask in enumerate(private):
        _check_mask(mask, f"{_PRIVATE}[{at}]")
    if len(private) > NETWORK_RULES.open:
        raise HubError(ARGUMENT_INVALID, f"{_PRIVATE} has {len(private)} networks, {NETWORK_RULES.open} are allowed.")
    public = body.choice("publicNetworkAccess", _Public) is not _Public.DISABLED
    return NetworkRules(public, tuple(filters), rule_set, private)


def _rule_set(body: Members) -> RuleSet | None:
    if not body:
        return None
    rules = []
    for at, raw in enumerate(body.items("ipRules")):
        place = f"networkRuleSets.ipRules[{at}]"
        one = Members.of(raw, place, f"{place}.")
        if one.choice("action", _Access) is _Access.DENY:
            raise HubError(
                ARGUMENT_INVALID, f"{place}.action must be Allow; what is to be rejected goes into ipFilterRules."
            )
        rules.append(FilterRule(_name(one, place), Action.ACCEPT, _mask(one, place)))
    default = body.choice("defaultAction", _Access) or _Access.DENY
    return RuleSet(tuple(rules), _ACTIONS[default], body.flag("applyToBuiltInEventHubEndpoint"))


def _rule(body: Members, member: str, at: int, *, targets: bool) -> FilterRule:
    place = f"{member}[{at}]"
    one = Members.of(body.items(member)[at], place, f"{place}.")
    one.needed_text("action")
    action = one.choice("action", Action)
    assert action is not None, "it is there"
    target = one.choice("target", Target) if targets else None
    return FilterRule(_name(one, place), action, _mask(one, place), target or Target.ALL)


def _name(one: Members, place: str) -> str:
    name = one.needed_text("filterName")
    if not is_name(name):
        raise HubError(
            ARGUMENT_INVALID,
            f"{place}.filterName must be 1 to 128 letters, digits, blanks and any of -:.+%_#*?!(),=@;'",
        )
    return name


def _mask(one: Members, place: str) -> str:
    return _check_mask(one.needed_text("ipMask"), f"{place}.ipMask")


def _check_mask(mask: str, place: str) -> str:
    try:
        network_of(mask)
    except ValueError:
        raise HubError(
            ARGUMENT_INVALID, f"{place} must be an address or a network, such as 10.1.2.3, 10.1.0.0/16 or fd00::/8."
        ) from None
    return mask


def network_body(rules: NetworkRules, *, hub: bool) -> dict[str, Any]:
    """``read_network`` the other way. ``networkRuleSets`` of a hub is ``null`` where there is none."""
    body: dict[str, Any] = {
        "publicNetworkAccess": _Public.ENABLED if rules.public else _Public.DISABLED,
        "ipFilterRules": [
            {
                "filterName": one.name,
                "action": one.action,
                "ipMask": one.mask,
                **({} if hub else {"target": one.target}),
            }
            for one in rules.filters
        ],
        _PRIVATE: list(rules.private),
    }
    if hub:
        body["networkRuleSets"] = None if rules.rule_set is None else _rule_set_body(rules.rule_set)
    return body


def _rule_set_body(found: RuleSet) -> dict[str, Any]:
    return {
        "defaultAction": _Access.ALLOW if found.default is Action.ACCEPT else _Access.DENY,
        "applyToBuiltInEventHubEndpoint": found.events,
        "ipRules": [{"filterName": one.name, "action": _Access.ALLOW, "ipMask": one.mask} for one in found.rules],
    }


NETWORK_MEMBERS = ("publicNetworkAccess", "ipFilterRules", "networkRuleSets", _PRIVATE)
"""The members that are network rules."""


def changed_network(properties: Members, present: NetworkRules, *, hub: bool) -> NetworkRules | None:
    """The rules that ``properties`` want in place of ``present``; a member that is left out stays. ``None``: no others.

    Raises ``HubError`` as ``read_network``.
    """
    given = {name: properties.raw(name) for name in NETWORK_MEMBERS if properties.raw(name) is not None}
    if not given:
        return None
    rules = read_network(properties.over(network_body(present, hub=hub)), hub=hub)
    return None if rules == present else rules
