"""Static configuration: the hub that the enrollment names, the first of several."""

from __future__ import annotations

from collections.abc import Sequence

from muster.provisioning.allocation.candidate import Candidate


def pick(hubs: Sequence[Candidate], registration_id: str) -> Candidate:  # noqa: ARG001 - no device is like another
    """See ``allocation.Policy``."""
    return hubs[0]
