"""Telemetry links of a hub whose rates are enforced: above the rate credit is withheld, then messages are rejected.

The delivery that is too early waits for its turn, and those behind it on its link, as many as had credit; they are
settled late. Other links of the connection go on.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from muster.core.ambient import Timer
from muster.core.amqp_limits import AMQP_TELEMETRY_BYTES
from muster.core.errors import HubError
from muster.core.throttle_errors import QUOTA_EXCEEDED, ThrottledError
from muster.core.throttle_limits import THROTTLED_AMQP_CREDIT
from muster.core.throttles import TELEMETRY
from muster.dialect.amqp_telemetry import counted_bytes
from muster.heads.admission import why_not
from muster.heads.device_telemetry import TelemetryLink
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import Delivery

if TYPE_CHECKING:
    from muster.heads.device_links import DeviceSession

_CREDIT = THROTTLED_AMQP_CREDIT.open


def telemetry_link(device: DeviceSession, link: Any) -> TelemetryLink:
    """A telemetry link as the hub has it: where nothing is throttled it does not know of it."""
    kind = TelemetryLink if device.services.meters.plan is None else ThrottledTelemetryLink
    return kind(device, link)


class ThrottledTelemetryLink(TelemetryLink):
    """See ``TelemetryLink``."""

    __slots__ = ("_meters", "_rejected", "_turn", "_waiting")

    def __init__(self, device: DeviceSession, link: Any) -> None:
        super().__init__(device, link)
        self._meters = device.services.meters
        self._waiting: deque[Delivery] = deque()
        """The first has its turn when ``_turn`` comes; the others will be looked at then."""
        self._turn: Timer | None = None
        self._rejected = False
        """Whether the last message that was taken was."""

    def open(self) -> None:
        self.link.accept(max_message_size=AMQP_TELEMETRY_BYTES.open)
        self.link.grant(_CREDIT)

    def detached(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
        self._waiting.clear()
        super().detached()

    def delivery(self, event: Delivery) -> None:
        if self._waiting:
            self._waiting.append(event)
        else:
            self._shape(event)

    def writable(self) -> None:
        if self._waiting:
            return
        if self._telemetry.congested:
            self.device.devices.hold()
        elif self.link.credit <= _CREDIT // 2:
            self.link.grant(_CREDIT)

    def _shape(self, event: Delivery) -> None:
        """Take the message, or begin to wait for its turn, or reject it."""
        try:
            wait = self._meters.shape(TELEMETRY, self.device.key.device_id)
        except HubError as problem:
            self._reject(event, problem)
            self.writable()
            return
        if wait:
            self._waiting.append(event)
            ambient = self.device.services.ambient
            self._turn = ambient.at(ambient.now() + wait, self._go_on)
        else:
            self._take(event)

    def _go_on(self) -> None:
        self._turn = None
        self._take(self._waiting.popleft())
        behind, self._waiting = self._waiting, deque()
        while behind:
            self.delivery(behind.popleft())
        self.writable()
        self.device.connection.flush()

    def _take(self, event: Delivery) -> None:
        try:
            sizes = counted_bytes(event.payload, event.message_format)
        except AmqpDecodeError as problem:  # what nobody looks at elsewhere, as a header, may be no AMQP
            self._reject(event, problem)
            self.writable()
            return
        self._rejected = False
        super().delivery(event)
        if not self._rejected:
            for size in sizes:
                self._meters.charge(size)

    def _reject(self, event: Delivery, problem: AmqpDecodeError | HubError) -> None:
        if isinstance(problem, ThrottledError) or (isinstance(problem, HubError) and problem.row is QUOTA_EXCEEDED):
            name, expected, seen = why_not(problem, "telemetry")
            problem.tracking_id = self.device.breach(name, expected, seen, problem.row)
        self._rejected = True
        super()._reject(event, problem)
