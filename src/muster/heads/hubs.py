"""Which of a deployment's hubs a client means (design.md section 5, 'One port, many roles').

Heads share their ports among all hubs. Each asks a directory for what it needs of one: by the host that the client
names in a token, a user name or a header, whichever is nearest to what the client wants.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from muster.identity.hub import ALWAYS
from muster.identity.sas import host_name

T = TypeVar("T")


class HubDirectory(Generic[T]):
    """The hubs that are open, as one head knows them: ``T`` is what it needs of each.

    ``first`` stands in where no other hub is meant: it has the names that every hub answers to (``localhost`` and the
    loopback addresses), and it is the one to refuse hosts that nobody knows.
    """

    def __init__(self, first: T, name: str = "", hosts: Iterable[str] = ()) -> None:
        self.first = first
        self.alone = True
        """Whether ``first`` is the only hub, so that nothing has to be looked up."""
        self._by_host: dict[str, T] = {}
        self._by_name: dict[str, T] = {}
        self.add(first, name, hosts)

    def add(self, hub: T, name: str, hosts: Iterable[str]) -> None:
        """From now on who names one of ``hosts`` means ``hub``, and so does who names its Event Hub, ``name``."""
        self._by_name[name.lower()] = hub
        self._by_host.update({host: hub for host in map(host_name, hosts) if host not in ALWAYS})
        self.alone = len(self._by_name) == 1

    def remove(self, name: str) -> None:
        """Nobody means the hub with the Event Hub ``name`` any more. It must not be ``first``."""
        hub = self._by_name[name.lower()]
        self._by_host = {host: other for host, other in self._by_host.items() if other is not hub}
        self._by_name = {name: other for name, other in self._by_name.items() if other is not hub}
        self.alone = len(self._by_name) == 1

    def find(self, *hosts: str, entity: str = "") -> T:
        """The hub that is meant by the first of ``hosts`` that is the name of one alone (any case, perhaps with a
        port), else by its Event Hub-compatible name ``entity``; else ``first``."""
        if self.alone:
            return self.first
        by_host = self._by_host
        for host in hosts:
            found = by_host.get(host) or by_host.get(host_name(host))
            if found is not None:
                return found
        return self._by_name.get(entity.lower(), self.first) if entity else self.first

    def knows(self, host: str) -> bool:
        """Whether ``host`` is a name of any hub."""
        host = host_name(host)
        return host in self._by_host or host in ALWAYS


def server_name(transport: Any) -> str:
    """The host that the client named in the TLS handshake, empty for none: the last that is looked at, as gateways
    make it differ and clients that know an address send none."""
    name: bytes | None = transport.get_extra_info("server_name")
    return "" if name is None else name.decode("ascii", "replace")
