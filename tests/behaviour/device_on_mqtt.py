"""A device on MQTT, with or without a WebSocket around it; see ``transports.DeviceClient``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any, cast
from urllib.parse import quote

import aiohttp
from command_hub import Got as Published
from transports import Ability, Asked, Got, Login, Place, RefusedError, Transport

from muster.testing.mqtt import DISCONNECT, Answer, MqttClient, puback, publish, subscribe

TWIN, DESIRED = "$iothub/twin/", "$iothub/twin/PATCH/properties/desired/"
METHODS = "$iothub/methods/"


class MqttDevice:
    """What comes is kept until somebody asks for it."""

    def __init__(self, client: MqttClient, login: Login) -> None:
        self._client, self._login = client, login
        self._kept: list[Answer] = []
        self._numbers = count(1)

    async def _next(self, kind: str, topic: str = "") -> Answer:
        """The oldest packet of ``kind``, with a topic that begins so."""

        def wanted(packet: Answer) -> bool:
            return packet.kind == kind and (kind != "PUBLISH" or topic_of(packet).startswith(topic))

        while not (found := [packet for packet in self._kept if wanted(packet)]):
            self._kept.append(await self._client.receive())
        self._kept.remove(found[0])
        return found[0]

    async def _subscribe(self, *filters: str, qos: int = 0) -> None:
        await self._client.send(subscribe(next(self._numbers), [(name, qos) for name in filters]))
        await self._next("SUBACK")

    async def send(self, body: bytes, message_id: str | None = None, **properties: str) -> None:
        pairs = {"$.mid": message_id} if message_id is not None else {}
        bag = "&".join([f"{quote(name)}={quote(value)}" for name, value in {**pairs, **properties}.items()])
        topic = self._login.path(f"messages/events/{bag}")
        await self._client.send(publish(topic, body, packet_id=next(self._numbers)))
        await self._next("PUBACK")

    async def send_many(self, bodies: Sequence[bytes]) -> None:
        topic = self._login.path("messages/events/")
        await self._client.send(*[publish(topic, body, packet_id=next(self._numbers)) for body in bodies])
        for _ in bodies:
            await self._next("PUBACK")

    async def take_commands(self) -> None:
        await self._subscribe(self._login.path("messages/devicebound/#"), qos=1)

    async def command(self) -> Got:
        one = Published(await self._next("PUBLISH", "devices/"))
        given = {name: value or "" for name, value in one.properties.items() if not name.startswith("$.")}
        given.pop("iothub-ack", None)
        return Got(one.body, one.properties.get("$.mid") or "", given, one.packet_id)

    async def complete(self, got: Got) -> None:
        await self._client.send(puback(got.handle))

    async def take_twin(self) -> None:
        await self._subscribe("$iothub/twin/res/#", f"{DESIRED}#")

    async def _ask(self, topic: str, body: bytes = b"") -> tuple[str, bytes]:
        await self._client.send(publish(f"{topic}?$rid={next(self._numbers)}", body, qos=0))
        packet = await self._next("PUBLISH", f"{TWIN}res/")
        return topic_of(packet).removeprefix(f"{TWIN}res/"), payload_of(packet)

    async def twin(self) -> dict[str, Any]:
        said, body = await self._ask(f"{TWIN}GET/")
        assert said.startswith("200/")
        return cast("dict[str, Any]", json.loads(body))

    async def report(self, patch: Mapping[str, Any]) -> int:
        said, _ = await self._ask(f"{TWIN}PATCH/properties/reported/", json.dumps(patch).encode())
        if not said.startswith("204/"):
            raise RefusedError(said.partition("/")[0])
        return int(said.partition("$version=")[2])

    async def desired(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(payload_of(await self._next("PUBLISH", DESIRED))))

    async def take_methods(self) -> None:
        await self._subscribe(f"{METHODS}POST/#")

    async def asked(self) -> Asked:
        packet = await self._next("PUBLISH", METHODS)
        name, _, number = topic_of(packet).removeprefix(f"{METHODS}POST/").partition("/?$rid=")
        return Asked(name, payload_of(packet), number)

    async def answer(self, asked: Asked, status: int, payload: bytes) -> None:
        await self._client.send(publish(f"{METHODS}res/{status}/?$rid={asked.handle}", payload, qos=0))

    async def ended(self) -> str:
        return (await self._client.expect_end()).decode()

    async def cut(self) -> None:
        self._client.abort()
        await self._client.expect_end()

    async def close(self) -> None:
        await self._client.send(DISCONNECT)
        await self._client.expect_end()


def topic_of(packet: Answer) -> str:
    return packet.body[2 : 2 + int.from_bytes(packet.body[:2], "big")].decode()


def payload_of(packet: Answer) -> bytes:
    """The payload of a PUBLISH of QoS 0."""
    assert packet.flags == 0
    return packet.body[2 + int.from_bytes(packet.body[:2], "big") :]


class WebSocketWriter:
    """As much of a ``StreamWriter`` as ``MqttClient`` needs, over a WebSocket; what comes is fed to ``reader``."""

    def __init__(self, session: aiohttp.ClientSession, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.reader, self.transport = asyncio.StreamReader(), self
        self._session, self._connection = session, connection
        self._unsent = bytearray()
        self._pump = asyncio.create_task(self._feed())

    async def _feed(self) -> None:
        async for message in self._connection:
            assert message.type is aiohttp.WSMsgType.BINARY
            self.reader.feed_data(message.data)
        await self._session.close()
        self.reader.feed_eof()

    def write(self, data: bytes) -> None:
        self._unsent += data

    async def drain(self) -> None:
        data, self._unsent = bytes(self._unsent), bytearray()
        await self._connection.send_bytes(data)

    def abort(self) -> None:
        """Break the connection below, without a close frame."""
        below = self._connection.get_extra_info("socket")
        if below is not None and below.fileno() >= 0:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(below.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


async def _plain(place: Place, login: Login) -> MqttClient:
    return await MqttClient.open(place.host, place.mqtt, login.context)


async def _websocket(place: Place, login: Login) -> MqttClient:
    session = aiohttp.ClientSession()
    url = f"wss://{place.host}:{place.https}/$iothub/websocket"
    writer = WebSocketWriter(session, await session.ws_connect(url, protocols=["mqtt"], ssl=login.context))
    return MqttClient(writer.reader, cast("asyncio.StreamWriter", writer))


async def _connect(dial: Callable[[Place, Login], Any], place: Place, login: Login) -> MqttDevice:
    client = await dial(place, login)
    user = f"{login.host}/{login.name}/?api-version=2021-04-12"
    _, code = await client.connect(login.name, user, login.token)
    if code != 0:
        assert await client.expect_end() == b""
        client.abort()
        raise RefusedError(f"CONNACK {code}")
    return MqttDevice(client, login)


LACKS = frozenset({Ability.RENEWAL, Ability.REFUSES_MESSAGES, Ability.GIVES_BACK})
MQTT = Transport("mqtt", "mqtt", LACKS, partial(_connect, _plain))
MQTT_WS = Transport("mqtt-ws", "mqtt", LACKS, partial(_connect, _websocket))
