"""What packaging/compose.yaml describes, run without Docker: its services, their configurations and command lines, each
on a loopback address instead of in a container."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from compose_files import services_of
from packaging_commands import PACKAGING

from muster.sessions.lease import LEASE_SECONDS
from muster.testing.hub import HubProcess, HubUser
from muster.testing.mqtt import MqttClient, publish
from tests.addresses import loopback
from tests.nats_servers import NatsServer
from tests.postgres import PostgresServer

pytestmark = pytest.mark.sdk

PATIENCE = 60.0
PORTS = {"mqtt": 8883, "amqp": 5671, "https": 443}
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin") or ""
API = "api-version=2021-04-12"


class Topology:
    """The services of the compose file, each under its name."""

    def __init__(self, directory: Path) -> None:
        self.postgres = PostgresServer(durable=True)
        self.addresses = {"postgres": self.postgres.address, "balancer": loopback()}
        variables = {"POSTGRES_PASSWORD": "p1", "NATS_PASSWORD": "p2", "MUSTER_HOSTNAME": self.addresses["balancer"]}
        services = services_of(PACKAGING / "compose.yaml", variables)
        self.addresses |= {name: loopback() for name in services if name not in self.addresses}
        nats = [self._server(directory / name, one) for name, one in services.items() if name.startswith("nats")]
        self.nats: list[NatsServer] = nats
        self.nodes = {
            name: self._node(directory / name, name, one) for name, one in services.items() if name.startswith("muster")
        }
        self._config = directory / "haproxy.cfg"
        text = re.sub(r"bind :", f"bind {self.addresses['balancer']}:", (PACKAGING / "haproxy.cfg").read_text())
        self._config.write_text(re.sub(r"(?<= )(muster\d):", lambda found: f"{self.addresses[found[1]]}:", text))
        self._haproxy: subprocess.Popen[bytes] | None = None

    @property
    def hub(self) -> HubUser:
        """What clients reach through HAProxy."""
        return HubUser(self.addresses["balancer"], next(iter(self.nodes.values())).facts)

    def _named(self, text: str) -> str:
        """``text`` with addresses for names."""
        return re.sub(r"\b(nats\d|postgres)(?=:\d)", lambda found: self.addresses[found[1]], text)

    def _server(self, directory: Path, service: dict[str, Any]) -> NatsServer:
        environment = service["environment"]
        address = self.addresses[environment["NATS_NAME"]]
        text = self._named((PACKAGING / "nats.conf").read_text()).replace("/var/lib/nats", str(directory / "data"))
        text = re.sub(r"\$(NATS_\w+)", lambda found: environment[found[1]], text.replace("0.0.0.0", address))
        return NatsServer(directory, address, text)

    def _node(self, directory: Path, name: str, service: dict[str, Any]) -> HubProcess:
        directory.mkdir()
        environment = service["environment"]
        assert "command" not in service, "else it is not the image's, serve --bind 0.0.0.0, as HubProcess has it"
        options = [
            part
            for key, value in environment.items()
            if key != "MUSTER_HOSTNAME"
            for part in (f"--{key.removeprefix('MUSTER_').lower().replace('_', '-')}", self._named(value))
        ]
        return HubProcess(directory, self.addresses[name], *options, hostname=environment["MUSTER_HOSTNAME"])

    async def start(self) -> None:
        """As ``docker compose up --wait``."""
        connection = await asyncpg.connect(self.postgres.url("postgres"))
        await connection.execute("CREATE ROLE muster LOGIN")
        await connection.execute("CREATE DATABASE muster OWNER muster")
        await connection.close()
        for server in self.nats:
            server.start()
        for server in self.nats:
            words = "JetStream cluster new metadata leader", "Self is new JetStream cluster metadata leader"
            await asyncio.to_thread(server.wait_for, *words)
        for node in self.nodes.values():
            await asyncio.to_thread(node.start)
        self._haproxy = await asyncio.to_thread(
            subprocess.Popen, [HAPROXY, "-db", "-f", str(self._config)], stdout=subprocess.DEVNULL
        )

    def close(self) -> None:
        """End everything."""
        if self._haproxy is not None:
            self._haproxy.kill()
            self._haproxy.wait()
        for node in self.nodes.values():
            node.kill()
        for server in self.nats:
            server.kill()
        self.postgres.remove()


@pytest.fixture
async def topology(tmp_path: Path) -> AsyncIterator[Topology]:
    if not HAPROXY:
        pytest.skip("there is no haproxy: apt-get install haproxy")
    made = Topology(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await asyncio.to_thread(made.close)


async def connected(hub: HubUser, device: str, key: str) -> MqttClient:
    """A device that is in; it comes back until it is, as devices do."""
    while True:
        with contextlib.suppress(OSError, TimeoutError, AssertionError, EOFError):
            client = await MqttClient.open(hub.address, PORTS["mqtt"], hub.trust())
            token = hub.token(f"devices/{device}", key)
            _, code = await client.connect(device, f"{hub.address}/{device}/?{API}", token)
            if code == 0:
                return client
            client.abort()
        await asyncio.sleep(0.1)


class Sender:
    """A device that sends one message after the other, each until it is acknowledged."""

    def __init__(self, hub: HubUser, name: str, key: str) -> None:
        self.acknowledged = 0
        self.connects = 0
        self._hub, self._name, self._key = hub, name, key

    async def run(self, stop: asyncio.Event) -> None:
        """Send until ``stop``."""
        while not stop.is_set():
            client = await connected(self._hub, self._name, self._key)
            self.connects += 1
            with contextlib.suppress(OSError, TimeoutError, AssertionError, EOFError):
                while not stop.is_set():
                    body = f"{self._name}:{self.acknowledged}".encode()
                    await client.send(publish(f"devices/{self._name}/messages/events/", body))
                    await client.expect("PUBACK")
                    self.acknowledged += 1
                    await asyncio.sleep(0.02)
            client.abort()


def stored(node: HubProcess, wanted: int) -> Iterator[str]:
    """The bodies that a service reads from the start, as many as there must be and some more."""
    command = [
        sys.executable,
        "-m",
        "muster",
        "monitor",
        "--from",
        "start",
        "--json",
        "--data",
        str(node.directory / "data"),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen, deadline = set[str](), time.monotonic() + PATIENCE
        for line in process.stdout:
            body = json.loads(line)["body"]
            seen.add(body)
            yield body
            if len(seen) >= wanted or time.monotonic() > deadline:
                break
        process.kill()


async def test_nodes_are_restarted_one_after_the_other_and_nothing_is_lost(topology: Topology) -> None:
    """The upgrade of compose.yaml's head: SIGTERM drains, HAProxy sends devices elsewhere, each node comes back."""
    hub = topology.hub
    async with asyncio.timeout(PATIENCE):  # HAProxy looks for who is ready
        while not await through(hub, "/health/ready"):
            await asyncio.sleep(0.1)
    keys = {name: await asyncio.to_thread(hub.add_device, name) for name in (f"d{number}" for number in range(6))}
    senders, stop = [Sender(hub, name, key) for name, key in keys.items()], asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for sender in senders:
            group.create_task(sender.run(stop))
        for node in topology.nodes.values():
            before = [sender.acknowledged for sender in senders]
            assert await asyncio.to_thread(node.stop) == 0
            await asyncio.to_thread(node.start)
            async with asyncio.timeout(PATIENCE):  # every device gets on, wherever it was
                while any(sender.acknowledged <= had + 5 for sender, had in zip(senders, before, strict=True)):
                    await asyncio.sleep(0.05)
        stop.set()
    assert sum(sender.connects for sender in senders) > len(senders), "somebody had to move"
    sent = {f"d{number}:{count}" for number, sender in enumerate(senders) for count in range(sender.acknowledged)}
    last = next(reversed(topology.nodes.values()))
    found = await asyncio.to_thread(lambda: set(stored(last, len(sent))))
    assert sent - found == set()


