"""The hubs that are linked to a provisioning service at this moment: they come and go while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from muster.provisioning.contract import LinkedHub


class LinkedHubs(Mapping[str, LinkedHub]):
    """By host name, in the order in which they were linked."""

    def __init__(self, hubs: Iterable[LinkedHub] = ()) -> None:
        self._hubs = {hub.host: hub for hub in hubs}

    def link(self, hub: LinkedHub) -> None:
        """From now on devices may be assigned to ``hub``, in the place of one of the same host name."""
        self._hubs[hub.host] = hub

    def unlink(self, host: str) -> None:
        """No more devices are assigned to this hub; those that it has stay there, and get another hub when they
        register again."""
        self._hubs.pop(host, None)

    def __getitem__(self, host: str) -> LinkedHub:
        return self._hubs[host]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hubs)

    def __len__(self) -> int:
        return len(self._hubs)
