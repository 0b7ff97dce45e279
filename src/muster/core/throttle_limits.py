"""How throttles are applied; part of ``core.limits.ALL``. The rates themselves are ``core.throttles``."""

from __future__ import annotations

from muster.core.limit import Limit

_SHAPING = "docs iot-hub-devguide-quotas-throttling, Traffic shaping"

THROTTLE_BURST = Limit(
    "burst above a throttle", 60, 60, "seconds of its rate", _SHAPING,
    "So much passes at once; the cloud's example lets twice the rate pass for the first minute or two.",
)  # fmt: skip
THROTTLE_RESERVE = Limit(
    "burst kept for devices within their share", 30, 30, "seconds of its rate", "own choice",
    "Beyond the burst of all: a device that sends little is served while another one floods.",
)  # fmt: skip
THROTTLE_BACKLOG = Limit(
    "wait for a throttle", 10, 10, "seconds", f"{_SHAPING}; the number is our own choice",
    "Connections and telemetry above the rate are late by so much; then they are refused.",
)  # fmt: skip
THROTTLE_SHARE = Limit(
    "burst of a device above its share", 10, 10, "seconds of its share", "own choice",
    "Its share is the rate divided by the devices that were active for so long.",
)  # fmt: skip
THROTTLE_DEVICES = Limit(
    "devices whose share is counted", 8192, 8192, "devices for each throttle", "own choice",
    "When more are active those counted longest ago are forgotten; bounds memory.",
)  # fmt: skip
THROTTLED_AMQP_CREDIT = Limit(
    "telemetry that an AMQP link may have under way where it is throttled", 16, 16, "messages per link", "own choice",
    "They may all have to wait in memory for their turn.",
)  # fmt: skip
QUOTA_UNWRITTEN = Limit(
    "time in which the day's messages may be uncounted on disk", 60, 60, "seconds", "own choice",
    "A hub that is killed forgets at most so much of the daily quota's use; other nodes hear of it so late.",
)  # fmt: skip

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