async def test_haproxy_takes_a_node_out_that_is_not_ready(topology: Topology) -> None:
    """Not ready is not dead: with NATS stopped all are taken out, and come back with it. Before, the doctor has nothing
    against the servers as they are configured there."""
    hub = topology.hub
    async with asyncio.timeout(PATIENCE):
        while not await through(hub, "/health/live"):
            await asyncio.sleep(0.1)
    nodes = await asyncio.to_thread(hub.request, "GET", "/$muster/nodes")
    assert nodes[0] == 200
    assert len(nodes[1]["nodes"]) == len(topology.nodes)
    assert all(one["alive"] and one["renewedSecondsAgo"] < LEASE_SECONDS for one in nodes[1]["nodes"])
    assert await asyncio.to_thread(doctor, topology.nodes["muster1"]) == []
    for server in topology.nats:
        server.signal(signal.SIGSTOP)
    node = next(iter(topology.nodes.values()))
    try:
        async with asyncio.timeout(PATIENCE):
            while await through(hub, "/health/live"):
                await asyncio.sleep(0.1)
        assert await asyncio.to_thread(probed, node, "/health/live") == 200, "it lives, but is not given connections"
        assert await asyncio.to_thread(probed, node, "/health/ready") == 503
    finally:
        for server in topology.nats:
            server.signal(signal.SIGCONT)
    async with asyncio.timeout(PATIENCE):
        while not await through(hub, "/health/ready"):
            await asyncio.sleep(0.1)


def doctor(node: HubProcess) -> list[str]:
    """What `muster doctor` has against the deployment's servers and nodes."""
    command = [sys.executable, "-m", "muster", "doctor", "--json", "--data", str(node.directory / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [one["what"] for one in found if one["name"].partition("-")[0] in ("database", "bus", "stream", "node")]


def probed(node: HubProcess, path: str) -> int:
    """What a node itself answers, as probes ask: its name in the certificate is the balancer's."""
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection(node.address, PORTS["https"], context=context, timeout=30)
    connection.request("GET", path)
    with contextlib.closing(connection):
        return connection.getresponse().status


async def through(hub: HubUser, path: str) -> bool:
    """Whether a call by way of HAProxy gets through and is answered 200."""
    try:
        return (await asyncio.to_thread(hub.request, "GET", path))[0] == 200
    except OSError:
        return False
