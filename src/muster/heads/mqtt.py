"""The MQTT 3.1.1 head: one connection of one device or module.

Life of a connection: silent until CONNECT, then waiting for the verdict, then open until either side ends
it. Rules of what a device may say are in ``dialect``, who it is in ``identity``, what becomes of a message
in ``messages``; here is only the order of things on one socket.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Literal

from muster.core.ambient import Timer
from muster.core.errors import (
    ARGUMENT_INVALID,
    CONNACK_IDENTIFIER,
    CONNACK_UNAVAILABLE,
    DEVICE_UNAUTHORIZED,
    INVALID_OPERATION,
    MESSAGE_TOO_LARGE,
    ErrorRow,
    HubError,
)
from muster.core.limits import (
    CONNECT_WAIT,
    MESSAGE_BYTES,
    MQTT_KEEP_ALIVE,
    MQTT_PACKET_BYTES,
)
from muster.dialect.credentials import CREDENTIAL_TOPICS
from muster.dialect.mqtt import Login, parse_username, telemetry_properties
from muster.dialect.mqtt_methods import ANSWERS
from muster.dialect.mqtt_twins import TWIN_TOPICS
from muster.dialect.property_bag import size_of
from muster.dialect.record import message_head, record, sender_annotations
from muster.heads import mqtt_methods, mqtt_subscriptions
from muster.heads.device_services import DeviceServices
from muster.heads.hubs import HubDirectory
from muster.heads.mqtt_commands import CommandDelivery
from muster.heads.mqtt_connect import judge
from muster.heads.mqtt_credentials import CredentialRequests
from muster.heads.mqtt_delivery import Delivery
from muster.heads.mqtt_provisioning import Provisioning, for_provisioning
from muster.heads.mqtt_sink import MqttSink
from muster.heads.mqtt_twins import TwinRequests
from muster.heads.tls import describe_peer
from muster.identity.breaches import breach
from muster.identity.verdict import Verdict
from muster.messages.telemetry import Batch
from muster.sessions.table import Session
from muster.wire.mqtt import encoder
from muster.wire.mqtt.decoder import Decoder
from muster.wire.mqtt.packets import (
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

log = logging.getLogger("muster.mqtt")

_REQUESTS = (TWIN_TOPICS, CREDENTIAL_TOPICS)

UNAUTHENTICATED_BYTES = 65_536
"""The largest CONNECT taken: ids, a user name, a token and a will; of what follows at most two reads are kept
before it is judged."""


class MqttConnection(MqttSink):
    """The protocol object of one socket, and the sink of its session."""

    __slots__ = (
        "_acks", "_annotate", "_append", "_batch", "_credentials", "_decoder", "_early", "_expiry", "_head", "_held",
        "_hubs", "_interval", "_loop", "_orderly", "_partition", "_peer", "_provisioning", "_room", "_seen", "_sender",
        "_task", "_timer", "_topic", "_transport_name", "_twins",
    )  # fmt: skip

    def __init__(
        self, hubs: HubDirectory[DeviceServices], loop: asyncio.AbstractEventLoop, provisioning: Provisioning = None
    ) -> None:
        self._hubs = hubs
        self._provisioning = provisioning
        self._services = hubs.first  # until the user name tells
        self._loop = loop
        self._time = loop.time
        self._transport = None
        self._decoder = Decoder(UNAUTHENTICATED_BYTES, MQTT_PACKET_BYTES.open)
        self._session: Session | None = None
        self._task: asyncio.Task[None] | None = None
        self._early: list[Packet] = []
        self._will: Publish | None = None
        self._expiry: Timer | None = None
        self._batch: Batch | None = None
        self._acks = bytearray()
        self._delivery: Delivery | None = None
        self._commands: CommandDelivery | None = None
        self._twins: TwinRequests | None = None
        self._credentials: CredentialRequests | None = None
        self._annotate: Callable[[], bytes] | None = None
        self._topic = self._sender = self._head = b""
        self._partition = self._room = 0
        self._orderly = self._held = self._unread = False
        self._active = -inf

    @property
    def stranger(self) -> bool:
        """See ``heads.relief``."""
        return self._session is None

    # --- the transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._peer = describe_peer(transport)
        self._transport_name = "mqtt-ws" if transport.get_extra_info("websocket") else "mqtt"
        self._seen = self._time()
        self._interval = float(CONNECT_WAIT.open)
        self._timer = self._loop.call_later(self._interval, self._idle)

    def data_received(self, data: bytes) -> None:
        self._seen = self._time()
        if self._task is not None:  # the first read while it is judged is the last
            self._transport.pause_reading()
        try:
            packets = self._decoder.receive(data)
        except MqttError as error:
            self._serve(error.packets)
            if not self._transport.is_closing():
                self._broken(error)
            return
        self._serve(packets)

    def _serve(self, packets: list[Packet]) -> None:
        for packet in packets:
            if self._task is not None:
                self._early.append(packet)
            elif type(packet) is Publish and self._session is not None:
                if not self._publish(packet):
                    return
            else:
                self._other(packet)
                if self._transport.is_closing():
                    return
        if not self._held and self._services.telemetry.congested:
            self._held = True
            self._transport.pause_reading()
            self._services.telemetry.when_clear(self._clear)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        session = self._session
        if session is not None:
            self._services.sessions.close(session)
            if self._will is not None and not self._orderly:
                self._publish_will(self._will)
            log.debug("%s: disconnected (%s)", session.key, "in order" if self._orderly else exc or "connection lost")

    def pause_writing(self) -> None:
        self._unread = True
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._unread = False
        self._read_on()
        if self._commands is not None:
            self._commands.pull()

    def _clear(self) -> None:
        self._held = False
        self._seen = self._time()  # while it was not read it could not be heard
        self._read_on()

    def _read_on(self) -> None:
        """Read again, unless the disk, the client or the verdict still has to catch up."""
        if self._transport is not None and self._task is None and not (self._held or self._unread):
            self._transport.resume_reading()

    # --- CONNECT

    def _connect(self, packet: Connect) -> None:
        if not packet.client_id:
            self._transport.write(encoder.connack(False, CONNACK_IDENTIFIER))
            self._breach("client-id", "the device id, or device/module", "nothing")
            return
        self._decoder.max_packet_bytes = MQTT_PACKET_BYTES.open
        if self._decoder.unfinished:
            self._transport.pause_reading()
        self._task = self._loop.create_task(self._admit(packet))

    async def _admit(self, packet: Connect) -> None:
        if self._provisioning is not None and for_provisioning(self._hubs, packet):
            self._timer.cancel()
            self._provisioning().take_over(self._transport, self._decoder, packet, self._early)
            return
        part, expected = "user-name", "{host}/{deviceId}[/{moduleId}]/?api-version=..."
        try:
            login = parse_username(packet.username or "")
            part = ""
            self._services = self._hubs.find(login.host)
            verdict = await judge(self._services, packet, login, self._transport, self._transport_name)
            if self._transport is None or self._transport.is_closing():
                return
            if verdict.error is not None:
                self._refuse(verdict.error)
                return
            part, expected = "will", f"a will to the own telemetry topic, at most {MESSAGE_BYTES.open} bytes"
            self._open(packet, login, verdict)
            part = ""
            if self._session is not None:
                await self._welcome(self._session, clean=packet.clean_session)
        except HubError as error:
            if part:
                self._keep_breach(part, expected, error.message, error.row, packet.client_id)
            else:
                log.error("cannot decide on the connection from %s: %s", self._peer, error)
            self._refuse(error.row)
        except Exception:
            log.exception("cannot decide on the connection from %s", self._peer)
            self._transport.write(encoder.connack(False, CONNACK_UNAVAILABLE))
            self._transport.close()
        finally:
            self._task = None
        self._catch_up()

    def _refuse(self, error: ErrorRow) -> None:
        self._will = None
        self._transport.write(encoder.connack(False, error.mqtt))
        self._transport.close()

    def _open(self, packet: Connect, login: Login, verdict: Verdict) -> None:
        services, key = self._services, login.key
        self._append = services.telemetry.append
        identity = verdict.identity
        assert identity is not None
        self._key = key
        self._annotate = partial(
            sender_annotations,
            device_id=key.device_id,
            module_id=key.module_id,
            auth_method=verdict.auth_method,
            generation_id=identity.generation_id,
            model_id=login.model_id,
        )
        if packet.will is not None:
            will = packet.will
            self._will = Publish(will.topic.encode(), will.payload, min(will.qos, 1), 0, False, will.retain)
            self._will_record(self._will)
        self._session = services.sessions.open(verdict, self)
        if verdict.expires_at is not None:
            expired = partial(self._expired, by_token=bool(packet.password))
            self._expiry = services.ambient.at(verdict.expires_at, expired)
        self._interval = float(min(packet.keep_alive * 1.5 or MQTT_KEEP_ALIVE.open, MQTT_KEEP_ALIVE.open))
        self._timer.cancel()
        self._timer = self._loop.call_later(self._interval, self._idle)

    async def _welcome(self, session: Session, *, clean: bool) -> None:
        """CONNACK: what goes on of an earlier connection is known only now that no other may change it."""
        if session.claim is not None:
            await session.claim.granted()
        present = await self._services.subscriptions.resume(session, clean=clean)
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(encoder.connack(present, 0))
        if present:
            self._regrant()

    def _catch_up(self) -> None:
        """Serve what came while the verdict or the disk was waited for, and read on."""
        if self._transport is None or self._transport.is_closing():
            return
        early, self._early = self._early, []
        if early:
            self._serve(early)
        self._read_on()

    # --- PUBLISH: the hot path

    def _publish(self, packet: Publish) -> bool:
        """Hand the message to the log and note the PUBACK it is owed; ``False`` when it closed the connection."""
        topic, payload, qos, packet_id, _, retain = packet
        if topic != self._topic or retain:
            if topic.startswith(_REQUESTS):
                return self._request(packet)
            try:
                if topic.startswith(ANSWERS):
                    assert self._session is not None
                    mqtt_methods.take_answer(self._transport, self._services.methods, self._session, packet)
                    return True
                self._read_topic(topic, retain=retain)
            except HubError as error:
                expected = f"devices/{self._key.device_id}/messages/events/..."
                return self._breach("topic", expected, error.message, error.row)
        if len(payload) > self._room:
            expected = f"at most {MESSAGE_BYTES.open} bytes with properties"
            return self._breach("message-size", expected, f"{len(payload)} bytes of body", MESSAGE_TOO_LARGE)
        if qos == 2:
            return self._breach("qos", "QoS 0 or 1", "a PUBLISH of QoS 2")
        self._active = self._seen
        batch = self._append(self._partition, record(self._sender, self._head, payload))
        if qos:
            if batch is not self._batch:
                self._batch = batch
                self._acks = acks = bytearray()
                batch.when_durable(partial(self._durable, acks))
            self._acks += b"\x40\x02" + packet_id.to_bytes(2, "big")
        return True

    def _read_topic(self, topic: bytes, *, retain: bool = False, will: bool = False) -> None:
        """Make ``_head`` and ``_room`` those of ``topic``; kept, as a device's next message often has the same."""
        system, application = telemetry_properties(topic, self._key)
        if self._annotate is not None:  # the first message: many connections never send one
            self._partition = self._services.telemetry.partition_of(self._key.device_id)
            self._sender, self._annotate = self._annotate(), None
        if retain:
            application["mqtt-retain"] = "true"
        if will:
            application["iothub-MessageType"] = "Will"
        self._head = message_head(system, application)
        self._room = MESSAGE_BYTES.open - size_of(system, application, b"")
        self._topic = b"" if retain or will else topic

    def _durable(self, acks: bytearray, error: BaseException | None) -> None:
        if acks is self._acks:
            self._batch = None  # who now falls silent must not keep the messages of all
        if self._transport is None:
            return
        if error is None:
            self._transport.write(bytes(acks))
        else:
            self._transport.close()

    def _publish_will(self, will: Publish) -> None:
        try:
            self._append(self._partition, self._will_record(will))
        except HubError as error:
            log.warning("%s: its will is lost: %s", self._key, error.message)

    def _will_record(self, will: Publish) -> bytes:
        """The will as a stored message. Raises ``HubError`` when its topic is not this device's telemetry topic."""
        self._read_topic(will.topic, retain=will.retain, will=True)
        if len(will.payload) > self._room:
            raise HubError(MESSAGE_TOO_LARGE, "The will is over 256 KiB.")
        return record(self._sender, self._head, will.payload)

    # --- twins and certificates

    def _request(self, packet: Publish) -> bool:
        if packet.qos == 2:
            return self._breach("qos", "QoS 0 or 1", "a PUBLISH of QoS 2")
        twins = packet.topic.startswith(TWIN_TOPICS)
        try:
            if twins:
                self._twins = self._twins or TwinRequests(self._services, self._key, self, self._loop)
                self._twins.serve(packet)
            else:
                assert self._session is not None
                self._credentials = self._credentials or CredentialRequests(
                    self._services, self._session, self, self._loop
                )
                self._credentials.serve(packet)
        except HubError as error:
            if twins:
                return self._breach(
                    "twin-topic", "$iothub/twin/GET/ or PATCH/properties/reported/", error.message, error.row
                )
            return self._breach(
                "credential-topic", "$iothub/credentials/POST/issueCertificate/?$rid=...", error.message, error.row
            )
        return True

    # --- the other packets

    def _other(self, packet: Packet) -> None:
        if self._session is None:
            if isinstance(packet, Connect):
                self._connect(packet)
            else:
                self._breach("first-packet", "CONNECT", type(packet).__name__.upper())
        elif isinstance(packet, PingReq):
            self._transport.write(encoder.PINGRESP)
        elif isinstance(packet, Subscribe | Unsubscribe):
            self._subscribe(packet)
        elif isinstance(packet, Disconnect):
            self._orderly = True
            self._transport.close()
        elif isinstance(packet, Connect):
            self._breach("packet", "one CONNECT", "a second CONNECT")
        elif isinstance(packet, PubAck):
            self._puback(packet)
        else:
            self._breach("packet", "QoS 0 or 1", type(packet).__name__.upper())

    def _subscribe(self, packet: Subscribe | Unsubscribe) -> None:
        assert self._session is not None
        answer, kept = mqtt_subscriptions.change(self._services.subscriptions, self._session, packet)
        if kept is None:
            self._subscribed(answer)
        else:  # what the device has sent behind it may count on the answer
            self._transport.pause_reading()
            self._task = self._loop.create_task(self._when_kept(kept, answer))

    async def _when_kept(self, kept: asyncio.Future[None], answer: bytes) -> None:
        try:
            await asyncio.shield(kept)
        except HubError as error:
            log.error("%s: its subscriptions cannot be kept: %s", self._key, error)
            self._transport.close()
        self._task = None
        if not self._transport.is_closing():
            self._subscribed(answer)
            self._catch_up()

    def _subscribed(self, answer: bytes) -> None:
        self._transport.write(answer)
        self._regrant()

    # --- the end

    def _expired(self, *, by_token: bool) -> None:
        self._expiry = None
        if by_token:
            self._breach("token-expiry", "a token renewed in time", "the token has expired", DEVICE_UNAUTHORIZED)
        else:
            self._breach("certificate-end", "a certificate renewed in time", "it has expired", DEVICE_UNAUTHORIZED)

    def _idle(self) -> None:
        left = self._interval if self._held else self._seen + self._interval - self._time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._idle)
        elif self._session is None:
            self._breach("connect-wait", f"CONNECT within {CONNECT_WAIT.open} s", "nothing")
        else:
            expected, seen = f"a packet every {self._interval / 1.5:.0f} s", f"silence for {self._interval:.0f} s"
            self._breach("keep-alive", expected, seen)

    def _broken(self, error: MqttError) -> None:
        if error.connack is not None and self._session is None:
            self._transport.write(encoder.connack(False, error.connack))
        self._breach("packet", "valid MQTT 3.1.1", error.reason, ARGUMENT_INVALID)

    def _breach(self, name: str, expected: str, seen: str, row: ErrorRow = INVALID_OPERATION) -> Literal[False]:
        """Close because the client broke the rule ``name`` (``identity.causes.BREACHES``), and keep why."""
        self._keep_breach(name, expected, seen, row, "" if self._session is None else str(self._key))
        if self._transport is not None:
            self._transport.close()
        return False

    def _keep_breach(self, name: str, expected: str, seen: str, row: ErrorRow, principal: str) -> None:
        verdict = breach(
            self._services.ambient, name, row, transport=self._transport_name, peer=self._peer, expected=expected,
            seen=seen, principal=principal,
        )  # fmt: skip
        self._services.refusals.add(verdict)
