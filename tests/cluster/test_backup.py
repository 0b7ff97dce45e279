"""A backup that is restored into a new deployment, by the steps of docs/operate.md: devices, twins, queued commands and
telemetry are there again."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import nats
import pytest
from nats.aio.client import Client

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish, subscribe
from tests.addresses import loopback
from tests.nats_servers import running
from tests.postgres import BINARIES, PostgresServer

pytestmark = pytest.mark.sdk
PATIENCE = 60.0
SENDER = Path(__file__).parents[1] / "sdk" / "uamqp_sender.py"
API = "api-version=2021-04-12"
CHUNK_SECONDS = 20.0


class Snapshot(NamedTuple):
    """What ``nats stream backup`` writes of one stream: its configuration and state, and its content in chunks."""

    about: dict[str, Any]
    chunks: list[bytes]


async def backed_up(client: Client) -> dict[str, Snapshot]:
    """All streams of the servers, as the nats command backs them up: by JetStream's own API."""
    names = await asked(client, "STREAM.NAMES", {})
    found = {}
    for name in names["streams"]:
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        about = await asked(client, f"STREAM.SNAPSHOT.{name}", {"deliver_subject": inbox, "no_consumers": True})
        chunks = []
        while (message := await subscription.next_msg(CHUNK_SECONDS)).data:
            chunks.append(message.data)
            if message.reply:  # the server waits for a word now and then
                await message.respond(b"")
        found[name] = Snapshot({"config": about["config"], "state": about["state"]}, chunks)
    return found


async def restored(client: Client, snapshots: dict[str, Snapshot]) -> None:
    """As ``nats stream restore``."""
    for name, snapshot in snapshots.items():
        there = await asked(client, f"STREAM.RESTORE.{name}", snapshot.about)
        for chunk in snapshot.chunks:
            await client.request(there["deliver_subject"], chunk, CHUNK_SECONDS)
        done = json.loads((await client.request(there["deliver_subject"], b"", CHUNK_SECONDS)).data)
        assert "error" not in done, done


async def asked(client: Client, what: str, request: dict[str, Any]) -> dict[str, Any]:
    """An answer of JetStream's API."""
    answer: dict[str, Any] = json.loads(
        (await client.request(f"$JS.API.{what}", json.dumps(request).encode(), 10)).data
    )
    assert "error" not in answer, answer
    return answer


async def connected(hub: HubProcess, device: str, key: str) -> MqttClient:
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    token = hub.token(f"devices/{device}", key)
    assert (await client.connect(device, f"{hub.address}/{device}/?{API}", token))[1] == 0
    return client


async def sent(hub: HubProcess, key: str, *bodies: bytes) -> None:
    """Telemetry of the device ``d``, acknowledged."""
    client = await connected(hub, "d", key)
    for body in bodies:
        await client.send(publish("devices/d/messages/events/", body))
        while (came := await client.receive()).kind == "PUBLISH":  # the command again, which it has not acknowledged
            pass
        assert came.kind == "PUBACK", came
    client.abort()


async def filled(hub: HubProcess) -> str:
    """A device with a twin, a queued command and telemetry; its key."""
    key = await asyncio.to_thread(hub.add_device, "d")
    twin = {"tags": {"floor": 3}, "properties": {"desired": {"rate": 7}}}
    assert (await asyncio.to_thread(hub.request, "PATCH", "/twins/d", twin))[0] == 200
    await sent(hub, key, b"one", b"two")
    assert await asyncio.to_thread(commanded, hub, "d", "restart") == ["sent"]
    return key


