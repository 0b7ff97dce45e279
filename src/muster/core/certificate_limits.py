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
REQUEST_BYTES = Limit(
    "certificate signing request", 8192, 8192, "bytes", "provisioning.md 8.4", "Real ones have 1 KiB at most.",
)  # fmt: skip
ISSUED_DAYS = Limit(
    "validity of an issued certificate",
    398,
    90,
    "days",
    "provisioning.md 8.3, and the CA/Browser Forum's rule for others",
    "At most; a credential policy says how many.",
)
RENEWAL_SECONDS = Limit(
    "request for another certificate over MQTT",
    60,
    60,
    "seconds",
    "own choice",
    "What the first answer says; the second one follows at once.",
)
ISSUED_DAYS_UNSAID = Limit(
    "validity of an issued certificate, unless its policy says otherwise",
    30,
    30,
    "days",
    "own choice",
    "Short, as the hub's own revocation lists need not be kept up then; a device renews by registering again.",
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
    3,
    3,
    "seconds",
    "own choice",
    "Lists behind URLs are looked at, and responders asked about connected devices, so often unless an authority has "
    "another interval: a revoked certificate loses its session within five seconds. A list that has not changed costs "
    "its server an answer without a body.",
)
LEAST_REVOCATION_REFRESH = Limit(
    "least revocation refresh",
    1,
    1,
    "seconds",
    "own choice",
    "Shorter intervals are refused: they would tell nothing sooner than their own requests take.",
)
MOST_REVOCATION_REFRESH = Limit(
    "longest revocation refresh",
    86_400,
    86_400,
    "seconds",
    "own choice",
    "Longer intervals are refused: nobody would know any more what the hub goes by.",
)
REVOCATION_LIST_RATE = Limit(
    "whole revocation lists from one URL",
    20_000,
    20_000,
    "bytes per second",
    "own choice",
    "Where the server sends neither ETag nor Last-Modified the list comes whole each time: then it is fetched as "
    "seldom as this wants, whatever the interval.",
)
RESPONDER_QUESTIONS = Limit(
    "questions to the responder of an authority",
    20,
    20,
    "questions per second",
    "own choice",
    "About devices that are connected; with more of them than so many for each second of the interval, a round takes "
    "longer. A device that connects is asked about at once.",
)
RESPONDER_ANSWER_COUNTS = Limit(
    "answer of a responder counts",
    600,
    600,
    "seconds",
    "own choice",
    "For devices that are connected, while the responder gives no newer one; a shorter nextUpdate decides.",
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
