"""Cloud-to-device messages with the real clients: azure-iot-hub (uAMQP and REST) and azure-iothub send and read
feedback, azure-iot-device (sync and async) and azure-iot-device-mqtt receive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, Message
from azure.iot.device.aio import IoTHubDeviceClient as AsyncIoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

HERE = Path(__file__).parent
NODE_HOME = HERE.parent / "node"
FULL = 64
"""Records that fill a feedback message, so that nobody waits 15 seconds for more of them."""


@pytest.fixture
def manager(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> IoTHubRegistryManager:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    return IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])


def environment(hub: HubProcess) -> dict[str, str]:
    return {**os.environ, **{name: str(value) for name, value in hub.facts.items() if name.isupper()}}


def roots(hub: HubProcess) -> str:
    return Path(hub.facts["HUB_CA_FILE"]).read_text()


def wanted(device: str, body: str = "b", **properties: Any) -> dict[str, Any]:
    return {"device": device, "body": body, "properties": properties}


def send(hub: HubProcess, messages: Sequence[dict[str, Any]], transport: str = "amqp", *more: str) -> list[str]:
    """What became of each message. In a process of its own, for uamqp reads SSL_CERT_FILE when it is loaded."""
    pytest.importorskip("uamqp", reason="uamqp has no build for this Python")
    done = subprocess.run(
        [sys.executable, str(HERE / "uamqp_sender.py"), transport, *more], env=environment(hub), capture_output=True,
        text=True, input="".join(json.dumps(message) + "\n" for message in messages), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@contextlib.contextmanager
def receiving(hub: HubProcess, device_id: str, key: str | None = None) -> Iterator[queue.SimpleQueue[Message]]:
    """A Python device, registered unless its ``key`` is given, connected, and the messages that it gets."""
    connection = hub.device_connection_string(device_id, hub.add_device(device_id) if key is None else key)
    client = IoTHubDeviceClient.create_from_connection_string(connection, server_verification_cert=roots(hub))
    got: queue.SimpleQueue[Message] = queue.SimpleQueue()
    client.on_message_received = got.put
    client.connect()
    try:
        yield got
    finally:
        client.shutdown()


PROPERTIES = {
    "messageId": "m-1", "correlationId": "c-1", "contentType": "application/json;charset=utf-8",
    "contentEncoding": "utf-8", "expiryTimeUtc": 4_000_000_000_000, "ack": "full", "a b": "c d+&=/\u20ac", "n": 7,
}  # fmt: skip


@pytest.mark.parametrize("transport", ["amqp", "websocket"])
def test_a_python_service_sends_and_a_python_device_gets_all_of_it(hub: HubProcess, transport: str) -> None:
    if transport == "websocket" and hub.port("https") != 443:
        pytest.skip("uamqp's WebSocket port is fixed")
    name = f"c2d-{transport}"
    properties = {**PROPERTIES, "expiryTimeUtc": int((time.time() + 600) * 1000)}
    with receiving(hub, name) as got:
        assert send(hub, [wanted(name, '{"a":1}', **properties)], transport) == ["sent"]
        message = got.get(timeout=20)
    assert (message.data, message.message_id, message.correlation_id) == (b'{"a":1}', "m-1", "c-1")
    assert (message.content_type, message.content_encoding) == ("application/json;charset=utf-8", "utf-8")
    assert message.ack == "full"
    assert message.expiry_time_utc.endswith("0000Z")
    assert message.custom_properties == {"a b": "c d+&=/\u20ac", "n": "7"}


def test_the_command_lines_way_of_sending(hub: HubProcess) -> None:
    parts = dict(item.split("=", 1) for item in hub.facts["SERVICE_CONNECTION_STRING"].split(";"))
    token = hub.token("", parts["SharedAccessKey"], "service")
    with receiving(hub, "c2d-cli") as got:
        messages = [wanted("c2d-cli", "x", messageId="m"), wanted("c2d-nobody")]
        assert [line == "sent" for line in send(hub, messages, "cli", token)] == [True, False]
        assert got.get(timeout=20).message_id == "m"


def test_what_the_hub_refuses_raises_in_the_service(hub: HubProcess) -> None:
    hub.add_device("c2d-refused")
    sent = send(hub, [wanted("c2d-nobody"), wanted("c2d-refused", "x" * 65_600), wanted("c2d-refused")])
    assert sent == ["Exception: C2D message send failure"] * 2 + ["sent"]


async def test_an_async_python_device_gets_what_waited_and_what_comes(hub: HubProcess) -> None:
    connection = hub.device_connection_string("c2d-async", hub.add_device("c2d-async"))
    client = AsyncIoTHubDeviceClient.create_from_connection_string(connection, server_verification_cert=roots(hub))
    got: asyncio.Queue[Message] = asyncio.Queue()

    loop = asyncio.get_running_loop()

    async def receive(message: Message) -> None:  # called on a loop of the client's own
        loop.call_soon_threadsafe(got.put_nowait, message)

    client.on_message_received = receive
    await client.connect()
    await client.disconnect()
    assert await asyncio.to_thread(send, hub, [wanted("c2d-async", str(n)) for n in range(5)]) == ["sent"] * 5
    await client.connect()
    assert [(await asyncio.wait_for(got.get(), 20)).data for _ in range(5)] == [b"%d" % n for n in range(5)]
    assert await asyncio.to_thread(send, hub, [wanted("c2d-async", "last")]) == ["sent"]
    assert (await asyncio.wait_for(got.get(), 20)).data == b"last"
    await client.shutdown()


def test_feedback_over_rest_purge_and_count(
    make_hub: Callable[..., HubProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = make_hub().start()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    manager = IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])
    rest = manager.protocol.cloud_to_device_messages
    assert rest.receive_feedback_notification(raw=True).response.status_code == 204
    hub.add_device("purged")
    ids = [f"m{number}" for number in range(FULL)]
    send(hub, [wanted("purged", messageId=name, ack="full") for name in ids])
    assert manager.get_device("purged").cloud_to_device_message_count == FULL
    assert manager.get_twin("purged").cloud_to_device_message_count == FULL
    result = rest.purge_cloud_to_device_message_queue("purged")
    assert (result.total_messages_purged, result.device_id) == (FULL, "purged")
    assert manager.get_device("purged").cloud_to_device_message_count == 0
    received = rest.receive_feedback_notification(raw=True).response
    lock = received.headers["ETag"].strip('"')
    rest.abandon_feedback_notification(lock)
    received = rest.receive_feedback_notification(raw=True).response
    records = received.json()
    assert [record["originalMessageId"] for record in records] == ids
    assert {record["statusCode"] for record in records} == {"Purged"}
    rest.complete_feedback_notification(received.headers["ETag"].strip('"'))
    with pytest.raises(HttpOperationError) as caught:
        rest.complete_feedback_notification(lock)
    assert caught.value.response.status_code == 412
    assert rest.receive_feedback_notification(raw=True).response.status_code == 204


class Node:
    """A process of tests/node that talks in lines."""

    def __init__(self, hub: HubProcess, *command: str, **names: str) -> None:
        self._process = subprocess.Popen(
            ["node", *command], cwd=NODE_HOME, env={**environment(hub), **names}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def say(self, **what: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended"
        return line

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize(("transport", "of_device"), [("amqp", "mqtt"), ("amqp-ws", "amqp"), ("amqp", "amqp-ws")])
def test_node_sends_a_node_device_completes_and_node_reads_the_feedback(
    make_hub: Callable[..., HubProcess], transport: str, of_device: str
) -> None:
    hub = make_hub().start()
    if "amqp-ws" in (transport, of_device) and hub.port("https") != 443:
        pytest.skip("the WebSocket port is fixed")
    names = {"CONNECTION": hub.device_connection_string("node", hub.add_device("node")), "TRANSPORT": of_device}
    with Node(hub, "c2d_service.js", transport) as service, Node(hub, "c2d_device.js", **names) as device:
        assert json.loads(service.hear()) == {"open": True}
        assert device.hear() == "open\n"
        service.say(
            device="node", body="\u20ac", messageId="m-first", correlationId="c", contentType="text/plain",
            contentEncoding="utf-8", ack="full", properties={"a b": "c&d=e+", "x": "y"},
        )  # fmt: skip
        assert json.loads(service.hear()) == {"sent": "m-first"}
        came = json.loads(device.hear())
        asked = {"iothub-ack": "full"} if of_device == "mqtt" else {}  # what the device SDK leaves among properties
        assert came.pop("properties") == {"a b": "c&d=e+", "x": "y", **asked}
        assert came == {
            "body": "\u20ac", "messageId": "m-first", "correlationId": "c", "contentType": "text/plain",
            "contentEncoding": "utf-8", "userId": "", "to": "/devices/node/messages/devicebound",
        }  # fmt: skip
        service.say(device="nobody", body="x", messageId="lost")
        assert json.loads(service.hear()) == {"refused": "DeviceNotFoundError", "id": "lost"}
        service.say(device="node", body="x" * 65_600, messageId="large")
        assert json.loads(service.hear()) == {"refused": "MessageTooLargeError", "id": "large"}
        heard: list[dict[str, Any]] = []
        for number in range(FULL - 1):
            service.say(device="node", body="x", messageId=f"m-{number}", ack="full")
        while len([one for one in heard if "feedback" in one]) < FULL:
            heard.append(json.loads(service.hear()))
        records = [one["feedback"] for one in heard if "feedback" in one]
        assert {record["statusCode"] for record in records} == {"Success"}
        assert {record["originalMessageId"] for record in records} == {"m-first", *(f"m-{n}" for n in range(FULL - 1))}
        assert {record["deviceId"] for record in records} == {"node"}


def test_a_node_device_gives_back_and_rejects_over_amqp(make_hub: Callable[..., HubProcess]) -> None:
    """Which MQTT has no words for."""
    hub = make_hub().start()
    names = {"CONNECTION": hub.device_connection_string("node", hub.add_device("node")), "TRANSPORT": "amqp"}
    with Node(hub, "c2d_service.js", "amqp") as service, Node(hub, "c2d_device.js", **names) as device:
        assert json.loads(service.hear()) == {"open": True}
        assert device.hear() == "open\n"
        for act in ("abandon", "reject", "complete"):
            service.say(device="node", body=act, messageId=act, ack="full", properties={"act": act})
        heard = [json.loads(device.hear()) for _ in range(4)]
        assert sorted((one["body"], one["did"]) for one in heard) == [
            ("abandon", "abandon"), ("abandon", "complete"), ("complete", "complete"), ("reject", "reject"),
        ]  # fmt: skip
        for number in range(FULL - 3):
            service.say(device="node", body="x", messageId=f"m-{number}", ack="full")
        told: dict[str, str] = {}
        while len(told) < FULL:
            record = json.loads(service.hear()).get("feedback")
            if record is not None:
                told[record["originalMessageId"]] = record["statusCode"]
        assert {name: told[name] for name in ("abandon", "reject", "complete")} == {
            "abandon": "Success", "reject": "Rejected", "complete": "Success",
        }  # fmt: skip


def test_messages_outlast_the_hub(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub().start()
    key = hub.add_device("kept")
    assert send(hub, [wanted("kept", str(number)) for number in range(3)]) == ["sent"] * 3
    hub.kill()
    hub.start()
    with receiving(hub, "kept", key) as got:
        assert [got.get(timeout=20).data for _ in range(3)] == [b"0", b"1", b"2"]