def commanded(hub: HubProcess, device: str, body: str) -> list[str]:
    """What became of a command that azure-iot-hub sends to the device."""
    facts = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
    message = {"device": device, "body": body, "properties": {"messageId": body}}
    done = subprocess.run(
        [sys.executable, SENDER, "amqp"], env={**os.environ, **facts}, input=json.dumps(message) + "\n",
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def authority(hub: HubProcess) -> bytes:
    """The certificate that devices trust."""
    return Path(hub.facts["HUB_CA_FILE"]).read_bytes()


def muster(hub: HubProcess, *arguments: str) -> str:
    """What a command says of the hub."""
    done = subprocess.run(
        [sys.executable, "-m", "muster", *arguments, "--data", hub.directory / "data"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def telemetry(hub: HubProcess, count: int) -> list[tuple[int, str]]:
    """The oldest messages that are kept: sequence numbers and bodies."""
    told = muster(hub, "monitor", "--from", "start", "--json", "--count", str(count))
    return [(message["sequence_number"], message["body"]) for message in map(json.loads, told.splitlines())]


async def all_there(hub: HubProcess, key: str) -> None:
    """The device gets in with its key, has its twin, and is given the command that waited."""
    status, twin = await asyncio.to_thread(hub.request, "GET", "/twins/d")
    assert (status, twin["tags"], twin["properties"]["desired"]["rate"]) == (200, {"floor": 3}, 7)
    assert (await asyncio.to_thread(hub.request, "GET", "/devices/d"))[1]["cloudToDeviceMessageCount"] == 1
    client = await connected(hub, "d", key)
    await client.send(subscribe(1, [("devices/d/messages/devicebound/#", 1)]))
    came = {answer.kind: answer for answer in [await client.receive(), await client.receive()]}  # in any order
    assert came["SUBACK"].packet_id == 1
    assert came["PUBLISH"].body.endswith(b"restart")
    client.abort()


async def test_a_deployment_is_restored_elsewhere(tmp_path: Path) -> None:
    """pg_dump and a backup of the streams, restored into another PostgreSQL and other NATS servers; the database first.
    Telemetry has the sequence numbers that it had, so what readers remember counts still."""
    pytest.importorskip("uamqp", reason="uamqp has no build for this Python")
    address = loopback()
    old, new = PostgresServer(durable=True), PostgresServer(durable=True)
    try:
        with running(tmp_path / "old") as bus:
            shared = ["--database", old.url("postgres"), "--bus", bus.urls[0]]
            (tmp_path / "one").mkdir()
            with HubProcess(tmp_path / "one", address, *shared) as hub:
                key = await filled(hub)
                dump = pg("pg_dump", "--format=custom", old.url("postgres"))  # while it runs
                client = await nats.connect(bus.urls[0])
                snapshots = await backed_up(client)
                await client.close()
                before = await asyncio.to_thread(telemetry, hub, 2)
                certificate = authority(hub)
        assert [body for _, body in before] == ["one", "two"]
        with running(tmp_path / "new") as bus:
            pg("pg_restore", "--no-owner", f"--dbname={new.url('postgres')}", given=dump)
            client = await nats.connect(bus.urls[0])
            await restored(client, snapshots)
            await client.close()
            shared = ["--database", new.url("postgres"), "--bus", bus.urls[0]]
            (tmp_path / "two").mkdir()
            with HubProcess(tmp_path / "two", address, *shared) as hub:
                assert authority(hub) == certificate, "devices trust it as they did"
                await all_there(hub, key)
                await sent(hub, key, b"three")
                after = await asyncio.to_thread(telemetry, hub, 3)
                assert after[:2] == before
                assert after[2][1] == "three"
                assert after[2][0] > before[1][0]
                assert (await asyncio.to_thread(muster, hub, "audit", "verify")).startswith("whole")
    finally:
        old.remove()
        new.remove()


async def test_a_database_alone_is_restored_without_its_telemetry(tmp_path: Path) -> None:
    """Streams that are not there are made anew and begin again: numbers that readers remember mean nothing then."""
    pytest.importorskip("uamqp", reason="uamqp has no build for this Python")
    address, postgres = loopback(), PostgresServer(durable=True)
    try:
        with (
            running(tmp_path / "old") as bus,
            HubProcess(tmp_path, address, "--database", postgres.url("postgres"), "--bus", bus.urls[0]) as hub,
        ):
            key = await filled(hub)
            before = await asyncio.to_thread(telemetry, hub, 2)
        (tmp_path / "two").mkdir()
        with (
            running(tmp_path / "new") as bus,
            HubProcess(tmp_path / "two", address, "--database", postgres.url("postgres"), "--bus", bus.urls[0]) as hub,
        ):
            await all_there(hub, key)
            await sent(hub, key, b"three")
            (found,) = await asyncio.to_thread(telemetry, hub, 1)
            assert found[1] == "three"
            assert found[0] <= before[1][0], "docs/operate.md tells what readers must do"
    finally:
        postgres.remove()


async def test_the_directory_of_one_node_is_copied(tmp_path: Path) -> None:
    """The hub stopped, the directory copied, another one started on the copy."""
    pytest.importorskip("uamqp", reason="uamqp has no build for this Python")
    address = loopback()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with HubProcess(tmp_path / "one", address) as hub:
        key = await filled(hub)
        before = await asyncio.to_thread(telemetry, hub, 2)
    shutil.copytree(tmp_path / "one" / "data", tmp_path / "two" / "data")
    with HubProcess(tmp_path / "two", address) as hub:
        await all_there(hub, key)
        assert await asyncio.to_thread(telemetry, hub, 2) == before


def pg(command: str, *options: str, given: bytes = b"") -> bytes:
    """Run a client program of PostgreSQL."""
    done = subprocess.run([BINARIES / command, *options], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
