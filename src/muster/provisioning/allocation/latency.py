"""Lowest latency. Hubs of one deployment stand in one place, and how far a device is from it is not measured: all count
as equally near, and among equals a hash decides (provisioning.md 7.4), whatever their weights."""

from __future__ import annotations

from collections.abc import Sequence

from muster.provisioning.allocation.candidate import Candidate
from muster.provisioning.allocation.hashed import draw


def pick(hubs: Sequence[Candidate], registration_id: str) -> Candidate:
    """See ``allocation.Policy``."""
    return max(hubs, key=lambda hub: (draw(hub.host, registration_id), hub.host))
