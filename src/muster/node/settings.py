"""What a node is told at its start. Defaults and their meaning are the contract of ``muster serve``."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from muster.core.ambient import Ambient
from muster.core.limits import Profile
from muster.identity.hub import TAKES_ALL, Hub, Switches, make_hub
from muster.identity.policies import SharedAccessPolicy, make_local_policy

DEFAULT_BIND = ("127.0.0.1", "::1")
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One node. ``data`` is ``None`` for an ephemeral one; a port of 0 takes any that is free.

    ``amqp_plain_port`` opens AMQP without TLS for clients told ``UseDevelopmentEmulator=true``; ``None``: closed.
    ``sync`` off gives up the promise that an acknowledged message survives a power cut. ``switches`` say which kinds
    of SAS token the hub takes no more.
    """

    data: Path | None
    hostnames: tuple[str, ...] = ("localhost",)
    dps_hostname: str = ""
    bind: tuple[str, ...] = DEFAULT_BIND
    mqtt_port: int = 8883
    amqp_port: int = 5671
    https_port: int = 443
    amqp_plain_port: int | None = None
    profile: Profile = Profile.OPEN
    partitions: int = 4
    consumer_groups: tuple[str, ...] = ()
    retention_seconds: int = 7 * DAY_SECONDS
    retention_bytes: int = 10 * 1024**3
    sync: bool = True
    ready_file: Path | None = None
    switches: Switches = TAKES_ALL

    @property
    def hub_host(self) -> str:
        """The name that connection strings carry."""
        return self.hostnames[0]

    @property
    def loopback_only(self) -> bool:
        """Whether nobody but this machine can reach the node."""
        return all(_is_loopback(address) for address in self.bind)

    @property
    def all_hostnames(self) -> tuple[str, ...]:
        """Every name and address the hub answers to, the built-in ones included, each once."""
        names = (*self.hostnames, *filter(None, (self.dps_hostname,)), "localhost", "hub.localhost", "127.0.0.1", "::1")
        return tuple(dict.fromkeys(names))

    def hub(self, name: str, policies: Sequence[SharedAccessPolicy], ambient: Ambient) -> Hub:
        """The hub of these settings. Where ``disableLocalAuth`` keeps the policies out it has one more, for the
        commands of this machine: its key is new at each start."""
        if self.switches.disable_local_auth:
            policies = (*policies, make_local_policy(ambient))
        return make_hub(self.all_hostnames, policies, self.profile, name=name, switches=self.switches)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
