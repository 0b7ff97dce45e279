"""Commands and registrations at two nodes of one deployment: what is begun at one goes on at the other."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess
from muster.testing.mqtt import Answer, MqttClient, puback, subscribe
from tests.addresses import loopback
from tests.nats_servers import NatsCluster
from tests.postgres import new_database
from tests.provisioning_client import Provisioning

pytestmark = pytest.mark.sdk
SENDER = Path(__file__).parents[1] / "sdk" / "uamqp_sender.py"
PATIENCE = 60


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, nats: NatsCluster) -> Iterator[list[HubProcess]]:
    shared, name = ["--database", new_database(), "--bus", ",".join(nats.urls)], loopback()
    with ExitStack() as stack:
        made = []
        for number in range(2):
            directory, address = tmp_path_factory.mktemp(f"node{number}"), loopback()
            made.append(
                stack.enter_context(HubProcess(directory, address, "--hostname", address, *shared, hostname=name))
            )
        yield made


def send(node: HubProcess, device_id: str, *bodies: str) -> list[str]:
    """What became of commands that azure-iot-hub's own AMQP client sends by this node."""
    pytest.importorskip("uamqp", reason="uamqp has no build for this Python")
    facts = {name: str(value) for name, value in node.facts.items() if name.isupper()}
    _, _, keys = facts["SERVICE_CONNECTION_STRING"].partition(";")
    facts["SERVICE_CONNECTION_STRING"] = f"HostName={node.address};{keys}"
    messages = [
        {"device": device_id, "body": body, "properties": {"ack": "full", "messageId": body}} for body in bodies
    ]
    done = subprocess.run(
        [sys.executable, str(SENDER), "amqp"], env={**os.environ, **facts}, capture_output=True, text=True,
        input="".join(json.dumps(message) + "\n" for message in messages), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


async def receiving(node: HubProcess, device_id: str, key: str) -> MqttClient:
    client = await MqttClient.open(node.address, node.port("mqtt"), node.trust())
    client.patience = PATIENCE
    token = node.token(f"devices/{device_id}", key)
    assert await client.connect(device_id, f"{node.address}/{device_id}/?api-version=2021-04-12", token) in (
        (False, 0),
        (True, 0),
    )
    await client.send(subscribe(1, [(f"devices/{device_id}/messages/devicebound/#", 1)]))
    return client


async def command(client: MqttClient) -> Answer:
    """The next one. The answer to the subscription may come before or after it."""
    answer = await client.receive()
    if answer.kind == "SUBACK":
        answer = await client.receive()
    assert answer.kind == "PUBLISH", answer
    return answer


async def test_a_command_reaches_a_device_at_another_node_and_its_feedback_is_read_at_either(
    nodes: list[HubProcess],
) -> None:
    one, other = nodes
    key = await asyncio.to_thread(one.add_device, "d")
    client = await receiving(one, "d", key)
    assert await asyncio.to_thread(send, other, "d", "first", "second") == ["sent", "sent"]
    for body in (b"first", b"second"):
        came = await command(client)
        assert came.body.endswith(body)
        size = int.from_bytes(came.body[:2])
        await client.send(puback(int.from_bytes(came.body[2 + size : 4 + size])))
    async with asyncio.timeout(PATIENCE):
        while (await asyncio.to_thread(other.request, "GET", "/devices/d"))[1]["cloudToDeviceMessageCount"]:
            await asyncio.sleep(0.1)
        while True:
            status, told = await asyncio.to_thread(one.request, "GET", "/messages/serviceBound/feedback")
            if status == 200:
                break
            await asyncio.sleep(0.5)
    assert [(record["originalMessageId"], record["description"]) for record in told] == [
        ("first", "Success"), ("second", "Success"),
    ]  # fmt: skip
    client.abort()


async def test_a_device_is_provisioned_at_a_node_by_a_group_that_was_made_at_another(nodes: list[HubProcess]) -> None:
    one, other = (Provisioning(node) for node in nodes)
    group = await asyncio.to_thread(one.group, "factory")
    state = await asyncio.to_thread(other.provision, "dev", other.derived_token("dev", group))
    assert state["status"] == "assigned"
    status, device = await asyncio.to_thread(nodes[0].request, "GET", "/devices/dev")
    assert (status, device["deviceId"]) == (200, "dev")


async def test_what_a_node_had_in_hand_when_it_was_killed_is_delivered_by_the_other(nodes: list[HubProcess]) -> None:
    one, other = nodes
    key = await asyncio.to_thread(one.add_device, "e")
    client = await receiving(one, "e", key)
    assert await asyncio.to_thread(send, other, "e", "x") == ["sent"]
    await command(client)
    await asyncio.to_thread(one.kill)
    client.abort()
    again = await receiving(other, "e", key)
    assert b"x" in (await command(again)).body
    again.abort()
