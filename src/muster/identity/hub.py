"""The hub as the identity room sees it: its names, its policies, its profile."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from muster.core.limits import Profile
from muster.identity.policies import LOCAL, SharedAccessPolicy
from muster.identity.sas import host_name


class Switches(NamedTuple):
    """Kinds of SAS token that a hub takes no more (service.md 6.6): those signed with a shared access policy's key,
    with a device's own, with a module's own."""

    disable_local_auth: bool = False
    disable_device_sas: bool = False
    disable_module_sas: bool = False


TAKES_ALL = Switches()


@dataclass(frozen=True, slots=True)
class Hub:
    """One hub.

    ``name`` is what Azure calls the hub's name: the first host name up to its first dot, or the whole of an
    address. ``hosts`` are all the names it answers to, normalised by ``host_name``: clients write whichever
    they like, with or without a port, and with a gateway the other one (clients.md 1.6). ``host`` is the
    first of them. ``policies`` and what ``taken`` tells, the switches in force, may change while the hub runs.
    ``local`` is the policy of this machine's own commands.
    """

    name: str
    host: str
    hosts: frozenset[str]
    policies: Mapping[str, SharedAccessPolicy]
    profile: Profile
    taken: Callable[[], Switches]
    local: SharedAccessPolicy | None = None

    @property
    def switches(self) -> Switches:
        """The switches in force."""
        return self.taken()

    def policy(self, name: str) -> SharedAccessPolicy | None:
        """The policy that a token names."""
        return self.local if name == LOCAL else self.policies.get(name)

    def knows(self, host: str) -> bool:
        """Whether ``host`` (any case, perhaps with a port) is this hub."""
        return host in self.hosts or host_name(host) in self.hosts


def make_hub(
    hosts: Iterable[str],
    policies: Iterable[SharedAccessPolicy] | Mapping[str, SharedAccessPolicy],
    profile: Profile = Profile.OPEN,
    *,
    name: str | None = None,
    taken: Callable[[], Switches] = lambda: TAKES_ALL,
    local: SharedAccessPolicy | None = None,
) -> Hub:
    """A hub that answers to ``hosts``, the first of which is its own.

    Args:
        hosts: at least one host name or address; ``localhost``, ``hub.localhost`` and the loopback addresses
            are always added.
        policies: its shared access policies; a mapping is asked anew each time.
        profile: which limits are in force.
        name: the hub's name where it must not follow the host.
        taken: says which kinds of token it takes no more.
        local: see ``Hub``.
    """
    names = [host_name(host) for host in hosts]
    return Hub(
        name=name if name is not None else hub_name(names[0]),
        host=names[0],
        hosts=frozenset([*names, *ALWAYS]),
        policies=policies if isinstance(policies, Mapping) else {policy.name: policy for policy in policies},
        profile=profile,
        taken=taken,
        local=local,
    )


ALWAYS = ("localhost", "hub.localhost", "127.0.0.1", "::1")
"""Names that every hub answers to and every server certificate holds."""


def hub_name(host: str) -> str:
    """The hub's name in ``host``: up to the first dot, or the whole of an IP address (service.md 1.2)."""
    host = host_name(host)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host.partition(".")[0]
    return host
