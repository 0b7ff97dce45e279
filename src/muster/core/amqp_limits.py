"""Limits of AMQP connections, and of devices on them; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

AMQP_FRAME_BYTES = Limit(
    "AMQP frame",
    65_536,
    65_536,
    "bytes",
    "clients.md 4",
    "What most clients offer too; bounds what an unfinished frame may cost.",
)
AMQP_OPENING_BYTES = Limit(
    "AMQP before open",
    16_384,
    16_384,
    "bytes",
    "own choice",
    "SASL with the longest token and the open; before it is judged a connection costs no more.",
)
AMQP_SESSIONS = Limit(
    "AMQP sessions",
    4096,
    4096,
    "sessions per connection",
    "own choice",
    "C# and Java open one for each device of a gateway, and put 1,000 devices on a connection.",
)
AMQP_LINKS = Limit(
    "AMQP links",
    8192,
    8192,
    "links per connection",
    "own choice",
    "Six for each of 1,000 devices of a gateway: telemetry, commands, twin and methods.",
)
AMQP_IDLE = Limit(
    "AMQP idle time-out",
    240,
    240,
    "seconds",
    "device.md 4.1",
    "A connection that says nothing and takes nothing for so long is closed; clients send empty frames in time.",
)
AMQP_TOKENS = Limit(
    "put-token audiences",
    4096,
    4096,
    "audiences per connection",
    "code 403005",
    "Each is kept until it expires.",
)
AMQP_REQUEST_BYTES = Limit(
    "request to $cbs or $management",
    65_536,
    65_536,
    "bytes",
    "own choice",
    "A token with its properties.",
)
AMQP_UNPROVEN = Limit(
    "AMQP sessions, and links, before login",
    64,
    64,
    "per connection",
    "own choice",
    "What a client has before a token or certificate was found good; bounds what strangers cost.",
)
AMQP_UNPROVEN_BYTES = Limit(
    "what an AMQP client sends before login",
    1_048_576,
    1_048_576,
    "bytes per connection",
    "own choice",
    "From open to the first token or certificate that is found good; bounds what strangers leave in memory.",
)
AMQP_UNFINISHED_BYTES = Limit(
    "parts of AMQP messages",
    16_777_216,
    16_777_216,
    "bytes per connection",
    "own choice",
    "Of all messages whose last frame has not come; the link that brings more is detached.",
)
AMQP_TELEMETRY_BYTES = Limit(
    "message on a device's telemetry link",
    1_048_576,
    1_048_576,
    "bytes, as encoded",
    "EH EventsLinkHandler (256 * 1024 * 4)",
    "Told to the client as max-message-size; a message over 256 KiB is rejected by itself, and the link goes on.",
)
AMQP_TELEMETRY_CREDIT = Limit(
    "telemetry that an AMQP link may have under way",
    200,
    200,
    "messages per link",
    "own choice",
    "Credit is granted anew when half of it is used up, and not while the disk has to catch up.",
)
AMQP_COMMANDS_IN_FLIGHT = Limit(
    "cloud-to-device messages that an AMQP device has not settled",
    50,
    50,
    "messages per link",
    "cs AmqpTransportSettings prefetch",
    "However much credit the device grants.",
)
AMQP_UNREAD_BYTES = Limit(
    "cloud-to-device messages that an AMQP device has not read",
    1_048_576,
    1_048_576,
    "bytes per connection",
    "own choice",
    "Further ones stay in their queue until the connection is read.",
)
AMQP_REQUESTS_IN_FLIGHT = Limit(
    "twin requests or method answers that an AMQP link may have under way",
    64,
    64,
    "messages per link",
    "own choice",
    "Further credit when they are answered.",
)
AMQP_PUSHES_WAITING = Limit(
    "desired changes and method requests that wait for an AMQP device's credit",
    64,
    64,
    "messages per link",
    "own choice",
    "With more desired changes the link is detached: the device reads its twin when it attaches again.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
