"""Limits of a deployment of several hubs; see ``core.limits``."""

from __future__ import annotations

from muster.core.limit import Limit

HUBS = Limit(
    "hubs in one deployment",
    64,
    64,
    "hubs",
    "own choice",
    "Each has a database of its own for telemetry, with a thread that writes and some that read.",
)
HUB_NAME_CHARACTERS = Limit(
    "length of a hub's name",
    50,
    50,
    "characters",
    "cloud (IoT Hub naming rules)",
    "Of those besides the first, whose name follows its host; it is the name of their Event Hubs too.",
)
POLICIES = Limit(
    "shared access policies of a hub, or of the provisioning service",
    100,
    100,
    "policies",
    "own choice",
    "With those that it begins with; each stands in memory.",
)
CONSUMER_GROUPS = Limit(
    "consumer groups of a hub",
    50,
    50,
    "groups",
    "docs iot-hub-devguide-quotas-throttling (20), own choice",
    "$Default included; each costs nothing but its name until somebody reads through it.",
)
ALL = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
