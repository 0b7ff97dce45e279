"""Limits of bearer tokens and of what their issuers are asked; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

BEARER_CHARACTERS = Limit(
    "bearer token",
    12_288,
    12_288,
    "characters",
    "own choice",
    "A longer one is refused unread; those with 200 groups have 10,000. The head of a request has room for no more.",
)
BEARERS_REMEMBERED = Limit(
    "bearer tokens remembered",
    1024,
    1024,
    "tokens",
    "own choice",
    "Their signature is not verified again until they expire or their issuer's keys change; the oldest go first.",
)
ISSUER_KEYS_FRESH = Limit(
    "issuer's keys are fresh",
    300,
    300,
    "seconds",
    "own choice",
    "After that they are asked for again in the background; after twice that a call waits for the answer. A key that "
    "the issuer removed counts no longer than this.",
)
ISSUER_KEYS_KEPT = Limit(
    "issuer's keys count while it is down",
    86_400,
    86_400,
    "seconds",
    "own choice; clients of Microsoft Entra ID fetch its keys once a day",
    "Tokens are judged by the keys that were last heard of, so that an outage of the issuer is none of the hub.",
)
ISSUER_WAIT = Limit(
    "issuer's answer",
    5,
    5,
    "seconds",
    "own choice",
    "How long the hub waits for an issuer's configuration, and as long again for its keys.",
)
ISSUER_DOCUMENT_BYTES = Limit(
    "issuer's document",
    262_144,
    262_144,
    "bytes",
    "own choice",
    "A longer configuration or key set is not read to its end and does not count.",
)
ISSUER_KEYS = Limit(
    "keys of an issuer",
    100,
    100,
    "keys",
    "own choice",
    "The first ones count; issuers have two to ten.",
)
UNKNOWN_KEY_FETCHES = Limit(
    "keys fetched for unknown key ids",
    2,
    2,
    "fetches per minute and issuer",
    "own choice; up to 5 at once after a pause",
    "A token may name a key that the issuer made just now; a flood of invented ones must not become one at the issuer.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
