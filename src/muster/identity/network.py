"""IP filter rules: from which addresses a hub or a provisioning service may be reached. Values and their judgement.

Azure has two kinds, and both may be there (service.md 6.6, docs iot-hub-ip-filtering and iot-hub-ip-filter-classic):
``filters``, ordered, that accept or reject, and a ``RuleSet`` of what is allowed, with a word on all the rest. They are
one list here, filters first, of which the first that matches decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from muster.core.values import value

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

EVERYBODY = ip_network("0.0.0.0/0")
"""All addresses of both families: Azure knows IPv4 alone, and who rejects this there rejects all."""

_NAME = re.compile(r"[A-Za-z0-9 \-:.+%_#*?!(),=@;']{1,128}")
_REMEMBERED = 4096
_MAPPED = IPv6Network("::ffff:0:0/96")


class Action(StrEnum):
    """What a rule says of those whom it matches."""

    ACCEPT = "Accept"
    REJECT = "Reject"


class Target(StrEnum):
    """What a rule of a provisioning service is about; a hub's are about all."""

    ALL = "all"
    SERVICE = "serviceApi"
    DEVICE = "deviceApi"


@value(frozen=True, slots=True)
class FilterRule:
    """One rule. ``mask`` is an address, or a network as ``10.1.0.0/16``, as it was written."""

    name: str
    action: Action
    mask: str
    target: Target = Target.ALL

    def text(self) -> str:
        """The rule for people."""
        return f"the rule {self.name!r} ({self.action} {self.mask})"


@value(frozen=True, slots=True)
class RuleSet:
    """Who is allowed, and what becomes of all others. ``events``: it counts at the built-in Event Hubs-compatible
    endpoint too."""

    rules: tuple[FilterRule, ...] = ()
    default: Action = Action.REJECT
    events: bool = False


@value(frozen=True, slots=True)
class NetworkRules:
    """All that is said about addresses. As it is made it lets everybody in.

    ``public`` is off when only ``private`` networks may come. These, given as masks, are for Muster what private
    endpoints are for Azure: no rule is about them.
    """

    public: bool = True
    filters: tuple[FilterRule, ...] = ()
    rule_set: RuleSet | None = None
    private: tuple[str, ...] = ()


class Ruling(NamedTuple):
    """Whether an address may come, what decided that, and on refusal a cause of ``identity.network_causes``."""

    allowed: bool
    by: str
    cause: str = ""


_OPEN = Ruling(True, "no rule is about the built-in endpoint")
_NOT_PUBLIC = Ruling(False, "public network access is disabled", "network-public-off")


class Gatekeeper:
    """Judges addresses by ``rules``, which are parsed once. ``watches`` is false where nobody could be refused."""

    def __init__(self, rules: NetworkRules) -> None:
        """Raises ``ValueError`` for a mask that is none."""
        found = rules.rule_set or RuleSet(default=Action.ACCEPT)
        self.watches = not rules.public or bool(rules.filters) or found.default is Action.REJECT
        self._public = rules.public
        self._events = found.events
        self._default = found.default
        self._private = [_Range(network_of(mask)) for mask in rules.private]
        self._rows = [(_Range(network_of(rule.mask)), rule) for rule in (*rules.filters, *found.rules)]
        self._remembered: dict[tuple[str, Target, bool], Ruling] = {}

    def ruling(self, host: str, target: Target = Target.ALL, *, events: bool = False) -> Ruling:
        """Judge ``host``, the text of an address; what is none matches no rule.

        ``target`` is what it is after, ``events`` whether that is the built-in endpoint.
        """
        key = (host, target, events)
        known = self._remembered.get(key)
        if known is None:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            known = self._remembered[key] = self._judge(address_of(host), target, events=events)
        return known

    def _judge(self, address: Address | None, target: Target, *, events: bool) -> Ruling:
        for private in self._private:
            if private.holds(address):
                return Ruling(True, f"the private network {private.network}")
        if not self._public:
            return _NOT_PUBLIC
        if events and not self._events:
            return _OPEN
        for network, rule in self._rows:
            if rule.target in (Target.ALL, target) and network.holds(address):
                accepted = rule.action is Action.ACCEPT
                return Ruling(accepted, rule.text(), "" if accepted else "network-rule")
        if self._default is Action.ACCEPT:
            return Ruling(True, "no rule matches")
        return Ruling(False, "no rule allows it", "network-default")


class _Range:
    """A network as numbers."""

    __slots__ = ("_everybody", "_mask", "_start", "_version", "network")

    def __init__(self, network: Network) -> None:
        self.network = network
        self._everybody = network == EVERYBODY
        self._version = network.version
        self._start, self._mask = int(network.network_address), int(network.netmask)

    def holds(self, address: Address | None) -> bool:
        if address is None or self._everybody:
            return self._everybody
        return address.version == self._version and int(address) & self._mask == self._start


def network_of(mask: str) -> Network:
    """The network that ``mask`` means. Raises ``ValueError``."""
    network = ip_network(mask.strip(), strict=False)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        assert mapped is not None, "it is below ::ffff:0:0/96"
        return IPv4Network((mapped, network.prefixlen - 96))
    return network


def address_of(host: str) -> Address | None:
    """The address in ``host``: without a zone, and IPv4 where it is mapped into IPv6. ``None`` when it is none."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def host_of(peer: str) -> str:
    """The address in ``address:port`` or ``[address]:port``."""
    return peer.rpartition(":")[0].strip("[]")


def is_name(text: str) -> bool:
    """Whether a rule may be named so: up to 128 of the characters that Azure takes (docs iot-hub-ip-filtering)."""
    return _NAME.fullmatch(text) is not None


def twice(rules: Iterable[FilterRule]) -> str:
    """A name, in any case, that two of ``rules`` have; empty for none."""
    seen: set[str] = set()
    for rule in rules:
        name = rule.name.lower()
        if name in seen:
            return rule.name
        seen.add(name)
    return ""
