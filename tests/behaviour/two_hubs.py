"""A node with two hubs on loopback addresses of their own, in the test's process."""

from __future__ import annotations

import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from hub_rows import Rows, rows_of
from yarl import URL

from muster.dialect.connection_string import ConnectionString, parse_connection_string
from muster.identity.changes import Draft
from muster.identity.model import IdentityKey
from muster.identity.sas import decode_key, make
from muster.node.hub import OpenHub
from muster.node.node import Node
from muster.node.settings import HubSettings, Settings
from muster.testing.mqtt import MqttClient, publish
from tests.addresses import loopback
from tests.engines import servers

EAST, WEST = "east", "west"
API = "2021-04-12"


class Answer(NamedTuple):
    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class TwoHubs:
    """``east`` is the first hub. Clients reach either at any address; what they name decides."""

    node: Node
    addresses: dict[str, str]
    session: aiohttp.ClientSession
    trust: ssl.SSLContext

    def hub(self, name: str) -> OpenHub:
        """One of them, from within."""
        hub = self.node.hubs.first if name == EAST else self.node.hubs.get(name)
        assert hub is not None
        return hub

    def facts(self, name: str) -> dict[str, str]:
        """What `muster env --hub` says."""
        found: dict[str, str] = self.node.facts["hubs"][self.hub(name).name]
        return found

    def owner(self, name: str) -> ConnectionString:
        """The connection string of iothubowner."""
        return parse_connection_string(self.facts(name)["HUB_CONNECTION_STRING"])

    def token(self, name: str, *, host: str | None = None) -> str:
        """The owner's token of hub ``name``, for ``host`` or its own address."""
        return make(host or self.addresses[name], int(time.time()) + 600, self.owner(name).key_bytes, "iothubowner")

    async def call(
        self, at: str, method: str, path: str, body: Any = None, *, token: str | None = None, **headers: str
    ) -> Answer:
        """One REST call to the address of hub ``at``, with its owner's token."""
        given = {"Authorization": self.token(at) if token is None else token, "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body)
        async with self.session.request(
            method, self.url(at, path), data=content, headers={**given, **headers}, ssl=self.trust
        ) as response:
            return Answer(response.status, await response.text())

    def url(self, at: str, path: str) -> URL:
        """Of ``path`` (encoded, perhaps with a query) at the address of hub ``at``."""
        separator = "&" if "?" in path else "?"
        port = self.node.facts["ports"]["https"]
        return URL(f"https://{self.addresses[at]}:{port}{path}{separator}api-version={API}", encoded=True)

    async def add_device(self, name: str, device_id: str) -> str:
        """Register a device; its primary key."""
        made = await self.hub(name).parts.registry.create(Draft(key=IdentityKey(device_id)))
        return made.authentication.primary_key or ""

    async def connect(
        self, name: str, device_id: str, key: str, *, user_host: str | None = None, token_host: str | None = None
    ) -> tuple[MqttClient, int]:
        """An MQTT client at the address of hub ``name``, and the return code of its CONNECT."""
        address = self.addresses[name]
        client = await MqttClient.open(address, self.node.facts["ports"]["mqtt"], self.trust, server_name=address)
        secret = decode_key(key)
        assert secret is not None
        token = make(f"{token_host or address}/devices/{device_id}", int(time.time()) + 600, secret)
        user = f"{user_host or address}/{device_id}/?api-version={API}"
        _, code = await client.connect(device_id, user, token)
        return client, code

    async def send(self, name: str, device_id: str, key: str, body: bytes) -> None:
        """Telemetry over MQTT, acknowledged."""
        client, code = await self.connect(name, device_id, key)
        assert code == 0
        await client.send(publish(f"devices/{device_id}/messages/events/", body, qos=1, packet_id=1))
        await client.expect("PUBACK")
        await client.close()

    async def stored(self, name: str) -> int:
        """Messages in its partitions."""
        telemetry = self.hub(name).parts.telemetry
        slices = [await telemetry.read(partition, 0, 10_000_000) for partition in range(telemetry.partitions)]
        return sum(len(records) for found in slices for _, _, records in found)

    async def rows(self, name: str) -> Rows:
        """See ``rows_of``."""
        settings = self.node.settings
        assert settings.data is not None
        return await rows_of(settings.data, settings.database, name)

    async def causes(self, name: str) -> list[str]:
        """Of the newest refusals that this hub keeps."""
        return [one.report["cause"] for one in await self.hub(name).parts.refusals.newest(limit=10)]


def settings_of(directory: Path, addresses: dict[str, str], *hubs: HubSettings, **more: Any) -> Settings:
    """Of a node in ``directory`` on any free ports; ``more`` are other members."""
    return Settings(
        data=directory, hostnames=(addresses[EAST], "east.example"), bind=tuple(addresses.values()), mqtt_port=0,
        amqp_port=0, https_port=0, amqp_plain_port=0, partitions=2, sync=False, hubs=hubs,
        **servers(directory.parent), **more,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def two_hubs(directory: Path, *, second: bool = True, **more: Any) -> AsyncIterator[TwoHubs]:
    """Both hubs, or the address for the second one alone; ``more`` are members of the settings."""
    addresses = {EAST: loopback(), WEST: loopback()}
    west = HubSettings(name=WEST, hostnames=(addresses[WEST], "west.example"), partitions=3)
    node = Node(settings_of(directory / "data", addresses, *[west] * second, **more))
    await node.start()
    try:
        trust = ssl.create_default_context(cafile=node.facts["HUB_CA_FILE"])
        async with aiohttp.ClientSession() as session:
            yield TwoHubs(node, addresses, session, trust)
    finally:
        await node.stop()
