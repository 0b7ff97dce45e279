"""The real clients on a hub of two nodes: the service speaks to one, the device is connected to the other."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, Message, MethodRequest, MethodResponse
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.nats_servers import NatsCluster, nats  # noqa: F401  (a fixture)
from tests.postgres import new_database

pytestmark = pytest.mark.sdk

PATIENCE = 30


class Device:
    """azure-iot-device's sync client on one node: notes what it hears, answers methods with what it was asked."""

    def __init__(self, node: HubProcess, name: str, key: str, websockets: bool = False) -> None:
        self.patches: queue.Queue[dict[str, Any]] = queue.Queue()
        self.commands: queue.Queue[bytes] = queue.Queue()
        self.states: queue.Queue[bool] = queue.Queue()
        self.asked: list[str] = []
        self.client = IoTHubDeviceClient.create_from_connection_string(
            node.device_connection_string(name, key), websockets=websockets, connection_retry=False,
            server_verification_cert=Path(node.facts["HUB_CA_FILE"]).read_text(),
        )  # fmt: skip
        self.client.on_connection_state_change = lambda: self.states.put(self.client.connected)
        self.client.connect()
        self.twin = self.client.get_twin()
        self.client.on_method_request_received = self._asked
        self.client.on_twin_desired_properties_patch_received = self.patches.put
        self.client.on_message_received = lambda message: self.commands.put(message.data)

    def _asked(self, request: MethodRequest) -> None:
        self.asked.append(request.name)
        self.client.send_method_response(MethodResponse.create_from_method_request(request, 200, request.payload))

    def gone(self) -> None:
        """Wait until the hub has ended the connection."""
        while self.states.get(timeout=PATIENCE):
            pass


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, nats: NatsCluster) -> Iterator[list[HubProcess]]:  # noqa: F811
    url, addresses = new_database(), [loopback(), loopback()]
    made = []
    try:
        for address in addresses:
            node = HubProcess(
                tmp_path_factory.mktemp("node"), address, "--hostname", addresses[1], "--database", url,
                "--bus", ",".join(nats.urls), hostname=addresses[0],
            )  # fmt: skip
            made.append(node)
            node.start()
        yield made
    finally:
        for node in made:
            node.kill()


@pytest.fixture
def manager(nodes: list[HubProcess], monkeypatch: pytest.MonkeyPatch) -> IoTHubRegistryManager:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", nodes[0].facts["REQUESTS_CA_BUNDLE"])
    return IoTHubRegistryManager.from_connection_string(nodes[0].facts["HUB_CONNECTION_STRING"])


def send_command(node: HubProcess, device: str, body: str) -> None:
    """Have azure-iot-hub send it, in a process that trusts the hub."""
    ended = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("uamqp_sender.py")), "amqp"],
        env={**os.environ, **{name: str(value) for name, value in node.facts.items()}}, capture_output=True, text=True,
        input=json.dumps({"device": device, "body": body, "properties": {}}) + "\n", timeout=2 * PATIENCE,
        check=False,
    )  # fmt: skip
    assert ended.stdout.split() == ["sent"], ended


def method(name: str, payload: Any = None, connect: int | None = None) -> CloudToDeviceMethod:
    return CloudToDeviceMethod(method_name=name, payload=payload, connect_timeout_in_seconds=connect)


