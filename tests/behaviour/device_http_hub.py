"""A hub on real TLS sockets whose devices speak HTTPS and MQTT, with a clock that tests move."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from hub_rest import Answer, token
from mqtt_hub import MqttHub, device_services, listening, mqtt_hub
from yarl import URL

from muster.core.limits import Profile
from muster.core.throttles import Plan, Quota
from muster.dialect.device_http import APPLICATION
from muster.heads.front import FrontProtocol
from muster.heads.http.app import build_app
from muster.heads.http.connection import HttpServer
from muster.heads.http.device_messages import DeviceMessageOperations
from muster.heads.http.methods import MethodOperations
from muster.heads.http.operations import Operation
from muster.heads.tls import server_context
from muster.identity.model import IdentityKey
from muster.messages.commands import Command

API = "api-version=2021-04-12"
BATCH = "application/vnd.microsoft.iothub.json"
EVENTS, BOUND = "/devices/d/messages/events", "/devices/d/messages/deviceBound"


class DeviceHttpHub:
    """``mqtt`` has the rest of the hub. Devices are registered on first use."""

    def __init__(self, mqtt: MqttHub, port: int, http: HttpServer) -> None:
        self.mqtt, self.port, self.http = mqtt, port, http
        self.ambient, self.registry, self.refusals = mqtt.ambient, mqtt.registry, mqtt.refusals
        self.commands = mqtt.messaging.commands
        self.trust = ssl.create_default_context(cafile=str(mqtt.ca_file))
        self.session: aiohttp.ClientSession

    async def call(self, method: str, path: str, data: Any = None, query: str = API, **headers: str) -> Answer:
        """One request; ``path`` and ``query`` stand as they are. In names of headers ``_`` means ``-``,
        but not in those of application properties."""
        url = URL(f"https://localhost:{self.port}{path}{'?' + query if query else ''}", encoded=True)
        given = {name if APPLICATION in name else name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, url, data=data, headers=given, skip_auto_headers=("Content-Type",), ssl=self.trust
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def token(self, device_id: str = "d", module_id: str | None = None) -> str:
        return await self.mqtt.token(device_id, module_id)

    async def send(self, data: Any = b"x", path: str = EVENTS, **headers: str) -> Answer:
        return await self.call("POST", path, data, Authorization=await self.token(), **headers)

    async def send_batch(self, messages: Any, **headers: str) -> Answer:
        data = messages if isinstance(messages, bytes) else json.dumps(messages).encode()
        return await self.send(data, **{"Content_Type": BATCH, **headers})

    async def receive(self, query: str = API, **headers: str) -> Answer:
        return await self.call("GET", BOUND, query=query, Authorization=await self.token(), **headers)

    async def settle(self, lock: str, method: str = "DELETE", tail: str = "", query: str = API) -> Answer:
        return await self.call(method, f"{BOUND}/{lock}{tail}", query=query, Authorization=await self.token())

    async def command(self, body: bytes = b"c", module_id: str | None = None, **fields: Any) -> None:
        """A service sends one."""
        key = IdentityKey("d", module_id)
        await self.mqtt.key(*key)
        await self.commands.send(key, Command(body=body, **fields))

    async def stored(self, device_id: str = "d") -> list[dict[str, Any]]:
        return await self.mqtt.messages(device_id)

    async def last_cause(self) -> str:
        return await self.mqtt.last_cause()

    async def as_service(self, method: str, path: str) -> Answer:
        return await self.call(method, path, Authorization=token())

    @contextlib.asynccontextmanager
    async def showing(self, certificate: Path) -> AsyncIterator[None]:
        """Calls show the client certificate in the PEM file ``certificate``, on connections of their own."""
        plain, self.trust = self.trust, ssl.create_default_context(cafile=str(self.mqtt.ca_file))
        self.trust.load_cert_chain(certificate)
        outer = self.session
        try:
            async with aiohttp.ClientSession() as self.session:
                yield
        finally:
            self.trust, self.session = plain, outer


@contextlib.asynccontextmanager
async def device_http_hub(
    directory: Path,
    profile: Profile = Profile.OPEN,
    *,
    plan: Plan | None = None,
    quota: Quota | None = None,
    faults: bool = False,
    more: Callable[[MqttHub], Sequence[Operation]] = lambda _: (),
) -> AsyncIterator[DeviceHttpHub]:
    async with mqtt_hub(directory, plan=plan, quota=quota, faults=faults) as mqtt:
        messages = DeviceMessageOperations(device_services(mqtt), profile)
        methods = MethodOperations(mqtt.methods, mqtt.ambient)
        operations = [*messages.table(), *methods.table(), *more(mqtt)]
        app = build_app(
            registry=mqtt.registry, gate=mqtt.authenticator, ambient=mqtt.ambient, ready=lambda: True, more=operations,
            meters=mqtt.meters,
        )  # fmt: skip
        http = HttpServer(app, mqtt.ambient.now)
        context = server_context(str(directory / "chain"), str(directory / "key"))
        listener, port = listening(context, partial(FrontProtocol, http.loop, http, http, http))
        hub = DeviceHttpHub(mqtt, port, http)
        try:
            async with aiohttp.ClientSession() as hub.session:
                yield hub
        finally:
            listener.stop_accepting()
            listener.abort_connections()
            await http.close()
            mqtt.methods.close()
