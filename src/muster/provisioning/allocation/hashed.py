"""Evenly weighted distribution: a hash of the registration id decides, in proportion to the hubs' weights.

Weighted rendezvous hashing: each hub draws a number from the id and its own name, and the highest wins. The same device
gets the same hub each time, on every machine; a hub that is added takes its share from all the others, and one that
is removed leaves the devices of the others where they are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

from muster.provisioning.allocation.candidate import Candidate


def pick(hubs: Sequence[Candidate], registration_id: str) -> Candidate:
    """See ``allocation.Policy``. A weight of 0 takes no part, unless all have it."""
    weighted = [hub for hub in hubs if hub.weight > 0]
    return max(
        weighted or hubs, key=lambda hub: (-max(hub.weight, 1) / math.log(draw(hub.host, registration_id)), hub.host)
    )


def draw(host: str, registration_id: str) -> float:
    """A number between 0 and 1, both excluded, the same for the same texts."""
    digest = hashlib.blake2b(f"{host}\n{registration_id}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest) // 2048 + 0.5) / 2**53
