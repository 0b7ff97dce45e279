"""The hub's side of an MQTT connection: what it may send to the device, and how it ends the session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from muster.core.errors import DEVICE_DISABLED, DEVICE_NOT_FOUND, INVALID_OPERATION, ErrorRow
from muster.core.limits import MQTT_BACKLOG_BYTES
from muster.dialect.mqtt import SubscriptionKind
from muster.heads import mqtt_methods
from muster.heads.device_services import DeviceServices
from muster.heads.mqtt_commands import COMMANDS, CommandDelivery
from muster.heads.mqtt_delivery import Delivery
from muster.heads.mqtt_twins import push_desired
from muster.identity.model import IdentityKey
from muster.messages.commands import Received
from muster.messages.methods import MethodRequest
from muster.sessions.table import Session
from muster.twins.document import Content
from muster.wire.mqtt import encoder
from muster.wire.mqtt.packets import PubAck, Publish


class MqttSink:
    """``sessions.table.Sink`` on MQTT. ``_transport`` is ``None`` once the connection is lost."""

    __slots__ = (
        "_active", "_commands", "_delivery", "_key", "_services", "_session", "_time", "_transport", "_unread", "_will",
    )  # fmt: skip

    _services: DeviceServices
    _transport: Any
    _session: Session | None
    _key: IdentityKey
    _delivery: Delivery | None
    _commands: CommandDelivery | None
    _will: Publish | None
    _time: Callable[[], float]
    _active: float
    _unread: bool

    def acknowledge(self, packet_id: int) -> None:
        """PUBACK, if the device is still there to hear it."""
        if self._transport is not None:
            self._transport.write(encoder.puback(packet_id))

    def publish(self, kind: SubscriptionKind, topic: str, payload: bytes, most_qos: int = 1) -> bool:
        """Publish to the device if it has subscribed to ``kind``, at the QoS it was granted, ``most_qos`` at most.

        A device that does not take what it gets is disconnected: when it is back it can ask for what it missed.
        """
        transport, delivery = self._transport, self._delivery
        if transport is None or transport.is_closing() or delivery is None:
            return False
        packet = delivery.packet(kind, topic, payload, most_qos)
        if packet is None:
            return False
        if transport.get_write_buffer_size() + len(packet) > MQTT_BACKLOG_BYTES.open:
            self._breach("backlog", f"at most {MQTT_BACKLOG_BYTES.open} bytes that wait", "more")
            transport.abort()  # closing waits for what the device does not take: it would be connected for 30 s more
            return False
        transport.write(packet)
        return True

    def desired_changed(self, patch: Content, version: int) -> None:
        """See ``sessions.table.Sink``."""
        push_desired(self, patch, version)

    def _regrant(self) -> None:
        """The client has heard that these subscriptions are in force: begin to serve them, and end others."""
        sessions, session = self._services.sessions, self._session
        assert session is not None
        if self._delivery is None:
            self._delivery = Delivery()
        self._delivery.grant(session.filters, self._key)
        mqtt_methods.renew(sessions, session)
        if self._delivery.granted(COMMANDS) is not None:
            self._commands = self._commands or CommandDelivery(session, self._delivery)
            sessions.take_commands(session, self._services.commands)

    def _puback(self, packet: PubAck) -> None:
        if self._delivery is not None and not (self._commands and self._commands.acknowledged(packet.packet_id)):
            self._delivery.acknowledged(packet.packet_id)

    def command_room(self, held: int) -> int:  # this and the next: see ``sessions.commands.CommandSink``
        return 0 if self._commands is None or self._unread else self._commands.room(self._transport, held)

    def deliver(self, command: Received) -> None:
        assert self._commands is not None, "it had room"
        self._commands.send(self._transport, command)

    def invoke(self, request: MethodRequest) -> None:
        """See ``sessions.table.Sink``."""
        mqtt_methods.send_request(self._transport, request)

    def end(self, error: ErrorRow) -> None:
        """See ``sessions.table.Sink``: MQTT 3.1.1 has no word for it, so the socket is closed."""
        if error in (DEVICE_DISABLED, DEVICE_NOT_FOUND):
            self._will = None
        if self._transport is not None:
            self._transport.close()

    def quiet_seconds(self) -> float:
        """See ``sessions.table.Sink``."""
        return self._time() - self._active

    def _breach(self, name: str, expected: str, seen: str, row: ErrorRow = INVALID_OPERATION) -> Literal[False]:
        """Close because the client broke the rule ``name`` (``identity.causes.BREACHES``), and keep why."""
        raise NotImplementedError
