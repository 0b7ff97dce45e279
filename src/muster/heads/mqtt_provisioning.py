"""The provisioning service's device API over MQTT 3.1.1 (provisioning.md section 2).

``heads.mqtt`` reads CONNECT and hands over what is for the provisioning service. Nobody is judged at CONNECT: each
request is, and answered one after the other; what comes meanwhile waits, and the socket is not read. No session
outlives its connection, and the will of a CONNECT says nothing here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from muster.core.errors import (
    ARGUMENT_INVALID,
    INVALID_OPERATION,
    ErrorRow,
    HubError,
)
from muster.core.limits import MQTT_BACKLOG_BYTES
from muster.core.provisioning_limits import REGISTRATION_PACKET_BYTES, REGISTRATION_SILENCE
from muster.dialect.registration_addresses import (
    REQUEST_FORMS,
    RESPONSES,
    USER_NAME_FORM,
    RegistrationRequest,
    is_registration,
    registration_request,
    registration_user_name,
    response_topic,
)
from muster.heads.client_certificates import tls_credential
from muster.heads.hubs import HubDirectory
from muster.heads.registration_requests import Asker, Proof, RegistrationRequests
from muster.heads.tls import describe_peer
from muster.identity.breaches import breach
from muster.wire.mqtt import encoder
from muster.wire.mqtt.decoder import Decoder
from muster.wire.mqtt.packets import (
    SUBSCRIBE_REFUSED,
    Connect,
    Disconnect,
    MqttError,
    Packet,
    PingReq,
    PubAck,
    Publish,
    Subscribe,
    Unsubscribe,
)

_LAST_ID = 65_535


class ProvisioningConnection:
    """The protocol object of one device that registers. ``take_over`` begins."""

    __slots__ = (
        "_asked", "_asker", "_client", "_decoder", "_granted", "_heard", "_interval", "_last", "_loop", "_name",
        "_peer", "_requests", "_task", "_timer", "_transport", "_unread", "_waiting",
    )  # fmt: skip

    def __init__(self, requests: RegistrationRequests, loop: asyncio.AbstractEventLoop) -> None:
        self._requests = requests
        self._loop = loop
        self._transport: Any = None
        self._asker: Asker | None = None
        self._client = ""
        self._granted: int | None = None
        """The QoS at which answers go out; ``None`` until the device has subscribed."""
        self._waiting: deque[Packet] = deque()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._last = 0
        self._unread = False

    def take_over(self, transport: Any, decoder: Decoder, packet: Connect, early: Iterable[Packet]) -> None:
        """Become the protocol of ``transport``, which brought ``packet`` and, through ``decoder``, ``early``."""
        self._transport, self._decoder, self._client = transport, decoder, packet.client_id
        self._peer = describe_peer(transport)
        self._name = "dps-mqtt-ws" if transport.get_extra_info("websocket") else "dps-mqtt"
        transport.set_protocol(self)
        try:
            address = registration_user_name(packet.username or "")
        except HubError as error:
            transport.write(encoder.connack(False, error.row.mqtt))
            self._breach("user-name", USER_NAME_FORM, error.message, error.row)
            return
        self._client = address.registration_id
        proof = Proof(None if packet.password is None else packet.password.decode("utf-8", "replace"))
        self._asker = Asker(
            self._name, self._peer, address, proof, **tls_credential(transport, without=packet.password)
        )
        decoder.max_packet_bytes = REGISTRATION_PACKET_BYTES.open
        silence = float(REGISTRATION_SILENCE.open)
        self._heard = self._asked = self._loop.time()
        self._interval = min(packet.keep_alive * 1.5 or silence, silence)
        self._timer = self._loop.call_later(self._interval, self._idle)
        transport.write(encoder.connack(False, 0))
        self._serve(early)
        self._read_on()

    @property
    def stranger(self) -> bool:
        """See ``heads.relief``."""
        return self._task is None

    # --- the transport calls

    def connection_made(self, transport: Any) -> None:
        """Not called: see ``take_over``."""

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        try:
            self._serve(self._decoder.receive(data))
        except MqttError as error:
            self._serve(error.packets)
            if not self._closing():
                self._breach("packet", "valid MQTT 3.1.1", error.reason, ARGUMENT_INVALID)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._unread = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread = False
        self._read_on()

    def _read_on(self) -> None:
        if not self._closing() and self._task is None and not self._unread:
            self._transport.resume_reading()

    def _closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    # --- packets

    def _serve(self, packets: Iterable[Packet]) -> None:
        self._waiting.extend(packets)
        while self._waiting and self._task is None and not self._closing():
            self._take(self._waiting.popleft())
        if self._task is not None and not self._closing():
            self._transport.pause_reading()

    def _take(self, packet: Packet) -> None:
        write = self._transport.write
        if isinstance(packet, Publish):
            self._publish(packet)
        elif isinstance(packet, Subscribe):
            write(encoder.suback(packet.packet_id, [self._grant(name, qos) for name, qos in packet.filters]))
        elif isinstance(packet, Unsubscribe):
            if RESPONSES in packet.filters:
                self._granted = None
            write(encoder.unsuback(packet.packet_id))
        elif isinstance(packet, PingReq):
            write(encoder.PINGRESP)
        elif isinstance(packet, Disconnect):
            self._transport.close()
        elif isinstance(packet, Connect):
            self._breach("packet", "one CONNECT", "a second CONNECT")
        elif not isinstance(packet, PubAck):
            self._breach("packet", "QoS 0 or 1", type(packet).__name__.upper())

    def _grant(self, name: str, qos: int) -> int:
        if name != RESPONSES:
            return SUBSCRIBE_REFUSED
        self._granted = min(qos, 1)
        return self._granted

    def _publish(self, packet: Publish) -> None:
        if packet.qos == 2:
            self._breach("qos", "QoS 0 or 1", "a PUBLISH of QoS 2")
            return
        try:
            asked = registration_request(packet.topic)
        except HubError as error:
            self._breach("registration-topic", REQUEST_FORMS, error.message, error.row)
            return
        if self._granted is None:
            self._breach("registration-unheard", f"a subscription to {RESPONSES}", "none")
            return
        self._task = self._loop.create_task(self._answer(packet, asked))

    async def _answer(self, packet: Publish, asked: RegistrationRequest) -> None:
        assert self._asker is not None
        try:
            answer = await self._requests.answer(self._asker, asked.operation_id, packet.payload)
        finally:
            self._task = None
        if self._closing():
            return
        self._asked = self._loop.time()
        topic = response_topic(answer.status, asked.rid, answer.retry_after)
        self._last = self._last % _LAST_ID + 1
        # C# wants the PUBACK first. What it acknowledges is on disk.
        acknowledged = encoder.puback(packet.packet_id) if packet.qos else b""
        answered = encoder.publish(topic, answer.body, self._granted or 0, self._last)
        if self._transport.get_write_buffer_size() + len(answered) > MQTT_BACKLOG_BYTES.open:
            self._breach("backlog", f"at most {MQTT_BACKLOG_BYTES.open} bytes that wait", "more")
            return
        self._transport.write(acknowledged + answered)
        self._serve(())
        self._read_on()

    # --- the end

    def _idle(self) -> None:
        now, silence = self._loop.time(), float(REGISTRATION_SILENCE.open)
        left = min(self._heard + self._interval, self._asked + silence) - now
        if self._task is not None or self._unread:
            left = max(left, 1.0)
        if left > 0:
            self._timer = self._loop.call_later(left, self._idle)
        elif self._asked + silence <= now:
            self._breach("registration-silence", f"a question every {silence:.0f} s", "none")
        else:
            seen = f"silence for {self._interval:.0f} s"
            self._breach("keep-alive", f"a packet every {self._interval / 1.5:.0f} s", seen)

    def _breach(self, name: str, expected: str, seen: str, row: ErrorRow = INVALID_OPERATION) -> None:
        """Close because the device broke the rule ``name`` (``identity.causes.BREACHES``), and keep why."""
        kept = breach(
            self._requests.ambient, name, row, transport=self._name, peer=self._peer, expected=expected, seen=seen,
            principal=self._client,
        )  # fmt: skip
        self._requests.refusals.add(kept)
        if self._transport is not None:
            self._transport.close()


Provisioning = Callable[[], ProvisioningConnection] | None
"""What makes connections of the provisioning service, where there is one."""


def for_provisioning(hubs: HubDirectory[Any], packet: Connect) -> bool:
    """Whether CONNECT is for the provisioning service. A hub's user name looks like that when a device has the id
    ``registrations``, but begins with a host that is a hub's."""
    name = packet.username or ""
    return is_registration(name) and not hubs.knows(name.partition("/")[0])
