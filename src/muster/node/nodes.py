"""The nodes of a deployment, as each of them can tell: this one from what it has, others from their leases."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import muster
from muster.core.ambient import iso
from muster.core.errors import HubError
from muster.identity.doctor import Finding, Level
from muster.node.settings import Settings
from muster.sessions.contract import Leased, node_of
from muster.sessions.lease import LEASE_SECONDS, Lease

_ASK_SECONDS = 2.0
"""Within which the leases must be read for what is asked often, and must come while the database hangs."""
Counts = Callable[[], Mapping[str, int]]
"""Tells how many devices are connected, by hub."""


def about_node(settings: Settings, ports: Mapping[str, int]) -> dict[str, Any]:
    """What a node says of itself: its machine, process and version, and where it listens."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": muster.__version__,
        "addresses": list(settings.bind),
        "ports": dict(ports),
    }


class Nodes:
    """All nodes; ``lease`` is that of this one where there may be others, ``began`` when it started."""

    def __init__(self, about: Mapping[str, Any], began: float, lease: Lease | None) -> None:
        self._about, self._began, self._lease = about, began, lease

    async def reports(self, here: Counts) -> Sequence[Mapping[str, Any]]:
        """Every node, those that are gone without a word included until their lease is taken away.

        ``here`` tells of this one. Raises ``HubError`` when the leases cannot be read.
        """
        own = None if self._lease is None else self._lease.name
        leased = () if self._lease is None else await self._lease.nodes()
        found = [_report(one, here() if one.lease == own else one.devices, this=one.lease == own) for one in leased]
        if not any(one["this"] for one in found):
            found.append(
                {
                    "name": self._about["host"] if own is None else node_of(own),
                    "this": True,
                    "alive": own is None,
                    "lease": None,
                    "since": iso(self._began),
                    "renewedSecondsAgo": None,
                    **self._about,
                    "connectedDevices": here(),
                }
            )
        return found

    async def examine(self) -> Sequence[Finding]:
        """What `muster doctor` tells of nodes."""
        if self._lease is None:
            return ()
        try:
            return list(findings_of(await self._lease.nodes()))
        except HubError:
            return ()  # the database is away, which others tell

    async def connected(self, hub: str, here: int) -> Mapping[str, int]:
        """How many devices of ``hub`` are connected to each node that lives, by the node's name; ``here`` are connected
        to this one, of which alone this tells when the leases cannot be read at once."""
        if self._lease is None:
            return {self._about["host"]: here}
        own = self._lease.name
        leased: Sequence[Leased] = ()
        with suppress(HubError, TimeoutError):
            async with asyncio.timeout(_ASK_SECONDS):
                leased = await self._lease.nodes()
        others = {node_of(one.lease): one.devices.get(hub, 0) for one in leased if one.left > 0 and one.lease != own}
        return {**others, node_of(own): here}


def findings_of(leased: Sequence[Leased]) -> Iterator[Finding]:
    """What there is to see to among nodes."""
    gone = [node_of(one.lease) for one in leased if one.left < 0]
    if gone:
        text = f"Nodes that are gone without a word: {', '.join(gone)}."
        yield Finding(
            Level.WARNING, "node-gone", text, "See their machines; a node that is stopped by SIGTERM says so."
        )
    versions = {str(one.about.get("version", "unknown")) for one in leased if one.left > 0}
    if len(versions) > 1:
        text = f"Nodes run different versions: {', '.join(sorted(versions))}."
        yield Finding(Level.NOTICE, "node-versions", text, "Finish the upgrade: restart those of the older one.")


def _report(one: Leased, devices: Mapping[str, int], *, this: bool) -> Mapping[str, Any]:
    return {
        "name": node_of(one.lease),
        "this": this,
        "alive": one.left > 0,
        "lease": one.lease,
        "since": iso(one.since),
        "renewedSecondsAgo": round(max(0.0, LEASE_SECONDS - one.left), 1),
        **one.about,
        "connectedDevices": dict(devices),
    }
