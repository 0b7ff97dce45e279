"""MQTT connections of a hub that lets clients ask for faults (``sessions.faults``); other hubs' do not know of it.

A fault begins, its delay too, when the PUBACK of the message that asked for it has gone out. In the cloud that PUBACK
never comes, so its clients repeat the message for ever; here they are well again after one fault.
"""

from __future__ import annotations

import asyncio
from functools import partial

from muster.core.errors import CONNACK_UNAVAILABLE, CONNECTION_CLOSED
from muster.dialect.faults import OPERATION
from muster.dialect.mqtt import Login, telemetry_properties
from muster.heads.device_services import DeviceServices
from muster.heads.faults import EXPECTED, InjectedError, cut, passed_over, wanted_fault
from muster.heads.hubs import HubDirectory
from muster.heads.mqtt import MqttConnection
from muster.heads.mqtt_provisioning import Provisioning
from muster.identity.verdict import Verdict
from muster.sessions.faults import Fault, Faults, Target
from muster.wire.mqtt import encoder
from muster.wire.mqtt.packets import Connect, Publish

_MARK = OPERATION.encode()
_CUTS = (Target.TRANSPORT, Target.MQTT_GOODBYE)


class FaultyMqttConnection(MqttConnection):
    """See ``MqttConnection``. Its hot path is that one's, but for one look at what a new topic brings."""

    def __init__(
        self, hubs: HubDirectory[DeviceServices], loop: asyncio.AbstractEventLoop, provisioning: Provisioning = None
    ) -> None:
        super().__init__(hubs, loop, provisioning)
        self._throttled = False

    @property
    def _faults(self) -> Faults:
        faults = self._services.faults
        assert faults is not None, "this kind of connection is made where there are faults"
        return faults

    def connection_lost(self, exc: Exception | None) -> None:
        if self._session is not None:
            self._faults.leave(self._key, self._strike)
        super().connection_lost(exc)

    def _open(self, packet: Connect, login: Login, verdict: Verdict) -> None:
        lasting = self._faults.lasting(login.key, *_CUTS)
        if lasting is not None:
            if lasting.fault.graceful:
                self._transport.write(encoder.connack(False, CONNACK_UNAVAILABLE))
            cut(self._transport, lasting.fault)
            return
        super()._open(packet, login, verdict)
        self._faults.attend(login.key, self._strike)
        throttling = self._faults.lasting(login.key, Target.THROTTLING)
        if throttling is not None:
            self._throttle(throttling.until)

    # --- messages

    def _publish(self, packet: Publish) -> bool:
        try:
            return super()._publish(packet)
        except InjectedError as error:
            return self._breach("fault", EXPECTED, error.row.name, error.row)

    def _read_topic(self, topic: bytes, *, retain: bool = False, will: bool = False) -> None:
        refusal = None if will else self._faults.lasting(self._key, Target.QUOTA, Target.AUTHORIZATION)
        if refusal is not None and refusal.fault.refusal is not None:
            raise InjectedError(refusal.fault.refusal)
        super()._read_topic(topic, retain=retain, will=will)
        if will or _MARK not in topic:
            return
        fault = wanted_fault(telemetry_properties(topic, self._key)[1], self._key)
        if fault is not None:
            self._topic = b""  # a message that repeats it repeats the fault
            self._loop.call_soon(self._ask, fault)  # by then the message is with the others

    def _ask(self, fault: Fault) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._services.telemetry.when_stored(partial(self._acknowledged, fault))

    def _acknowledged(self, fault: Fault, error: BaseException | None) -> None:
        if error is None:
            self._faults.inject(self._key, fault)

    # --- what strikes

    def _strike(self, fault: Fault) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if fault.target is Target.THROTTLING:
            self._throttle(self._services.ambient.now() + fault.duration)
        elif fault.refusal is not None:
            self._topic = b""  # the next message is looked at, whatever its topic
        elif fault.target in _CUTS:
            self._keep_breach("fault", EXPECTED, fault.target, CONNECTION_CLOSED, str(self._key))
            cut(transport, fault)
        else:
            passed_over(self._key, fault, self._transport_name)

    def _throttle(self, until: float) -> None:
        """As in the cloud: MQTT has no word for it, messages and their PUBACKs are late."""
        if not self._throttled:
            self._throttled = self._held = True
            self._transport.pause_reading()
            self._services.ambient.at(until, self._release)

    def _release(self) -> None:
        self._throttled = False
        if self._transport is not None:
            self._clear()

    def _clear(self) -> None:
        if not self._throttled:
            super()._clear()
