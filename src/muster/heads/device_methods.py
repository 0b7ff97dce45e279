"""Direct methods on AMQP: requests on one link, answers on another (device.md 4.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from muster.core.amqp_limits import AMQP_PUSHES_WAITING, AMQP_REQUESTS_IN_FLIGHT
from muster.core.errors import THROTTLED, HubError
from muster.core.method_limits import METHOD_PAYLOAD_BYTES
from muster.dialect.device_amqp_messages import method_request, read_method_answer
from muster.heads.device_link import PushLink, RequestLink
from muster.messages.methods import MethodRequest
from muster.wire.amqp.message import decode_message

if TYPE_CHECKING:
    from muster.heads.device_links import DeviceSession

ENVELOPE_BYTES = 16_384
"""What a message may have beside its body."""


class MethodRequestLink(PushLink):
    """The link on which a device is asked. As long as it is there the session takes methods."""

    __slots__ = ()

    def open(self) -> None:
        super().open()
        device = self.device
        device.methods = self
        assert device.session is not None, "links are opened within a session"
        device.services.sessions.take_methods(device.session, _every)

    def detached(self) -> None:
        device = self.device
        if device.methods is self:
            device.methods = None
            if device.session is not None:
                device.services.sessions.take_methods(device.session, None)
        super().detached()

    def invoke(self, request: MethodRequest) -> None:
        """Send ``request``. Raises ``HubError`` 429001 when the device has not taken what it was sent before."""
        if len(self.waiting) >= AMQP_PUSHES_WAITING.open:
            raise HubError(THROTTLED, "The device has not yet taken what it was sent before, retry later.")
        self.push(method_request(request))


class MethodAnswerLink(RequestLink):
    """The link on which a device answers."""

    __slots__ = ()

    def __init__(self, device: DeviceSession, link: Any) -> None:
        super().__init__(device, link, AMQP_REQUESTS_IN_FLIGHT.open)

    def open(self) -> None:
        self.link.accept(max_message_size=METHOD_PAYLOAD_BYTES.open + ENVELOPE_BYTES)
        self.replenish()

    def take(self, payload: bytes) -> None:
        device, answer = self.device, read_method_answer(decode_message(payload))
        if device.session is not None:
            device.services.methods.answer(device.session, answer.request_id, answer.status, answer.payload)


def _every(_name: str) -> bool:
    return True
