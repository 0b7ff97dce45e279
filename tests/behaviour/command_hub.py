"""A hub on real sockets: commands sent over AMQP and REST, received over MQTT, with a clock that tests move."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import unquote

import aiohttp
from amqp_client import AmqpClient
from hub_rest import POLICIES, Answer, RestHub, serving
from mqtt_hub import MqttHub, mqtt_hub

from muster.heads.http.app import build_app
from muster.heads.http.twins import TwinOperations
from muster.messages.queue import Settlement
from muster.messages.queues import taken
from muster.testing.mqtt import Answer as Packet
from muster.testing.mqtt import MqttClient, puback, subscribe
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import Attach, Disposition, Transfer

P = ParamSpec("P")
T = TypeVar("T")

TTL, LOCK, GATHER = 3600, 60, 15
DEVICEBOUND, FEEDBACK = "/messages/devicebound", "/messages/serviceBound/feedback"


async def aside(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """``call`` in a thread: the raw AMQP client blocks."""
    return await asyncio.to_thread(call, *arguments, **named)


class Service(AmqpClient):
    """A service on AMQP. Its methods block."""

    def __init__(self, port: int, now: float, *, policy: str = "service", **options: Any) -> None:
        super().__init__(port, **options)
        self._deliveries = 0
        self.granted = 0
        if policy:
            reply = self.put_token(POLICIES[policy].primary_key, policy=policy, audience="localhost", now=now)
            self.granted = (reply.application_properties or {})["status-code"]

    def sender(self, address: str = DEVICEBOUND, **fields: Any) -> int:
        """An attached sender link."""
        handle = self.attach(target=address, **fields)
        self.wait_for(Attach)
        return handle

    def post(self, link: int, message: Message | bytes, *, settled: bool = False) -> int:
        """Send without waiting; the delivery id."""
        self._deliveries += 1
        number = self._deliveries
        payload = message if isinstance(message, bytes) else encode_message(message)
        step = 60_000
        for start in range(0, max(len(payload), 1), step):
            more = start + step < len(payload)
            self.send(Transfer(link, number, b"%d" % number, 0, settled, more), payload[start : start + step])
        return number

    def send_message(self, link: int, message: Message | bytes) -> Any:
        """Send and wait; the outcome."""
        self.post(link, message)
        came: Disposition = self.wait_for(Disposition).body
        assert came.settled
        return came.state

    def send_command(self, body: bytes = b"x", device: str = "d", **named: Any) -> Any:
        """Send one command on a link of its own; the outcome."""
        return self.send_message(self.sender(), command(body, device, **named))

    def receiver(self, address: str = FEEDBACK, credit: int = 10, **fields: Any) -> int:
        """An attached receiver link with credit."""
        handle = self.attach(source=address, **fields)
        self.wait_for(Attach)
        if credit:
            self.credit(handle, credit)
        return handle

    def transfer(self) -> tuple[Transfer, Message]:
        """The next message, and how it came."""
        message = self.messages(1)[0]
        transfer = next(came.body for came in reversed(self.came) if isinstance(came.body, Transfer))
        return transfer, message

    def dispose(self, delivery_id: int, state: Any, *, settled: bool = True) -> None:
        """Say what became of a delivery."""
        self.send(Disposition(True, delivery_id, None, settled, state))


def command(
    body: bytes = b"x", device: str = "d", *, to: Any = None, application: dict[Any, Any] | None = None, **fields: Any
) -> Message:
    """A message to a device. ``fields`` are those of its properties section."""
    address = f"/devices/{device}/messages/devicebound" if to is None else to
    return Message(
        properties=Properties(to=address or None, **fields), application_properties=application, data=(body,)
    )


class CommandHub:
    """``mqtt`` has the devices, ``rest`` calls, ``service`` connects over plain AMQP."""

    def __init__(self, mqtt: MqttHub, rest: RestHub, port: int) -> None:
        self.mqtt, self.rest, self.ambient, self.port = mqtt, rest, mqtt.ambient, port
        self.commands, self.queues = mqtt.messaging.commands, mqtt.queues
        self._services: list[Service] = []

    async def service(self, **options: Any) -> Service:
        made = await aside(Service, self.port, self.ambient.now(), **options)
        self._services.append(made)
        return made

    async def send(self, *bodies: bytes, device: str = "d", **named: Any) -> None:
        """Register the device if need be, and send it commands over one link."""
        await self.mqtt.key(*device.partition("/")[::2]) if "/" in device else await self.mqtt.key(device)
        service = await self.service()
        link = await aside(service.sender)
        to = f"/devices/{device.replace('/', '/modules/')}/messages/devicebound"
        for body in bodies:
            outcome = await aside(service.send_message, link, command(body, to=to, **named))
            assert type(outcome).__name__ == "Accepted", outcome
        service.socket.close()

    async def device(
        self, device_id: str = "d", module_id: str | None = None, qos: int = 1, **options: Any
    ) -> MqttClient:
        """A device that takes commands."""
        client = await self.mqtt.device(device_id, module_id, **options)
        await take_commands(client, device_id, module_id, qos)
        return client

    async def depth(self, queue: str = "d") -> int:
        return await self.mqtt.depth(queue)

    async def queued(self, depth: int, queue: str = "d") -> None:
        await self.mqtt.queued(depth, queue)

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.mqtt.settled(condition)

    async def emptied(self, device: str = "d") -> None:
        """Once nothing is in the queue."""
        await self.queued(0, device)

    async def advance(self, seconds: float) -> None:
        await self.mqtt.advance(seconds)

    async def feedback(self) -> list[dict[str, Any]]:
        """All records that are there now or within the time of gathering, taken from the queue."""
        await self.advance(GATHER)
        records: list[dict[str, Any]] = []
        for one in taken(await self.queues.take("/feedback", 99)):
            records += json.loads(one.body)
            await self.queues.settle("/feedback", one.token, Settlement.COMPLETE)
        return records

    async def statuses(self) -> list[tuple[str, str]]:
        """Message id and status of each record of ``feedback``."""
        return [(record["originalMessageId"], record["statusCode"]) for record in await self.feedback()]

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        return await self.rest.call(method, path, **options)


async def take_commands(client: MqttClient, device_id: str = "d", module_id: str | None = None, qos: int = 1) -> None:
    module = "" if module_id is None else f"/modules/{module_id}"
    await client.send(subscribe(9, [(f"devices/{device_id}{module}/messages/devicebound/#", qos)]))
    assert (await client.expect("SUBACK")).body[2:] == bytes((qos,))


class Got:
    """A command as a device got it."""

    def __init__(self, packet: Packet) -> None:
        assert packet.kind == "PUBLISH", packet
        assert not packet.flags & 1, "never retained"
        self.qos, self.dup = packet.flags >> 1 & 3, bool(packet.flags & 8)
        size = int.from_bytes(packet.body[:2])
        self.topic, rest = packet.body[2 : 2 + size].decode(), packet.body[2 + size :]
        self.packet_id = int.from_bytes(rest[:2]) if self.qos else 0
        self.body = rest[2:] if self.qos else rest
        self.bag = self.topic.partition("/messages/devicebound/")[2]
        pairs = [item.partition("=") for item in self.bag.split("&")]
        self.properties = {unquote(key): unquote(value) if equals else None for key, equals, value in pairs}


async def got(client: MqttClient) -> Got:
    return Got(await client.expect("PUBLISH"))


async def got_and_acknowledged(client: MqttClient) -> Got:
    one = await got(client)
    await client.send(puback(one.packet_id))
    return one


async def complete(hub: CommandHub, *ids: str, device: str = "d") -> None:
    """Commands with these message ids that a device has completed, with full feedback."""
    for name in ids:
        await hub.send(b"", device=device, message_id=name, application={"iothub-ack": "full"})
        await settle(hub, Settlement.COMPLETE, device)


async def settle(hub: CommandHub, how: Settlement, device: str = "d") -> None:
    """Take the oldest command as a device that is not on MQTT would, and settle it."""
    (one,) = await hub.queues.take(device, 1)
    assert one.after.lock is not None  # type: ignore[union-attr]
    await hub.queues.settle(device, one.after.lock.token, how)  # type: ignore[union-attr]


async def gathered(hub: CommandHub, *ids: str) -> None:
    """A feedback message for each id."""
    for name in ids:
        await complete(hub, name)
        await hub.advance(GATHER)


@contextlib.asynccontextmanager
async def command_hub(directory: Path, **limits: Any) -> AsyncIterator[CommandHub]:
    """``limits``: ``plan`` and ``quota`` of ``mqtt_hub``."""
    async with (
        mqtt_hub(directory, **limits) as mqtt,
        aiohttp.ClientSession() as session,
        contextlib.AsyncExitStack() as stack,
    ):
        app = build_app(
            registry=mqtt.registry, gate=mqtt.authenticator, ambient=mqtt.ambient, ready=lambda: True,
            more=[*mqtt.messaging.operations, *TwinOperations(mqtt.registry, mqtt.twins).table()],
        )  # fmt: skip
        rest_port = await stack.enter_async_context(serving(app, mqtt.ambient))
        server = await asyncio.get_running_loop().create_server(mqtt.amqp, "127.0.0.1", 0)
        rest = RestHub(rest_port, session, mqtt.registry, mqtt.refusals)
        hub = CommandHub(mqtt, rest, server.sockets[0].getsockname()[1])
        try:
            yield hub
        finally:
            for service in hub._services:
                service.socket.close()
            server.close()
            for connection in tuple(mqtt.amqp.connections):
                connection.transport.abort()
            mqtt.close_clients()
            await session.close()
