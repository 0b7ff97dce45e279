"""A hub's REST data plane on a real socket, and a client that says exactly what it is told to."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import aiohttp
from yarl import URL

from muster.core.ambient import Ambient, SystemAmbient
from muster.heads.http.app import build_app
from muster.heads.http.connection import App, HttpServer
from muster.heads.http.operations import Operation
from muster.heads.http.queries import QueryOperations
from muster.heads.http.transfer import TransferOperations
from muster.heads.http.twins import TwinOperations
from muster.identity.authenticator import Authenticator
from muster.identity.hub import make_hub
from muster.identity.policies import SharedAccessPolicy, development_policies
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.jobs.transfer import Transfer
from muster.sessions.table import SessionTable
from muster.twins.query.service import Queries
from muster.twins.service import Twins
from tests.engines import open_engines

API = "api-version=2021-04-12"
POLICIES = {policy.name: policy for policy in development_policies()}


class Answer(NamedTuple):
    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The error's name, which header and body must agree on."""
        name: str = self.headers["iothub-errorcode"]
        assert self.json["Message"].startswith(f"ErrorCode:{name};")
        return name

    @property
    def message(self) -> str:
        return str(self.json["Message"]).partition(";")[2]


def token(
    policy: SharedAccessPolicy | str = "iothubowner", resource: str = "localhost", expiry: int = 4_000_000_000
) -> str:
    """A service's SAS token, as the Python client makes it."""
    found = POLICIES[policy] if isinstance(policy, str) else policy
    encoded = quote_plus(resource)
    signature = hmac.digest(base64.b64decode(found.primary_key), f"{encoded}\n{expiry}".encode(), hashlib.sha256)
    sig = quote_plus(base64.b64encode(signature))
    return f"SharedAccessSignature sr={encoded}&sig={sig}&se={expiry}&skn={found.name}"


class RestHub:
    """The running data plane. ``call`` sends paths as they stand, without encoding anything."""

    def __init__(self, port: int, session: aiohttp.ClientSession, registry: Registry, refusals: Refusals) -> None:
        self.port, self.session, self.registry, self.refusals = port, session, registry, refusals
        self.ready = True
        self.authorization = token()

    async def call(
        self, method: str, path: str, body: Any = None, *, data: bytes | None = None, query: str = API, **headers: str
    ) -> Answer:
        given = {"Authorization": self.authorization, "Accept": "application/json"}
        if body is not None:
            data = json.dumps(body).encode()
        if data is not None:
            given["Content-Type"] = "application/json; charset=utf-8"
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(f"http://127.0.0.1:{self.port}{path}{'?' + query if query else ''}", encoded=True)
        sent = {name: value for name, value in given.items() if value}
        async with self.session.request(
            method, url, data=data, headers=sent, skip_auto_headers=("Content-Type",), allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def raw(self, request: bytes) -> bytes:
        """What comes back for ``request`` on a connection of its own, until the hub closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer


async def create(hub: RestHub, device_id: str = "d", **members: Any) -> dict[str, Any]:
    """Create a device; its body as the hub answered."""
    answer = await hub.call("PUT", f"/devices/{quote(device_id, safe='')}", {"deviceId": device_id, **members})
    assert answer.status == 200, answer.body
    made: dict[str, Any] = answer.json
    return made


@contextlib.asynccontextmanager
async def serving(app: App, ambient: Ambient, idle_seconds: float = 60) -> AsyncIterator[int]:
    """``app`` on a port of 127.0.0.1, without TLS."""
    http = HttpServer(app, ambient.now, idle_seconds)
    server = await asyncio.get_running_loop().create_server(http, "127.0.0.1", 0)  # type: ignore[arg-type]
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await http.close()


@contextlib.asynccontextmanager
async def rest_hub(directory: Path, more: Sequence[Operation] = (), idle_seconds: float = 60) -> AsyncIterator[RestHub]:
    ambient, name = SystemAmbient(asyncio.get_running_loop()), "localhost"
    async with open_engines(directory) as engines:
        stores, bus = engines.storage.of(name, None), engines.bus(name)
        sessions = SessionTable(name, stores.identities, bus, ambient)
        registry = Registry(name, stores.identities, sessions, bus, ambient)
        twins = Twins(name, stores.twins, sessions, ambient)
        searched = engines.storage.queries(sessions, ())
        await searched.prepare()
        refusals = Refusals(ambient)
        gate = Authenticator(make_hub([name], development_policies()), stores.identities, ambient, refusals)
        running: list[RestHub] = []
        operations = [
            *TwinOperations(registry, twins).table(),
            *QueryOperations(Queries(name, searched)).table(),
            *TransferOperations(Transfer(name, stores.loads, registry, sessions, ambient)).table(),
            *more,
        ]
        app = build_app(registry=registry, gate=gate, ambient=ambient, ready=lambda: running[0].ready, more=operations)
        async with serving(app, ambient, idle_seconds) as port, aiohttp.ClientSession() as session:
            running.append(RestHub(port, session, registry, refusals))
            yield running[0]
        await searched.close()
