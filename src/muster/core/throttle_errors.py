"""What is answered above a rate or a quota; part of ``core.errors.ALL``. Sources: service.md 3.6 and 7.3."""

from __future__ import annotations

from muster.core.error import CONNACK_UNAVAILABLE, ErrorRow, HubError

_CONDITION = "com.microsoft:device-container-throttled"

QUOTA_EXCEEDED = ErrorRow(
    403002, "IotHubQuotaExceeded", "com.microsoft:quota-exceeded", CONNACK_UNAVAILABLE,
    "The hub has had all the messages of its tier and units for this day.",
    "Wait until midnight UTC, or start the hub with more --units, another --tier or --throttle off.",
)  # fmt: skip
BACKLOG_FULL = ErrorRow(
    429002, "ThrottleBacklogLimitExceeded", _CONDITION, CONNACK_UNAVAILABLE,
    "The rate limit was exceeded for so long that no more can wait for their turn.",
    "Slow down and retry; `muster limits --live` shows which limit.",
)  # fmt: skip
DEVICE_THROTTLED = ErrorRow(
    429005, "DeviceThrottlingLimitExceeded", _CONDITION, CONNACK_UNAVAILABLE,
    "The hub is at its rate limit, and the device has had more than its share.",
    "Have this device send less, or start the hub with more --units or another --tier.",
)  # fmt: skip

ALL: tuple[ErrorRow, ...] = tuple(value for value in list(globals().values()) if isinstance(value, ErrorRow))


class ThrottledError(HubError):
    """A refusal above a rate. ``retry_after``: in so many seconds there would be room, if nobody else took it."""

    def __init__(self, row: ErrorRow, message: str, retry_after: float) -> None:
        super().__init__(row, message)
        self.retry_after = retry_after
