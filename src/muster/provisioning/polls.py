"""How often a device may ask what became of its registration."""

from __future__ import annotations

from math import ceil

from muster.core.ambient import Ambient
from muster.core.each_rate import EachRate
from muster.core.errors import THROTTLED
from muster.core.provisioning_limits import DEVICE_POLLS
from muster.core.throttle_errors import ThrottledError
from muster.core.throttle_limits import THROTTLE_DEVICES
from muster.provisioning.ids import normal

_SECONDS = 10.0


class Polls:
    """The questions of devices that have proven who they are; nothing is counted unless the limit is ``enforced``."""

    def __init__(self, ambient: Ambient, *, enforced: bool) -> None:
        self._monotonic = ambient.monotonic
        self._rate = EachRate(DEVICE_POLLS.azure, _SECONDS, THROTTLE_DEVICES.open) if enforced else None

    def take(self, registration_id: str) -> None:
        """Let a question in. Raises ``ThrottledError`` 429001 with the time to the next one."""
        wait = 0.0 if self._rate is None else self._rate.take(self._monotonic(), normal(registration_id))
        if wait:
            message = f"A device may ask {DEVICE_POLLS.azure} times in {_SECONDS:.0f} s. Retry after {ceil(wait)} s."
            raise ThrottledError(THROTTLED, message, wait)
