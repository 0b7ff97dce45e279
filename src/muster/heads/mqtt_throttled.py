"""MQTT connections of a hub whose rates are enforced: telemetry above the rate is late (device.md 8).

The message that is too early waits for its turn, and all that came behind it on its connection; the socket is not read
meanwhile, so nothing is lost and the device sees a late PUBACK. When the wait would be too long, or the day's quota is
used up, the connection is closed: MQTT 3.1.1 has no word for no.
"""

from __future__ import annotations

import asyncio
from typing import Any

from muster.core.ambient import Timer
from muster.core.errors import HubError
from muster.core.meters import Meters
from muster.core.throttles import TELEMETRY
from muster.dialect.credentials import CREDENTIAL_TOPICS
from muster.dialect.mqtt_methods import ANSWERS
from muster.dialect.mqtt_twins import TWIN_TOPICS
from muster.heads.admission import why_not
from muster.heads.device_services import DeviceServices
from muster.heads.hubs import HubDirectory
from muster.heads.mqtt import MqttConnection
from muster.heads.mqtt_provisioning import Provisioning
from muster.wire.mqtt.packets import Packet, Publish, Subscribe, Unsubscribe

_NOT_TELEMETRY = (TWIN_TOPICS, CREDENTIAL_TOPICS, ANSWERS)
_WAITED_FOR = (Subscribe, Unsubscribe)
"""What comes behind them may have to wait for the disk, and has its turn only then."""


class ThrottledMqttConnection(MqttConnection):
    """See ``MqttConnection``."""

    __slots__ = ("_turn", "_waiting")

    def __init__(
        self, hubs: HubDirectory[DeviceServices], loop: asyncio.AbstractEventLoop, provisioning: Provisioning = None
    ) -> None:
        super().__init__(hubs, loop, provisioning)
        self._waiting: list[Packet] = []
        """The first has its turn when ``_turn`` comes; the others will be looked at then."""
        self._turn: Timer | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._turn is not None:
            self._turn.cancel()
        super().connection_lost(exc)

    def _serve(self, packets: list[Packet]) -> None:
        if self._waiting:
            self._waiting += packets
        elif self._session is None or self._task is not None:  # looked at when it has been waited for
            super()._serve(packets)
        else:
            self._shape(packets)

    def _shape(self, packets: list[Packet], *, first: int = 0) -> None:
        """Serve what may go on. Those before the place ``first`` may."""
        meters: Meters = self._services.meters
        for place, packet in enumerate(packets[first:], first):
            if type(packet) in _WAITED_FOR and place + 1 < len(packets):
                super()._serve(packets[: place + 1])
                if self._transport is not None and not self._transport.is_closing():
                    self._serve(packets[place + 1 :])
                return
            if type(packet) is not Publish or packet.topic.startswith(_NOT_TELEMETRY):
                continue
            try:
                wait = meters.shape(TELEMETRY, self._key.device_id)
            except HubError as error:
                super()._serve(packets[:place])
                self._refuse_message(error)
                return
            meters.charge(_size(packet))
            if wait:
                super()._serve(packets[:place])
                self._hold(packets[place:], wait)
                return
        super()._serve(packets)

    def _hold(self, packets: list[Packet], seconds: float) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._waiting, self._held = packets, True
        self._transport.pause_reading()
        ambient = self._services.ambient
        self._turn = ambient.at(ambient.now() + seconds, self._go_on)

    def _go_on(self) -> None:
        packets, self._waiting, self._turn = self._waiting, [], None
        self._held = False
        self._shape(packets, first=1)
        if not self._held:
            self._clear()

    def _clear(self) -> None:
        if not self._waiting:
            super()._clear()

    def _refuse_message(self, error: HubError) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._breach(*why_not(error, "telemetry"), error.row)


def _size(packet: Any) -> int:
    """How large the message counts: its body, and its properties as they stand in the topic."""
    size: int = len(packet.payload) + len(packet.topic.rpartition(b"/messages/events/")[2])
    return size