@pytest.mark.parametrize("websockets", [False, True], ids=["mqtt", "mqtt-ws"])
def test_a_service_on_one_node_works_on_a_device_on_the_other(
    nodes: list[HubProcess], manager: IoTHubRegistryManager, websockets: bool
) -> None:
    first, second = nodes
    name = f"worked-on-{websockets}"
    key = first.add_device(name)
    device = Device(second, name, key, websockets)
    try:
        answer = manager.invoke_device_method(name, method("echo", {"a": 1}))
        assert (answer.status, answer.payload, device.asked) == (200, {"a": 1}, ["echo"])
        for number in range(5):
            manager.update_twin(name, Twin(properties=TwinProperties(desired={"n": number})), "*")
        patches = [device.patches.get(timeout=PATIENCE) for _ in range(5)]
        assert [(patch["n"], patch["$version"]) for patch in patches] == [(number, number + 2) for number in range(5)]
        send_command(first, name, "wake up")
        assert device.commands.get(timeout=PATIENCE) == b"wake up"
        device.client.patch_twin_reported_properties({"seen": 5})
        assert manager.get_twin(name).properties.reported["seen"] == 5
        assert manager.get_device(name).connection_state == "Connected"
        assert [one.connection_state for one in manager.get_devices() if one.device_id == name] == ["Connected"]
        assert first.request("GET", "/statistics/service")[1]["connectedDeviceCount"] >= 0
        device.client.send_message(Message("stored"))
    finally:
        device.client.shutdown()


def test_a_device_that_comes_back_to_another_node_is_taken_over(
    nodes: list[HubProcess], manager: IoTHubRegistryManager
) -> None:
    first, second = nodes
    key = first.add_device("jumper")
    older = Device(second, "jumper", key)
    newer = Device(first, "jumper", key)
    try:
        older.gone()
        assert manager.invoke_device_method("jumper", method("echo", 1)).payload == 1
        assert (older.asked, newer.asked) == ([], ["echo"])
    finally:
        older.client.shutdown()
        newer.client.shutdown()


def test_a_call_waits_for_a_device_that_connects_to_the_other_node(
    nodes: list[HubProcess], manager: IoTHubRegistryManager
) -> None:
    first, second = nodes
    key = first.add_device("late")
    with pytest.raises(HttpOperationError) as caught:
        manager.invoke_device_method("late", method("echo", 1))
    assert json.loads(caught.value.response.json()["Message"])["errorCode"] == 404103
    answers: list[Any] = []
    calling = threading.Thread(
        target=lambda: answers.append(manager.invoke_device_method("late", method("echo", 2, connect=60)))
    )
    calling.start()
    device = Device(second, "late", key)
    try:
        calling.join(PATIENCE)
        assert [answer.payload for answer in answers] == [2]
    finally:
        device.client.shutdown()


@pytest.mark.parametrize("change", ["disabled", "deleted", "key"])
def test_what_is_changed_on_one_node_ends_the_connection_to_the_other(
    nodes: list[HubProcess], manager: IoTHubRegistryManager, change: str
) -> None:
    first, second = nodes
    name = f"changed-{change}"
    key = first.add_device(name)
    device = Device(second, name, key)
    try:
        found = manager.get_device(name)
        if change == "deleted":
            manager.delete_device(name)
        elif change == "disabled":
            keys = found.authentication.symmetric_key
            manager.update_device_with_sas(name, found.etag, keys.primary_key, keys.secondary_key, "disabled")
        else:
            new = "bmV3IGtleSBvZiB0aGUgZGV2aWNlIG9mIHRoZSB0ZXN0"
            manager.update_device_with_sas(name, found.etag, new, new, "enabled")
        device.gone()
        with pytest.raises(Exception, match=r".+"):  # b does not remember what let it in
            device.client.connect()
    finally:
        device.client.shutdown()


def test_a_policy_changed_on_one_node_counts_on_the_other(nodes: list[HubProcess]) -> None:
    first, second = nodes
    status, policy = first.request("PUT", "/$muster/policies/extra", {"rights": "RegistryRead"})
    assert status in (200, 201), policy
    parts = {"primaryKey": policy["primaryKey"]}
    for _ in range(100):
        token = second.token("", parts["primaryKey"], "extra")
        if second.request("GET", "/devices", Authorization=token)[0] == 200:
            break
    else:
        pytest.fail("the policy is not known to the other node")
    first.request("DELETE", "/$muster/policies/extra")
    for _ in range(100):
        if second.request("GET", "/devices", Authorization=token)[0] == 401:
            break
    else:
        pytest.fail("the policy still counts on the other node")
