"""Every limit of the hub: its value in each profile, its unit, where it comes from and why it is there."""

from __future__ import annotations

from muster.core import (
    access_limits,
    amqp_limits,
    audit_limits,
    bulk_limits,
    certificate_limits,
    door_limits,
    fault_limits,
    grant_limits,
    hub_limits,
    memory_limits,
    method_limits,
    provisioning_limits,
    query_limits,
    queue_limits,
    throttle_limits,
    upload_limits,
)
from muster.core.limit import Limit as Limit  # noqa: PLC0414 - for all who read limits
from muster.core.limit import Profile as Profile  # noqa: PLC0414

_QUOTAS = "docs iot-hub-devguide-quotas-throttling"
_TWINS = "docs iot-hub-devguide-device-twins"

MESSAGE_BYTES = Limit(
    "device-to-cloud message",
    262_144,
    262_144,
    "bytes",
    _QUOTAS,
    "Body, system property values and user names and values together; clients refuse more by themselves.",
)
BATCH_MESSAGES = Limit(
    "messages in a batch of a device",
    500,
    5_000,
    "messages",
    _QUOTAS,
    "Over AMQP and HTTPS; a batch is stored as one, and everybody waits while it is made ready.",
)
MQTT_PACKET_BYTES = Limit(
    "MQTT packet",
    262_144 + 65_535 + 16,
    262_144 + 65_535 + 16,
    "bytes",
    "device.md 3.6, MQTT 3.1.1 section 3.3",
    "The largest message and the longest topic; bounds what an unfinished packet may cost.",
)
MQTT_KEEP_ALIVE = Limit(
    "MQTT keep-alive",
    1767,
    1767,
    "seconds",
    "docs iot-mqtt-connect-to-iot-hub",
    "1.5 x the client's value, at most this; also what a client that asked for none gets.",
)
SAS_CLOCK_SKEW = Limit(
    "SAS clock skew",
    300,
    300,
    "seconds",
    "cs SharedAccessSignatureConstants.MaxClockSkew",
    "A token is good for this long after its expiry, so that clocks may differ.",
)
SAS_TOKEN_CHARACTERS = Limit(
    "SAS token",
    4096,
    4096,
    "characters",
    "own choice",
    "Two ids of 128 characters encoded twice, a host name and a signature fit; bounds work before authentication.",
)
DEVICE_ID_CHARACTERS = Limit(
    "device or module id",
    128,
    128,
    "characters",
    "docs iot-hub-devguide-identity-registry",
    "Ids are part of topics, addresses and keys.",
)
STATUS_REASON_CHARACTERS = Limit(
    "status reason",
    128,
    128,
    "characters",
    "service.md 2.4",
    "Matches the cloud.",
)
MODULES_PER_DEVICE = Limit(
    "modules of a device",
    50,
    50,
    "modules",
    "code 413003; docs quotas",
    "Matches the cloud.",
)
BULK_DEVICES = Limit(
    "devices in a bulk call",
    100,
    100,
    "devices",
    "service.md 2.6",
    "More is answered 413002.",
)
REGISTRY_PAGE = Limit(
    "devices in a listing",
    1000,
    1000,
    "devices",
    "service.md 2.5",
    "A listing is one answer, unpaged.",
)
HTTP_BODY_BYTES = Limit(
    "body of a REST call",
    8_388_608,
    8_388_608,
    "bytes",
    "own choice",
    "100 devices with twins of the largest size in a bulk call; bounds what a request may cost.",
)
HTTP_BODY_WAIT = Limit(
    "pause in the body of a REST call",
    30,
    30,
    "seconds",
    "own choice",
    "Who sends below the slowest rate uses it up; then the call is answered 408000 and the connection closed.",
)
HTTP_BODY_RATE = Limit(
    "slowest rate of the body of a REST call",
    1024,
    1024,
    "bytes per second",
    "own choice",
    "Any link carries it, GPRS too; bounds how long a call may take for its length.",
)
HTTP_IDLE = Limit(
    "HTTPS idle time-out",
    240,
    240,
    "seconds",
    "own choice",
    "A connection that was kept open is closed when no further request comes; clients open another.",
)
TWIN_TAGS = Limit(
    "tags of a twin",
    8192,
    8192,
    "characters",
    _TWINS,
    "Keys and values counted as the cloud counts them: strings without control characters, numbers 8, booleans 4.",
)
TWIN_PROPERTIES = Limit(
    "desired or reported properties of a twin",
    32_768,
    32_768,
    "characters",
    _TWINS,
    "Each of the two, counted like tags; $metadata and $version do not count.",
)
TWIN_TEXT = Limit(
    "tags, desired or reported properties as JSON",
    131_072,
    131_072,
    "characters",
    "own choice",
    "Bounds what the cloud does not count, as empty strings in arrays; both sets of properties fit one answer.",
)
TWIN_DEPTH = Limit(
    "depth of a twin",
    10,
    10,
    "levels",
    _TWINS,
    "Objects and arrays below tags, desired or reported.",
)
TWIN_KEY_BYTES = Limit(
    "key in a twin",
    1024,
    1024,
    "bytes of UTF-8",
    _TWINS,
    "Matches the cloud.",
)
TWIN_STRING_BYTES = Limit(
    "string in a twin",
    4096,
    4096,
    "bytes of UTF-8",
    _TWINS,
    "Matches the cloud.",
)
TWIN_INTEGER = Limit(
    "integer in a twin",
    4_503_599_627_370_495,
    4_503_599_627_370_495,
    "largest; the smallest is one further below zero",
    _TWINS,
    "What every client's number type holds exactly.",
)
TWIN_REQUESTS = Limit(
    "twin requests in progress of one device",
    64,
    64,
    "requests per connection",
    "own choice",
    "More are answered 429; bounds what a device that does not wait for answers may cost.",
)
MODEL_ID_CHARACTERS = Limit(
    "model id of a digital twin",
    2048,
    2048,
    "characters",
    "DTDL v2, digital twin model identifier",
    "It is kept with the twin and stands in every message of the device.",
)
DIGITAL_TWIN_DEPTH = Limit(
    "depth of a digital twin's property",
    5,
    5,
    "levels",
    "docs iot/howto-manage-digital-twin",
    "Objects within a property that a service writes.",
)
EVENTS_RELAYED = Limit(
    "events on their way into the partitions",
    256,
    256,
    "events",
    "own choice",
    "The others wait on disk.",
)
EVENT_BYTES_RELAYED = Limit(
    "bytes of events on their way into the partitions",
    1_048_576,
    1_048_576,
    "bytes",
    "own choice",
    "The event that reaches it is the last; the others wait on disk.",
)
MQTT_SUBSCRIPTIONS = Limit(
    "MQTT subscriptions of an identity",
    50,
    50,
    "topic filters",
    "own choice",
    "Kept on disk between connections; SDKs have five at most. Further ones are not granted.",
)
MQTT_FILTER_CHARACTERS = Limit(
    "MQTT topic filter",
    512,
    512,
    "characters",
    "own choice",
    "Two ids and the name of an input fit; a longer one is not granted.",
)
MQTT_BACKLOG_BYTES = Limit(
    "MQTT messages to a device that it has not taken",
    1_048_576,
    1_048_576,
    "bytes per connection",
    "own choice",
    "Above it the connection is closed; the device finds what it missed when it connects again.",
)
PARTITIONS = Limit(
    "partitions",
    32,
    32,
    "partitions",
    _QUOTAS,
    "Readers hold a link for each.",
)
TELEMETRY_PENDING_BYTES = Limit(
    "telemetry not yet on disk",
    16_777_216,
    16_777_216,
    "bytes",
    "own choice",
    "Above it the hub stops reading from devices until the disk has caught up.",
)
TELEMETRY_TAIL_BYTES = Limit(
    "telemetry kept in memory",
    33_554_432,
    33_554_432,
    "bytes",
    "own choice",
    "Receivers that keep up are served from it; those further behind read from the disk.",
)
CONNECT_WAIT = Limit(
    "time to CONNECT",
    60,
    60,
    "seconds",
    "EH appsettings_hub.json ConnectArrivalTimeout",
    "From the TCP accept to the first complete packet, the TLS handshake included.",
)
TLS_HANDSHAKES = Limit(
    "TLS handshakes in progress",
    4000,
    4000,
    "connections",
    "own choice",
    "Each holds about 50 KiB; beyond them the one that has waited longest for its client, 3 s at least, is dropped.",
)
REQUEST_HEAD_BYTES = Limit(
    "head of the first request on 443",
    16_384,
    16_384,
    "bytes",
    "own choice",
    "Read before it is known whether REST or a WebSocket is wanted.",
)
CONSUMER_READERS = Limit(
    "readers of a partition without owner level",
    5,
    5,
    "receivers",
    "service.md 4.4",
    "Per consumer group and partition, as Event Hubs has it, over all nodes.",
)
EVENTS_AT_ONCE = Limit(
    "events to one receiver in one go",
    512,
    512,
    "events",
    "own choice",
    "Then the loop serves others first.",
)
CATCH_UP_BYTES = Limit(
    "telemetry read ahead for one receiver",
    262_144,
    262_144,
    "bytes",
    "own choice",
    "A receiver that reads from the disk holds about so much, at least one stored batch.",
)
REFUSALS_KEPT = Limit(
    "refusals kept",
    10_000,
    10_000,
    "verdicts",
    "own choice",
    "`muster why` finds them; the oldest go first.",
)
REFUSALS_IN_MEMORY = Limit(
    "refusals in memory",
    1000,
    1000,
    "verdicts",
    "own choice",
    "The newest, found without the store; about 2 KiB each.",
)
REFUSALS_PER_PRINCIPAL = Limit(
    "refusals in memory of one principal",
    20,
    20,
    "verdicts",
    "own choice",
    "One device that hammers must not push out the refusals of the others.",
)
REFUSALS_WRITTEN = Limit(
    "refusals written to the store",
    20,
    20,
    "verdicts per second",
    "own choice",
    "In a flood the rest stay in memory and in the counts only; bursts of ten seconds' worth pass.",
)
SIGNATURE_PROBES = Limit(
    "searches for the owner of a wrong key",
    2,
    2,
    "searches per second",
    "own choice",
    "A search reads up to 1,000 identities to say whose key signed a token; a flood must not buy that work.",
)

ALL: tuple[Limit, ...] = (
    *(value for value in list(globals().values()) if isinstance(value, Limit)),
    *access_limits.ALL,
    *amqp_limits.ALL,
    *audit_limits.ALL,
    *bulk_limits.ALL,
    *certificate_limits.ALL,
    *door_limits.ALL,
    *fault_limits.ALL,
    *grant_limits.ALL,
    *memory_limits.ALL,
    *hub_limits.ALL,
    *method_limits.ALL,
    *provisioning_limits.ALL,
    *query_limits.ALL,
    *queue_limits.ALL,
    *throttle_limits.ALL,
    *upload_limits.ALL,
)
