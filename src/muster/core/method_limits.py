"""Limits of direct methods; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

METHOD_NAME_CHARACTERS = Limit(
    "method name",
    100,
    100,
    "characters",
    "device.md 8",
    "Matches the cloud; the name is part of a topic.",
)
METHOD_PAYLOAD_BYTES = Limit(
    "method payload",
    131_072,
    131_072,
    "bytes",
    "docs iot-hub-devguide-quotas-throttling",
    "Each way, as JSON text.",
)
METHOD_LEAST_RESPONSE = Limit(
    "shortest method response timeout",
    5,
    5,
    "seconds",
    "service.md 2.11",
    "Matches the cloud.",
)
METHOD_MOST_TIMEOUT = Limit(
    "longest method timeout",
    300,
    300,
    "seconds",
    "service.md 2.11",
    "For connecting and for answering each.",
)
METHODS_IN_FLIGHT = Limit(
    "method calls in flight to one identity",
    100,
    100,
    "calls",
    "code 403800; the number is our own choice",
    "Waiting for the device or for its answer; bounds what a silent device may cost.",
)
METHODS_OF_HUB = Limit(
    "method calls in flight",
    10_000,
    10_000,
    "calls",
    "own choice",
    "Of the whole hub; more are answered 429001.",
)
METHOD_HISTORY = Limit(
    "method calls remembered",
    1000,
    1000,
    "calls",
    "own choice",
    "`muster methods` shows them; the oldest go first.",
)
ALL = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
