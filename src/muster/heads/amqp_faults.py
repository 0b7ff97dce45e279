"""Devices on AMQP of a hub that lets clients ask for faults (``sessions.faults``); other hubs' do not know of it.

A fault begins, its delay too, when the message that asked for it is settled. A connection is ended again as often as it
is opened while the fault lasts (``heads.amqp_cuts``); sessions and links are closed with an error once.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from muster.core.errors import CONNECTION_CLOSED, SERVER_ERROR, HubError
from muster.dialect.amqp import CBS
from muster.dialect.device_amqp import Part
from muster.dialect.faults import OPERATION
from muster.heads.amqp_cuts import WHOLE_CONNECTION, end_connection
from muster.heads.device_link import rejected
from muster.heads.device_links import DeviceLinks, DeviceSession, Kinds
from muster.heads.device_services import DeviceServices
from muster.heads.device_telemetry import TelemetryLink
from muster.heads.device_telemetry_throttled import ThrottledTelemetryLink
from muster.heads.faults import EXPECTED, REASON, passed_over, wanted_fault
from muster.heads.grants import Scope
from muster.heads.requests import RequestNode
from muster.identity.verdict import Verdict
from muster.sessions.faults import Fault, Faults, Target
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import Delivery
from muster.wire.amqp.link import Link, ReceivingLink
from muster.wire.amqp.message import decode_message
from muster.wire.amqp.performatives import Error

_MARK = OPERATION.encode()
_PARTS = {
    Target.TELEMETRY: Part.TELEMETRY,
    Target.COMMANDS: Part.COMMANDS,
    Target.TWIN_REQUESTS: Part.TWIN_REQUESTS,
    Target.TWIN_ANSWERS: Part.TWIN_ANSWERS,
    Target.METHOD_REQUESTS: Part.METHOD_REQUESTS,
    Target.METHOD_ANSWERS: Part.METHOD_ANSWERS,
}
_FORCED = Error("amqp:link:detach-forced", REASON)


def device_links(services: DeviceServices) -> DeviceLinks:
    """The role that serves devices, with faults where the hub has them."""
    return DeviceLinks(services, DeviceSession if services.faults is None else FaultyDeviceSession)


class FaultyTelemetryLink(TelemetryLink):
    """See ``TelemetryLink``: looks whether messages are to be refused, and for those that ask for a fault."""

    device: FaultyDeviceSession

    def delivery(self, event: Delivery) -> None:
        device, telemetry = self.device, self._telemetry
        row = device.faults.refusal(device.key)
        if row is not None:
            if not event.settled:
                self.link.dispose(event.delivery_id, rejected(device, HubError(row, REASON)))
            self.writable()
            return
        before = telemetry.pending_bytes
        super().delivery(event)
        if _MARK in event.payload and telemetry.pending_bytes > before:
            device.ask(event)


class _ThrottledFaultyTelemetryLink(ThrottledTelemetryLink, FaultyTelemetryLink):
    """Both: faults are looked at when a message has its turn."""


def _telemetry_link(device: FaultyDeviceSession, link: Any) -> TelemetryLink:
    kind = FaultyTelemetryLink if device.services.meters.plan is None else _ThrottledFaultyTelemetryLink
    return kind(device, link)


class FaultyDeviceSession(DeviceSession):
    """See ``DeviceSession``."""

    kinds: ClassVar[Kinds] = {**DeviceSession.kinds, Part.TELEMETRY: _telemetry_link}

    @property
    def faults(self) -> Faults:
        """Those of the hub."""
        faults = self.services.faults
        assert faults is not None, "this kind of session is made where there are faults"
        return faults

    def _begin(self, verdict: Verdict, scope: Scope | None) -> None:
        super()._begin(verdict, scope)
        self.faults.attend(self.key, self._strike)
        lasting = self.faults.lasting(self.key, *WHOLE_CONNECTION)
        if lasting is not None:
            self.connection.head.loop.call_soon(self._strike, lasting.fault)

    def _close(self) -> None:
        self.faults.leave(self.key, self._strike)
        super()._close()

    def ask(self, event: Delivery) -> None:
        """Have the faults begin that a stored message, or a batch, asks for, once it is settled."""
        try:
            message = decode_message(event.payload)
            parts = [decode_message(part) for part in message.data] if event.message_format else [message]
        except AmqpDecodeError:
            return
        for part in parts:
            properties = {str(name): value for name, value in (part.application_properties or {}).items()}
            fault = wanted_fault(properties, self.key)
            if fault is not None:
                self.services.telemetry.when_stored(partial(self._stored, fault))

    def _stored(self, fault: Fault, error: BaseException | None) -> None:
        if error is None:
            self.faults.inject(self.key, fault)

    def _strike(self, fault: Fault) -> None:
        target, connection = fault.target, self.connection
        if self.session is None or connection.closing or fault.refusal is not None:
            return
        if target is Target.MQTT_GOODBYE:
            passed_over(self.key, fault, connection.transport_name)
            return
        self.breach("fault", EXPECTED, target, CONNECTION_CLOSED)
        if target in WHOLE_CONNECTION:
            end_connection(connection, fault)
        elif target is Target.SESSION:
            for session in {handler.link.session for handler in self._links}:
                connection.end_session(session, HubError(SERVER_ERROR, REASON))
        else:
            for link in self._struck(target):
                connection.detach(link, _FORCED)

    def _struck(self, target: Target) -> list[Link]:
        part = _PARTS.get(target)
        if part is not None:
            return [handler.link for handler in self.links(part)]
        node: Any = self.connection.nodes.get(CBS)
        links = node.links() if isinstance(node, RequestNode) else []
        requests = target is Target.CREDENTIAL_REQUESTS
        return [link for link in links if isinstance(link, ReceivingLink) is requests]
