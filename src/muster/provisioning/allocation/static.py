"""Static configuration: the hub that the enrollment names, the first of several."""

from __future__ import annotations

from collections.abc import Sequence

from muster.provisioning.contract import LinkedHub


def pick(hubs: Sequence[LinkedHub], registration_id: str) -> LinkedHub:  # noqa: ARG001 - no device is like another
    """See ``allocation.Policy``."""
    return hubs[0]
