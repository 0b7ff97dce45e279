"""Limits of cloud-to-device messages and of the queues that services read; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

_C2D = "docs iot-hub-devguide-messages-c2d"

QUEUE_LOCK = Limit(
    "lock on a message of a queue",
    60,
    60,
    "seconds",
    _C2D,
    "Whoever received a message has it for so long; then others may receive it.",
)
HTTP_COMMAND_LOCK = Limit(
    "longest lock that a device may ask for over HTTPS",
    300,
    300,
    "seconds",
    "own choice",
    "C# and Java ask for one of their own (iothub-messagelocktimeout); the longest that the cloud allows for feedback.",
)
QUEUE_DELIVERIES = Limit(
    "failed deliveries of a message",
    10,
    10,
    "deliveries",
    _C2D,
    "After so many the message is given up: it may be what makes its receiver fail.",
)
QUEUE_TTL = Limit(
    "time a message waits unless told otherwise",
    3600,
    3600,
    "seconds",
    _C2D,
    "For messages to devices, feedback and file notifications alike.",
)
COMMAND_BYTES = Limit(
    "cloud-to-device message",
    65_536,
    65_536,
    "bytes",
    "docs iot-hub-devguide-quotas-throttling",
    "Body, system property values and user names and values together; device SDKs take no more.",
)
COMMAND_PROPERTIES = Limit(
    "properties of a cloud-to-device message",
    16_384,
    16_384,
    "bytes",
    "own choice",
    "They are part of an MQTT topic, which has 65,535 bytes at most; percent-encoded they may be three times as long.",
)
COMMAND_PROPERTY_COUNT = Limit(
    "application properties of a cloud-to-device message",
    1000,
    1000,
    "properties",
    "own choice",
    "Each costs separators in an MQTT topic.",
)
COMMAND_QUEUE = Limit(
    "cloud-to-device messages that wait for an identity",
    50,
    10_000,
    "messages",
    f"{_C2D}; code 403004",
    "More are refused; the open profile's number only keeps a forgotten device from filling the disk.",
)
COMMAND_TTL = Limit(
    "furthest expiry time of a cloud-to-device message",
    172_800,
    31_536_000,
    "seconds",
    f"{_C2D}; code 403009",
    "Two days in the cloud; a year, for devices that are rarely online.",
)
MESSAGE_ID_CHARACTERS = Limit(
    "message-id or correlation-id of a cloud-to-device message",
    128,
    128,
    "characters",
    "docs iot-hub-devguide-messages-construct",
    "Matches the cloud.",
)
COMMANDS_IN_FLIGHT = Limit(
    "cloud-to-device messages that an MQTT device has not acknowledged",
    16,
    16,
    "messages per connection",
    "own choice",
    "Further ones wait for a PUBACK.",
)
COMMANDS_ARRIVING = Limit(
    "cloud-to-device messages being stored",
    64,
    64,
    "messages per AMQP link",
    "own choice",
    "A sender gets credit for so many; more when they are on disk.",
)
FEEDBACK_RECORDS = Limit(
    "records in a feedback message",
    64,
    64,
    "records",
    _C2D,
    "Matches the cloud.",
)
FEEDBACK_WAIT = Limit(
    "wait for further feedback",
    15,
    15,
    "seconds",
    _C2D,
    "Then the records that are there make a message.",
)
SERVICE_MESSAGES_AT_ONCE = Limit(
    "feedback or file notifications in a receiver's hands",
    64,
    64,
    "messages per link",
    "own choice",
    "Whatever credit it grants: others shall find something too.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
