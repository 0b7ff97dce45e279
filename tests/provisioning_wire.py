"""Devices that register over MQTT and AMQP, which say exactly what they are told to; see ``provisioning_client``."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from muster.testing.mqtt import DISCONNECT, MqttClient, publish, subscribe
from muster.wire.amqp.message import NO_VALUE, Message, Properties, decode_message, encode_message
from muster.wire.amqp.performatives import Accepted, Attach, Disposition, Transfer
from muster.wire.amqp.sasl import SaslInit
from muster.wire.amqp.values import Symbol
from tests.behaviour.amqp_client import AmqpClient
from tests.certificate_maker import Pair
from tests.provisioning_client import PATIENCE, Provisioning

RESPONSES = "$dps/registrations/res/#"
TOPIC = re.compile(r"\$dps/registrations/res/(\d{3})/\?\$rid=([^&]+)(?:&retry-after=(\d+))?")


class Heard(NamedTuple):
    """An answer: its status, the pause that it names (0: none), its JSON."""

    status: int
    retry_after: int
    body: Any


class MqttRegistrant:
    """A device on MQTT; ``open`` connects and subscribes."""

    def __init__(self, client: MqttClient) -> None:
        self.client = client
        self._asked = 0

    @classmethod
    async def open(
        cls, dps: Provisioning, name: str, token: str | None = None, *, chain: Sequence[Pair] = (),
        scope: str | None = None, **options: Any,
    ) -> Self:  # fmt: skip
        client = await MqttClient.open(dps.hub.address, dps.hub.port("mqtt"), dps.context(chain))
        user = f"{scope or dps.scope}/registrations/{name}/api-version=2019-03-31&ClientVersion=a%20test"
        assert await client.connect(name, user, token, **options) == (False, 0)
        await client.send(subscribe(1, [(RESPONSES, 2)]))
        assert (await client.expect("SUBACK")).body == b"\x00\x01\x01", "QoS 2 is granted as 1"
        return cls(client)

    async def ask(self, topic: str, body: bytes = b"", *, qos: int = 1) -> Heard:
        """Ask at ``topic``, whose ``{rid}`` is filled in."""
        self._asked += 1
        rid = f"rid-{self._asked}"
        await self.client.send(publish(topic.format(rid=rid), body, qos=qos, packet_id=self._asked))
        if qos:
            assert (await self.client.expect("PUBACK")).packet_id == self._asked, "before the answer (C#)"
        answer = await self.client.expect("PUBLISH")
        assert answer.flags == 0x02
        length = int.from_bytes(answer.body[:2])
        found = TOPIC.fullmatch(answer.body[2 : 2 + length].decode())
        assert found is not None
        assert found[2] == rid
        assert answer.body.isascii(), "Node reads ASCII"
        return Heard(int(found[1]), int(found[3] or 0), json.loads(answer.body[4 + length :]))

    async def register(self, body: bytes = b"", **options: Any) -> Heard:
        return await self.ask("$dps/registrations/PUT/iotdps-register/?$rid={rid}", body, **options)

    async def status(self, operation: str, body: bytes = b" ") -> Heard:
        topic = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid={rid}"
        return await self.ask(f"{topic}&operationId={operation}", body)

    async def provision(self, body: bytes = b"") -> dict[str, Any]:
        """Register and poll to the end; the registration's state."""
        heard = await self.register(body)
        assert (heard.status, heard.body["status"]) == (202, "assigning"), heard
        operation, deadline = heard.body["operationId"], time.monotonic() + PATIENCE
        while heard.status == 202:
            assert heard.retry_after == 2
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
            heard = await self.status(operation)
        assert (heard.status, heard.retry_after) == (200, 0), heard
        state: dict[str, Any] = heard.body["registrationState"]
        return state

    async def close(self) -> None:
        await self.client.send(DISCONNECT)
        assert await self.client.expect_end() == b""
        await self.client.close()


class AmqpRegistrant:
    """A device on AMQP with its two links."""

    def __init__(
        self, dps: Provisioning, name: str, token: str | None = None, *, chain: Sequence[Pair] = (),
        address: str | None = None, scope: str | None = None, sasl: SaslInit | None = None,
    ) -> None:  # fmt: skip
        """Without ``token`` and ``sasl`` there is no SASL layer. ``address`` may spell the node differently."""
        path = f"{scope or dps.scope}/registrations/{name}"
        if token is not None:
            sasl = SaslInit("PLAIN", f"\0{path}\0{token}".encode())
        self.client = AmqpClient(
            dps.hub.port("amqp"), sasl=sasl, host=dps.hub.address, hostname=dps.hub.address, context=dps.context(chain)
        )
        properties = {Symbol("com.microsoft:api-version"): "2019-03-31"}
        hears = self.client.attach(source=address or path, properties=properties)
        self._asks = self.client.attach(target=address or path, properties=properties)
        self.client.wait_for(Attach)
        self.client.wait_for(Attach)
        self.client.credit(hears, 100)
        self._asked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.socket.close()

    def ask(self, properties: dict[str, Any] | None, body: bytes = b"", *, value: Any = NO_VALUE) -> Heard:
        """Send a request; its answer, or of a refusal what its description says."""
        correlation = f"request-{self._asked}"
        data = (body,) if value is NO_VALUE else ()
        message = Message(
            properties=Properties(correlation_id=correlation), application_properties=properties, data=data, value=value
        )
        self.client.send(Transfer(self._asks, self._asked, bytes((self._asked,)), 0, False), encode_message(message))
        self._asked += 1
        outcome = self.client.wait_for(Disposition).body.state
        if not isinstance(outcome, Accepted):
            info = {str(name): value for name, value in (outcome.error.info or {}).items()}
            body = json.loads(outcome.error.description)
            return Heard(body["errorCode"] // 1000, info.get("retry-after", 0), body)
        answer = decode_message(self.client.wait_for(Transfer).payload)
        assert answer.properties is not None
        assert answer.properties.correlation_id == correlation
        told = answer.application_properties or {}
        assert told.get("retry-after") == told.get("Retry-After")
        later = told.get("retry-after", 0)
        return Heard(202 if later else 200, later, json.loads(answer.body))

    def register(self, body: bytes = b"", **options: Any) -> Heard:
        return self.ask(
            {"iotdps-operation-type": "iotdps-register", "iotdps-forceRegistration": False}, body, **options
        )

    def status(self, operation: str, **options: Any) -> Heard:
        named = {"iotdps-operation-type": "iotdps-get-operationstatus", "iotdps-operation-id": operation}
        return self.ask(named, **options)

    def provision(self, body: bytes = b"") -> dict[str, Any]:
        """Register and poll to the end; the registration's state."""
        heard = self.register(body)
        assert (heard.status, heard.body["status"]) == (202, "assigning"), heard
        operation, deadline = heard.body["operationId"], time.monotonic() + PATIENCE
        while heard.retry_after:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            heard = self.status(operation, value="")
        state: dict[str, Any] = heard.body["registrationState"]
        return state
