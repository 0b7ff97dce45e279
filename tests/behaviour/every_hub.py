"""A hub that all five transports reach on real TLS sockets, with a clock that tests move."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from command_hub import CommandHub, command_hub
from device_on_amqp import AMQP, AMQP_WS
from device_on_https import HTTPS
from device_on_mqtt import MQTT, MQTT_WS
from hub_rest import API, POLICIES, Answer, token
from mqtt_hub import MqttHub, device_services, listening
from transports import Ability, DeviceClient, Login, Place, RefusedError, Transport

from muster.heads.front import FrontProtocol
from muster.heads.http.app import build_app
from muster.heads.http.connection import HttpServer
from muster.heads.http.device_messages import DeviceMessageOperations
from muster.heads.http.methods import MethodOperations
from muster.heads.hubs import HubDirectory
from muster.heads.mqtt_kinds import connection_maker
from muster.heads.tls import server_context
from muster.identity.model import Identity, IdentityKey
from muster.identity.sas import make

TRANSPORTS = (MQTT, MQTT_WS, AMQP, AMQP_WS, HTTPS)


def key_of(name: str) -> IdentityKey:
    device_id, _, module_id = name.partition("/")
    return IdentityKey(device_id, module_id or None)


class EveryHub:
    """``commands`` has the services, ``mqtt`` the parts. Identities are registered on first use."""

    def __init__(self, commands: CommandHub, place: Place, session: aiohttp.ClientSession) -> None:
        self.commands, self.mqtt, self.place = commands, commands.mqtt, place
        self.ambient, self.registry, self.twins = self.mqtt.ambient, self.mqtt.registry, self.mqtt.twins
        self._session = session
        self._devices: list[DeviceClient] = []

    # --- devices

    async def identity(self, name: str = "d") -> Identity:
        key = key_of(name)
        if key.module_id is not None:
            await self.mqtt.key(key.device_id)
        await self.mqtt.key(*key)
        return await self.registry.get(key)

    async def token(self, name: str = "d", seconds: float = 3600, *, secondary: bool = False, host: str = "") -> str:
        held = (await self.identity(name)).authentication
        key = base64.b64decode((held.secondary_key if secondary else held.primary_key) or "")
        resource = f"{host or 'localhost'}/devices/{name.replace('/', '/modules/')}"
        return make(resource, int(self.ambient.now() + seconds), key)

    def policy_token(self, policy: str = "device") -> str:
        key = base64.b64decode(POLICIES[policy].primary_key)
        return make("localhost", int(self.ambient.now()) + 3600, key, policy)

    async def login(self, name: str = "d", **changes: Any) -> Login:
        """Who the identity is, with a token of its own; ``changes`` stand in the place of that."""
        if "token" not in changes:
            changes["token"] = await self.token(name)
        return Login(**{"name": name, "context": self.mqtt.client_trust, **changes})

    async def connect(self, transport: Transport, name: str = "d", **changes: Any) -> DeviceClient:
        device: DeviceClient = await transport.connect(self.place, await self.login(name, **changes))
        self._devices.append(device)
        return device

    async def refused(self, transport: Transport, name: str = "d", **changes: Any) -> tuple[str, str]:
        """How the wire refuses this login, and the cause that is kept."""
        try:
            await (await self.connect(transport, name, **changes)).send(b"must not be stored")
        except RefusedError as refusal:
            return str(refusal), await self.mqtt.last_cause()
        raise AssertionError("it was let in")

    # --- what became of it

    async def stored(self, device_id: str = "d") -> list[dict[str, Any]]:
        return await self.mqtt.messages(device_id)

    async def bodies(self, device_id: str = "d") -> list[str]:
        return [message["body"] for message in await self.stored(device_id)]

    def connected(self, name: str = "d") -> bool:
        return self.mqtt.sessions.is_connected(key_of(name))

    async def gone(self, name: str = "d") -> None:
        """Once the identity has no session."""
        await self.mqtt.settled(lambda: not self.connected(name))

    async def let_go(self, transport: Transport, device: DeviceClient) -> None:
        """Cut the device off, and wait until what it had in hand has gone back: without a session, when the lock
        lapses."""
        await device.cut()
        if transport.can(Ability.SESSION):
            await self.gone()
        else:
            await self.commands.advance(60)

    async def as_service(self, method: str, path: str, body: Any = None) -> Answer:
        url = f"https://{self.place.host}:{self.place.https}{path}?{API}"
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": token(), "Content-Type": "application/json"}
        async with self._session.request(
            method, url, data=data, headers=headers, ssl=self.mqtt.client_trust
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    def begin_call(self, name: str = "d", **more: Any) -> asyncio.Task[Answer]:
        """A service calls a method; its answer is looked at later."""
        path = f"/twins/{name.replace('/', '/modules/')}/methods"
        return asyncio.create_task(self.as_service("POST", path, {"methodName": "reboot", **more}))

    async def told_of(self, name: str = "d") -> tuple[str, int]:
        """Connection state in the registry, and how many devices ``/statistics`` counts as connected."""
        identity = await self.as_service("GET", f"/devices/{name.replace('/', '/modules/')}")
        counts = await self.as_service("GET", "/statistics/service")
        return identity.json["connectionState"], counts.json["connectedDeviceCount"]

    async def tells_of(self, state: str, count: int) -> None:
        """Once ``told_of`` says so: several nodes count who is connected every second."""
        async with asyncio.timeout(10):
            while await self.told_of() != (state, count):
                self.ambient.advance(1)
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        for device in self._devices:
            await device.cut()


def _front(mqtt: MqttHub, http: HttpServer) -> Any:
    make_mqtt = connection_maker(HubDirectory(device_services(mqtt)), http.loop)
    return partial(FrontProtocol, http.loop, make_mqtt, mqtt.amqp, http)


@contextlib.asynccontextmanager
async def every_hub(directory: Path) -> AsyncIterator[EveryHub]:
    async with command_hub(directory) as commands, aiohttp.ClientSession() as session:
        mqtt = commands.mqtt
        messages, methods = DeviceMessageOperations(device_services(mqtt)), MethodOperations(mqtt.methods, mqtt.ambient)
        app = build_app(
            registry=mqtt.registry, gate=mqtt.authenticator, ambient=mqtt.ambient, ready=lambda: True,
            more=[*messages.table(), *methods.table()], meters=mqtt.meters,
        )  # fmt: skip
        http = HttpServer(app, mqtt.ambient.now)
        context = server_context(str(directory / "chain"), str(directory / "key"))
        front, https_port = listening(context, _front(mqtt, http))
        amqp, amqp_port = listening(context, mqtt.amqp)
        hub = EveryHub(commands, Place("localhost", mqtt.port, amqp_port, https_port), session)
        try:
            yield hub
        finally:
            await hub.close()
            for listener in (front, amqp):
                listener.stop_accepting()
                listener.abort_connections()
            await http.close()
            mqtt.methods.close()
