"""A hub on real sockets whose methods are called over REST and answered over MQTT, with a clock that tests move."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import aiohttp
from hub_rest import Answer, RestHub, serving
from mqtt_hub import MqttHub, mqtt_hub

from muster.events.model import Source
from muster.heads.http.app import build_app
from muster.heads.http.digital_twins import DigitalTwinOperations
from muster.heads.http.meters import MeterOperations
from muster.heads.http.methods import MethodOperations
from muster.heads.http.twins import TwinOperations
from muster.testing.mqtt import Answer as Packet
from muster.testing.mqtt import MqttClient, publish, subscribe

FILTER = "$iothub/methods/POST/#"


class MethodHub:
    """``rest`` calls, ``mqtt`` has the devices."""

    def __init__(self, mqtt: MqttHub, rest: RestHub) -> None:
        self.mqtt, self.rest, self.ambient = mqtt, rest, mqtt.ambient

    async def device(self, device_id: str = "d", module_id: str | None = None, **options: Any) -> MqttClient:
        """A device that takes methods."""
        client = await self.mqtt.device(device_id, module_id, **options)
        await take(client)
        return client

    async def call(self, body: Any = None, path: str = "/twins/d/methods", **options: Any) -> Answer:
        """One call; ``{"methodName": "m"}`` unless ``body`` says otherwise."""
        return await self.rest.call("POST", path, {"methodName": "m"} if body is None else body, **options)

    def begin(self, body: Any = None, path: str = "/twins/d/methods") -> asyncio.Task[Answer]:
        """A call whose answer is looked at later."""
        return asyncio.create_task(self.call(body, path))

    def begin_rest(self, method: str, path: str, body: Any = None, **options: Any) -> asyncio.Task[Answer]:
        """Any call whose answer is looked at later."""
        return asyncio.create_task(self.rest.call(method, path, body, **options))

    async def waiting(self, count: int = 1) -> None:
        """Once so many calls are in flight."""
        await self.mqtt.settled(lambda: self.mqtt.methods.in_flight == count)


async def take(client: MqttClient, name: str = FILTER) -> None:
    await client.send(subscribe(9, [(name, 0)]))
    assert (await client.expect("SUBACK")).body[2:] == b"\x00"


def request_of(packet: Packet) -> tuple[str, str, bytes]:
    """Method name, request id and payload of a request that came."""
    assert (packet.kind, packet.flags) == ("PUBLISH", 0), "QoS 0, not retained"
    size = int.from_bytes(packet.body[:2], "big")
    topic = packet.body[2 : 2 + size].decode()
    head, _, request_id = topic.partition("/?$rid=")
    assert head.startswith("$iothub/methods/POST/")
    assert not set(request_id) & set("&/%")
    return head.removeprefix("$iothub/methods/POST/"), request_id, packet.body[2 + size :]


async def expect_request(client: MqttClient) -> tuple[str, str, bytes]:
    return request_of(await client.expect("PUBLISH"))


def answer_packet(request_id: str, status: int | str = 200, payload: bytes = b"null", **options: Any) -> bytes:
    options = {"qos": 0, **options}
    return publish(f"$iothub/methods/res/{status}/?$rid={request_id}", payload, **options)


def refusal(answer: Answer) -> tuple[int, int, dict[str, Any]]:
    """HTTP status, error code and what else shape B says; the header must agree."""
    assert answer.json["ExceptionMessage"] == ""
    told = json.loads(answer.json["Message"])
    assert set(told) == {"errorCode", "trackingId", "message", "info", "timestampUtc"}
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert told["errorCode"] // 1000 == answer.status
    return answer.status, told["errorCode"], {**told, "name": answer.headers["iothub-errorcode"]}


@contextlib.asynccontextmanager
async def method_hub(directory: Path, events: Collection[Source] = (), **limits: Any) -> AsyncIterator[MethodHub]:
    """``limits``: ``plan`` and ``quota`` of ``mqtt_hub``."""
    async with (
        mqtt_hub(directory, events, **limits) as mqtt,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        operations = MethodOperations(mqtt.methods, mqtt.ambient)
        more = [
            *TwinOperations(mqtt.registry, mqtt.twins).table(),
            *operations.table(),
            *MeterOperations(mqtt.meters).table(),
            *DigitalTwinOperations(mqtt.twins, mqtt.methods, operations).table(),
        ]
        app = build_app(
            registry=mqtt.registry, gate=mqtt.authenticator, ambient=mqtt.ambient, ready=lambda: True, more=more,
            meters=mqtt.meters,
        )  # fmt: skip
        async with serving(app, mqtt.ambient) as port:
            try:
                yield MethodHub(mqtt, RestHub(port, session, mqtt.registry, mqtt.refusals))
            finally:
                mqtt.methods.close()
                mqtt.close_clients()
                await session.close()
