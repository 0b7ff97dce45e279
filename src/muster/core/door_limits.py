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
BACK_OFF_FREE = Limit(
    "failed authentications of one principal from one address that are answered at once",
    5,
    5,
    "failures",
    "own choice",
    "Further ones are answered ever later; one is forgotten every ten seconds. Who is let in never waits.",
)
BACK_OFF_FREE_ADDRESS = Limit(
    "failed authentications from one address that are answered at once",
    50,
    50,
    "failures",
    "own choice",
    "As above, for all of an address, of IPv6 a /64, as behind a NAT; one is forgotten each second.",
)
BACK_OFF_MOST = Limit(
    "longest wait for the answer to a failed authentication",
    5,
    5,
    "seconds",
    "own choice",
    "Clients give up waiting for CONNACK after ten seconds or more.",
)
BACK_OFF_HELD = Limit(
    "answers to failed authentications that are held back at a time",
    1000,
    1000,
    "answers",
    "own choice",
    "A tenth of them for one address; each holds a connection, so further ones go out at once.",
)
BACK_OFF_ADDRESSES = Limit(
    "addresses and principals whose failed authentications are remembered",
    20_000,
    20_000,
    "entries",
    "own choice",
    "Two generations of so many: with more the older ones are forgotten, and wait for nothing.",
)
PRINCIPAL_BURST = Limit(
    "burst of a principal",
    10,
    10,
    "seconds' worth",
    "own choice",
    "What a caller of the service API may save up, where `--principal-rate` is given; without, none has a rate.",
)
PRINCIPALS = Limit(
    "principals whose rates are kept apart",
    10_000,
    10_000,
    "principals",
    "own choice",
    "Two generations of so many: with more those that called longest ago begin anew.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
