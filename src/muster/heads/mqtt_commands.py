"""Cloud-to-device messages on an MQTT connection: PUBLISH out, PUBACK completes (device.md 3.3 and 3.7)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from muster.core.limits import MQTT_BACKLOG_BYTES
from muster.core.queue_limits import COMMAND_BYTES, COMMANDS_IN_FLIGHT
from muster.dialect.mqtt import SubscriptionKind
from muster.dialect.mqtt_commands import command_topic
from muster.heads.mqtt_delivery import Delivery
from muster.messages.commands import Received
from muster.messages.queue import Settlement
from muster.sessions.table import Session
from muster.wire.mqtt import encoder

COMMANDS = (SubscriptionKind.COMMANDS, SubscriptionKind.MODULE)
"""Either of these subscriptions brings commands."""
FIRST_ID = 32_768
"""Packet ids from here on are those of commands, which follow their numbers: so a message keeps its id when it is
sent again on another connection of the same MQTT session (MQTT 3.1.1 section 4.4)."""

_IDS = 32_768
_MOST_REMEMBERED = 4 * COMMANDS_IN_FLIGHT.open
_BACKLOG_BYTES = MQTT_BACKLOG_BYTES.open // 2
"""Commands use so much of what may wait for the device; the rest is for what cannot wait."""


class CommandDelivery:
    """The commands of one connection, and the packet ids of those it has not acknowledged."""

    __slots__ = ("_delivery", "_in_flight", "_session")

    def __init__(self, session: Session, delivery: Delivery) -> None:
        self._session = session
        self._delivery = delivery
        self._in_flight: dict[int, tuple[int, UUID]] = {}
        """Packet id to number and lock token of the message."""

    def pull(self) -> None:
        """There may be room again."""
        if self._session.commands is not None:
            self._session.commands.pull()

    def room(self, transport: Any, held: int) -> int:
        """See ``sessions.commands.CommandSink.command_room``."""
        if transport is None or transport.is_closing() or self._delivery.granted(COMMANDS) is None:
            return 0
        buffered: int = transport.get_write_buffer_size()
        return min(COMMANDS_IN_FLIGHT.open - held, (_BACKLOG_BYTES - buffered) // COMMAND_BYTES.open)

    def send(self, transport: Any, command: Received) -> None:
        """PUBLISH ``command`` at the QoS granted. At QoS 0 it is complete when it is sent: nothing else will tell."""
        flow, qos = self._session.commands, self._delivery.granted(COMMANDS)
        assert flow is not None, "what is delivered comes from the flow"
        if qos is None or transport is None or transport.is_closing():
            flow.give_back(command)
            return
        topic, body = command_topic(self._session.key, command.command), command.command.body
        if qos == 0:
            transport.write(encoder.publish(topic, body))
            flow.settle(command.number, command.token, Settlement.COMPLETE)
            return
        packet_id, again = self._packet_id(command.number)
        self._in_flight[packet_id] = command.number, command.token
        if len(self._in_flight) > _MOST_REMEMBERED:  # of a device that never acknowledges, the oldest have expired
            del self._in_flight[next(iter(self._in_flight))]
        transport.write(encoder.publish(topic, body, 1, packet_id, dup=again or command.deliveries > 0))

    def acknowledged(self, packet_id: int) -> bool:
        """PUBACK; false when it is not for a command."""
        known = self._in_flight.pop(packet_id, None)
        if known is not None and self._session.commands is not None:
            self._session.commands.settle(*known, Settlement.COMPLETE)
        return known is not None

    def _packet_id(self, number: int) -> tuple[int, bool]:
        """The packet id for the message ``number``, and whether it has gone out under it on this connection."""
        packet_id = FIRST_ID + number % _IDS
        while (present := self._in_flight.get(packet_id)) is not None and present[0] != number:
            packet_id = FIRST_ID + (packet_id + 1) % _IDS
        return packet_id, present is not None
