"""``muster serve --workers``: processes on the same ports, equal nodes of one deployment, kept alive; with a database
and a bus, and on a directory with a keeper."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import muster
from muster.sessions.lease import LEASE_SECONDS
from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish
from tests.addresses import loopback
from tests.cluster.processes import workers_of
from tests.postgres import new_database

PATIENCE = 30.0
PORTS = [option for name in ("mqtt", "amqp", "https") for option in (f"--{name}-port", "0")]


@pytest.fixture(params=["database", "directory"])
def hub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HubProcess]:
    shared: list[str] = []
    if request.param == "database":
        shared = ["--database", new_database(), "--bus", ",".join(request.getfixturevalue("nats").urls)]
    hub = HubProcess(tmp_path, loopback(), *shared, "--workers", "2", *PORTS)
    with hub:
        yield hub


async def connected(hub: HubProcess, device_id: str, key: str) -> MqttClient:
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    token = hub.token(f"devices/{device_id}", key)
    assert await client.connect(device_id, f"{hub.address}/{device_id}/?api-version=2021-04-12", token) == (False, 0)
    return client


async def listed(hub: HubProcess) -> list[dict[str, Any]]:
    """What ``muster nodes`` says."""
    command = [sys.executable, "-m", "muster", "nodes", "--json", "--data", str(hub.directory / "data")]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def metrics(hub: HubProcess) -> list[str]:
    """What Prometheus reads."""
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=30)
    connection.request("GET", "/metrics?api-version=2021-04-12", headers={"Authorization": hub.owner_token()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 200, text
    return text.splitlines()


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    links = (os.readlink(f"/proc/{pid}/fd/{one}") for one in os.listdir(f"/proc/{pid}/fd"))
    return sum(link.startswith("socket:") for link in links)


async def test_devices_spread_over_the_workers_which_serve_one_hub(hub: HubProcess) -> None:
    """1. Every worker has some of the connections, and knows what was made through another."""
    pids = workers_of(hub)
    assert len(pids) == 2
    before = [sockets_of(pid) for pid in pids]
    keys = {name: await asyncio.to_thread(hub.add_device, name) for name in (f"d{number}" for number in range(20))}
    clients = [await connected(hub, name, key) for name, key in keys.items()]
    more = [sockets_of(pid) - had for pid, had in zip(pids, before, strict=True)]
    assert sum(more) >= 20
    assert all(more)
    for client, name in zip(clients, keys, strict=True):
        await client.send(publish(f"devices/{name}/messages/events/", b"x"))
        assert (await client.expect("PUBACK")).packet_id == 1
    nodes = await listed(hub)
    assert {node["pid"] for node in nodes} == set(pids)
    assert len({node["name"] for node in nodes}) == 2
    for node in nodes:
        assert (node["alive"], node["version"], node["ports"]["mqtt"]) == (True, muster.__version__, hub.port("mqtt"))
        assert node["renewedSecondsAgo"] < LEASE_SECONDS
    async with asyncio.timeout(PATIENCE):  # each tells the others as it renews its lease
        while sum(sum(node["connectedDevices"].values()) for node in nodes) < 20:
            nodes = await listed(hub)
    assert all(sum(node["connectedDevices"].values()) for node in nodes)
    counts = [
        f'muster_connected_devices{{node="{node["name"]}"}} {next(iter(node["connectedDevices"].values()))}'
        for node in nodes
    ]
    async with asyncio.timeout(PATIENCE):  # the database may be slow once, then a node tells of itself alone
        while not {*counts} <= {*await asyncio.to_thread(metrics, hub)}:
            await asyncio.sleep(0.1)
    for client in clients:
        await client.close()


async def test_a_worker_that_dies_is_started_again(hub: HubProcess) -> None:
    """2. Its devices come back, to whom the kernel gives them."""
    key = await asyncio.to_thread(hub.add_device, "d")
    first = set(workers_of(hub))
    victim = first.pop()
    os.kill(victim, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while len(now := set(workers_of(hub))) < 2 or victim in now:
        assert time.monotonic() < deadline, hub.log_file.read_text()
        await asyncio.sleep(0.1)
    client = await connected(hub, "d", key)
    await client.close()


def test_they_end_together(hub: HubProcess) -> None:
    """3. SIGTERM drains all of them, and the command ends with 0."""
    pids = workers_of(hub)
    assert hub.stop() == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_no_worker_outlives_who_looks_after_it(hub: HubProcess) -> None:
    """4. kill -9 of the first process ends the others."""
    pids = workers_of(hub)
    hub.kill()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
