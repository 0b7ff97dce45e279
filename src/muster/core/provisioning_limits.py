"""Limits of the provisioning service; see ``limits``."""

from __future__ import annotations

from muster.core.limit import Limit

_QUOTAS = "docs iot-dps-limits"

REGISTRATION_ID_CHARACTERS = Limit(
    "registration id", 128, 128, "characters", "docs iot-dps concepts-service", "Ids of enrollment groups too.",
)  # fmt: skip
ENROLLMENT_GROUPS = Limit(
    "enrollment groups of one kind of attestation",
    100,
    100,
    "groups",
    _QUOTAS,
    "A device that is not enrolled by itself is tried against each of its kind.",
)
BULK_ENROLLMENTS = Limit(
    "enrollments of a bulk call", 10, 100, "enrollments", "provisioning.md 7.2", "Each is a write of its own."
)
ENROLLMENT_PAGE = Limit(
    "page of enrollments or registrations",
    100,
    1000,
    "rows",
    "own choice",
    "What a query returns at a time; further ones by the continuation.",
)
REGISTRATION_BODY_BYTES = Limit(
    "body of a registration", 98_304, 98_304, "bytes", _QUOTAS, "The device's own payload is in it."
)
REGISTRATION_PACKET_BYTES = Limit(
    "registration with what is around it",
    102_400,
    102_400,
    "bytes",
    "own choice",
    "An MQTT packet with its topic, an AMQP message with its properties.",
)
REGISTRATION_SILENCE = Limit(
    "pause between a device's questions to the provisioning service",
    120,
    120,
    "seconds",
    "own choice",
    "Over MQTT and AMQP; then the connection is closed, for it has served its purpose. SDKs ask every few seconds.",
)
REGISTRATION_RETRY = Limit(
    "retry-after of a registration",
    3,
    2,
    "seconds",
    "provisioning.md 5.4",
    "When the device shall poll; by then it is assigned. All SDKs are content with 2 or 3.",
)
REGISTRATIONS_AT_ONCE = Limit(
    "registrations in progress",
    10_000,
    10_000,
    "devices",
    "own choice",
    "More are answered 429001; SDKs come back by themselves.",
)
DEVICE_POLLS = Limit(
    "questions of a device what became of its registration",
    5,
    5,
    "in 10 seconds",
    _QUOTAS,
    "Only where rates are enforced (`--throttle`); more are answered 429001 and when to come again.",
)
ALLOCATION_WAIT = Limit(
    "answer of a custom allocation's webhook",
    5,
    5,
    "seconds",
    "provisioning.md 7.4, unconfirmed",
    "Then the registration has failed with 400207.",
)
ALLOCATION_ANSWER_BYTES = Limit(
    "answer of a custom allocation's webhook", 262_144, 262_144, "bytes", "own choice", "A hub's name and a twin."
)
ALLOCATION_CALLS = Limit(
    "webhook calls at the same time", 16, 16, "calls", "own choice", "Others wait; each has a thread of its own."
)
ASSIGNMENT_RETRY = Limit(
    "pause before an assignment is tried again",
    5,
    5,
    "seconds",
    "own choice",
    "Where a hub's store failed in the midst of it: a device is never left in two hubs.",
)
ATTEMPTS_KEPT = Limit(
    "registration attempts kept",
    20_000,
    20_000,
    "entries",
    "own choice",
    "`muster provisioning log` shows them; the oldest go first.",
)
ATTEMPTS_WAITING = Limit(
    "registration attempts not yet written",
    2048,
    2048,
    "entries",
    "own choice",
    "In a flood the rest are only counted.",
)
REFUSED_ATTEMPTS_WRITTEN = Limit(
    "refused registration attempts kept a second",
    50,
    50,
    "entries per second",
    "own choice",
    "In a flood the rest are only counted; bursts of ten seconds' worth pass.",
)
GROUPS_SEARCHED = Limit(
    "groups searched for the owner of a wrong key",
    8,
    8,
    "groups",
    "own choice",
    "With more groups a refusal names the mistake twice a second at most: a flood must not buy that work.",
)
TPM_KEY_BYTES = Limit(
    "public key of a TPM", 1024, 1024, "bytes", "provisioning.md 6.3", "RSA of 2048 bits: those of all SDKs have 316.",
)  # fmt: skip
TPM_CHALLENGE_VALIDITY = Limit(
    "validity of a TPM's challenge",
    3600,
    3600,
    "seconds",
    "own choice",
    "At least; twice this at most. A token for the registration can be signed so long with the key that came in it.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
