"""Limits of certificates, authorities and what they revoke; see ``limits``."""

from __future__ import annotations

from muster.core.limit import Limit

CERTIFICATE_BYTES = Limit(
    "client certificate",
    16_384,
    16_384,
    "bytes",
    "own choice",
    "Each of those that a client sends; real ones have 2 KiB.",
)
CHAIN_CERTIFICATES = Limit(
    "certificates of a chain",
    8,
    8,
    "certificates",
    "own choice",
    "That a client sends, and that lead from its own to an authority; real chains have three.",
)
CERTIFICATE_CLOCK_SKEW = Limit(
    "certificate clock skew",
    300,
    300,
    "seconds",
    "own choice, as for SAS tokens",
    "A certificate is good for this long before its beginning and after its end, so that clocks may differ.",
)
AUTHORITIES = Limit(
    "certificate authorities",
    25,
    100,
    "authorities",
    "device.md 6.2",
    "More are answered 403; all are held in memory.",
)
CHAINS_REMEMBERED = Limit(
    "certificate chains remembered",
    4096,
    4096,
    "chains",
    "own choice",
    "Found good and not verified again while the authorities stay; validity and revocation are looked at each time. "
    "About 10 KiB each.",
)
REVOCATION_LIST_BYTES = Limit(
    "certificate revocation list",
    6_000_000,
    6_000_000,
    "bytes",
    "own choice",
    "Some 150,000 revoked certificates; in base64 it fits the body of a REST call.",
)
REVOCATION_LISTS = Limit(
    "revocation lists of an authority",
    16,
    16,
    "lists",
    "own choice",
    "One for each issuer below it, its own included.",
)
REVOCATION_REFRESH = Limit(
    "revocation refresh",
    300,
    300,
    "seconds",
    "own choice",
    "Lists from a URL are fetched, and responders asked about connected devices, so often.",
)
REVOCATION_WAIT = Limit(
    "wait for revocation news",
    5,
    5,
    "seconds",
    "own choice",
    "A place that does not answer in time has no news; whether devices are let in then is the authority's rule.",
)
RESPONDER_ANSWERS = Limit(
    "answers of responders remembered",
    10_000,
    10_000,
    "answers",
    "own choice",
    "One for each certificate in use; the oldest go first.",
)
HANDSHAKES_EXPLAINED = Limit(
    "failed TLS handshakes kept",
    2,
    2,
    "verdicts per second",
    "own choice",
    "`muster why` shows them; in a flood the rest are only counted. Bursts of twenty pass.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
