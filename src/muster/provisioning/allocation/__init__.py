"""Allocation: which of the linked hubs a device is given, a policy per file (provisioning.md 7.4).

A policy that needs to ask nobody is a function of the hubs and the device; ``custom`` asks a webhook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from muster.core.errors import HubError
from muster.core.provisioning_errors import NO_HUB
from muster.provisioning.allocation import hashed, latency, static
from muster.provisioning.allocation.candidate import Candidate
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.model import AllocationKind, Enrollment

Policy = Callable[[Sequence[Candidate], str], Candidate]
"""Picks one of the hubs (at least one) for a registration id."""

POLICIES: Mapping[AllocationKind, Policy] = {
    AllocationKind.HASHED: hashed.pick,
    AllocationKind.GEO_LATENCY: latency.pick,
    AllocationKind.STATIC: static.pick,
}
"""Those that decide by themselves."""


def candidates(enrollment: Enrollment, hubs: LinkedHubs) -> Sequence[Candidate]:
    """The hubs that the device may get: those that its enrollment names, in that order, else those that have a weight.
    Raises ``HubError`` 400208 when there are none."""
    wanted = enrollment.hubs or [host for host in hubs if hubs.weight(host)]
    found = [Candidate(host, hubs.weight(host)) for host in wanted if host in hubs]
    if not found:
        named = ", ".join(enrollment.hubs) or "those that have a weight"
        raise HubError(NO_HUB, f"No hub is linked that the device may get: {named}.")
    return found
