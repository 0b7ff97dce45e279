"""Limits of what is done for those who are not let in yet; see ``limits``."""

from __future__ import annotations

from muster.core.limit import Limit

NETWORK_RULES = Limit(
    "IP filter rules of a hub or provisioning service",
    1000,
    1000,
    "rules",
    "own choice",
    "They are gone through one after the other, for each new address.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
