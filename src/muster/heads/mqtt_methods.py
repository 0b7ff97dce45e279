"""Direct methods on an MQTT connection: requests out at QoS 0, answers in at QoS 0 or 1 (device.md 3.9)."""

from __future__ import annotations

from typing import Any

from muster.core.errors import INVALID_OPERATION, THROTTLED, HubError
from muster.core.limits import MQTT_BACKLOG_BYTES
from muster.dialect.mqtt_methods import methods_taken, read_answer, request_topic
from muster.messages.methods import MethodRequest, Methods
from muster.sessions.table import Session, SessionTable
from muster.wire.mqtt import encoder
from muster.wire.mqtt.packets import Publish

MOST_UNREAD_BYTES = MQTT_BACKLOG_BYTES.open // 2
"""A device that leaves so much unread gets no further requests; the rest is room for what must reach it."""


def renew(sessions: SessionTable, session: Session) -> None:
    """Tell the table which methods the session takes, by the subscriptions that it has at this moment.

    Call it after CONNACK, as subscriptions of an earlier connection may go on, and after SUBACK and UNSUBACK.
    """
    sessions.take_methods(session, methods_taken(session.filters))


def send_request(transport: Any, request: MethodRequest) -> None:
    """Send ``request`` to the device, unless it is gone. Raises ``HubError`` 429001 when too much is unread."""
    if transport is None or transport.is_closing():
        return
    if transport.get_write_buffer_size() >= MOST_UNREAD_BYTES:
        raise HubError(THROTTLED, "The device has not yet read what it was sent before, retry later.")
    transport.write(encoder.publish(request_topic(request.name, request.request_id), request.payload))


def take_answer(transport: Any, methods: Methods, session: Session, packet: Publish) -> None:
    """Hand over what the device answered, and acknowledge it: nothing of it needs the disk.

    Raises ``HubError`` 400004 when the topic has another form, 400003 at QoS 2.
    """
    if packet.qos == 2:
        raise HubError(INVALID_OPERATION, "An answer was published at QoS 2, use QoS 0 or 1.")
    status, request_id = read_answer(packet.topic)
    methods.answer(session, request_id, status, packet.payload)
    if packet.qos:
        transport.write(encoder.puback(packet.packet_id))
