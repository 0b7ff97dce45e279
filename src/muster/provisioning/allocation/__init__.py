"""Allocation: which of the linked hubs a device is given, a policy per file (provisioning.md 7.4).

A policy that needs to ask nobody is a function of the hubs and the device; ``custom`` asks a webhook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from muster.core.errors import HubError
from muster.core.provisioning_errors import NO_HUB
from muster.provisioning.allocation import hashed, latency, static
from muster.provisioning.contract import LinkedHub
from muster.provisioning.model import AllocationKind, Enrollment

Policy = Callable[[Sequence[LinkedHub], str], LinkedHub]
"""Picks one of the hubs (at least one) for a registration id."""

POLICIES: Mapping[AllocationKind, Policy] = {
    AllocationKind.HASHED: hashed.pick,
    AllocationKind.GEO_LATENCY: latency.pick,
    AllocationKind.STATIC: static.pick,
}
"""Those that decide by themselves."""


def candidates(enrollment: Enrollment, hubs: Sequence[LinkedHub]) -> Sequence[LinkedHub]:
    """The hubs that the device may get: those that its enrollment names, in that order, else those that take part in
    allocation. Raises ``HubError`` 400208 when there are none."""
    if enrollment.hubs:
        by_host = {hub.host: hub for hub in hubs}
        found = [by_host[host] for host in enrollment.hubs if host in by_host]
    else:
        found = [hub for hub in hubs if hub.allocates]
    if not found:
        named = ", ".join(enrollment.hubs) or "those that take part in allocation"
        raise HubError(NO_HUB, f"No hub is linked that the device may get: {named}.")
    return found
