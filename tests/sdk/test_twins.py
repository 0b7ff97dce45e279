"""Twins with the real clients: azure-iot-device and azure-iot-device-mqtt as devices, azure-iot-hub as the service."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.device.aio import IoTHubDeviceClient as AsyncIoTHubDeviceClient
from azure.iot.device.exceptions import ClientError, ServiceError
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
PATIENCE = 30


@pytest.fixture
def manager(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> IoTHubRegistryManager:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    return IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])


def options(hub: HubProcess) -> dict[str, Any]:
    return {"server_verification_cert": Path(hub.facts["HUB_CA_FILE"]).read_text()}


def wanted(tags: dict[str, Any] | None = None, **members: Any) -> Twin:
    """What a service sends to change desired properties, and perhaps tags."""
    return Twin(tags=tags, properties=TwinProperties(desired=members))


def with_patches(client: Any) -> queue.Queue[dict[str, Any]]:
    """The desired patches that a sync client hears of, from now on."""
    heard: queue.Queue[dict[str, Any]] = queue.Queue()
    client.on_twin_desired_properties_patch_received = heard.put
    return heard


@pytest.fixture
def device(hub: HubProcess) -> Iterator[Callable[..., IoTHubDeviceClient]]:
    """Makes connected sync clients of registered devices; shut down at the end."""
    made: list[IoTHubDeviceClient] = []

    def make(name: str, **more: Any) -> IoTHubDeviceClient:
        text = hub.device_connection_string(name, hub.add_device(name))
        made.append(IoTHubDeviceClient.create_from_connection_string(text, **options(hub), **more))
        made[-1].connect()
        return made[-1]

    yield make
    for client in made:
        client.shutdown()


def test_a_device_reads_and_reports(device: Callable[..., IoTHubDeviceClient], manager: IoTHubRegistryManager) -> None:
    client = device("twin-sync")
    assert client.get_twin() == {"desired": {"$version": 1}, "reported": {"$version": 1}}
    manager.update_twin("twin-sync", wanted(tags={"floor": 3}, interval=5), "*")
    assert client.get_twin()["desired"] == {"interval": 5, "$version": 2}
    client.patch_twin_reported_properties({"firmware": {"version": "1.0", "old": True}, "list": [1, {"a": 2}]})
    client.patch_twin_reported_properties({"firmware": {"old": None}})
    reported = {"firmware": {"version": "1.0"}, "list": [1, {"a": 2}], "$version": 3}
    assert client.get_twin()["reported"] == reported
    seen = manager.get_twin("twin-sync")
    assert {**reported, "$metadata": seen.properties.reported["$metadata"]} == seen.properties.reported
    assert (seen.connection_state, seen.tags, seen.version) == ("Connected", {"floor": 3}, 5)
    for patch, word in (({"a b": 1}, "400"), ({"n": 2**60}, "400"), ({str(n): "v" * 4000 for n in range(9)}, "413")):
        with pytest.raises(ClientError) as caught:
            client.patch_twin_reported_properties(patch)
        assert isinstance(caught.value.__cause__, ServiceError)
        assert word in str(caught.value.__cause__)
    assert client.get_twin()["reported"] == reported


def test_desired_patches_arrive_in_order_and_missed_ones_after_a_reconnect(
    device: Callable[..., IoTHubDeviceClient], manager: IoTHubRegistryManager
) -> None:
    client = device("twin-patches")
    client.get_twin()  # subscribes to answers, without which the SDK cannot ask what it missed
    heard = with_patches(client)
    for number in range(20):
        manager.update_twin("twin-patches", wanted(n=number, gone=None), None)
    got = [heard.get(timeout=PATIENCE) for _ in range(20)]
    assert got == [{"n": number, "gone": None, "$version": number + 2} for number in range(20)]
    client.disconnect()
    manager.update_twin("twin-patches", wanted(n="missed"), None)
    client.connect()
    assert heard.get(timeout=PATIENCE) == {"n": "missed", "$version": 22}
    manager.replace_twin("twin-patches", wanted(all="new"), None)
    assert heard.get(timeout=PATIENCE) == {"all": "new", "$version": 23}


async def test_the_async_client(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    text = hub.device_connection_string("twin-async", hub.add_device("twin-async"))
    client = AsyncIoTHubDeviceClient.create_from_connection_string(text, **options(hub))
    heard: queue.Queue[dict[str, Any]] = queue.Queue()

    async def hear(patch: dict[str, Any]) -> None:  # the SDK calls it on a loop of its own
        heard.put(patch)

    client.on_twin_desired_properties_patch_received = hear
    await client.connect()
    try:
        await asyncio.gather(*(client.patch_twin_reported_properties({f"k{n}": n}) for n in range(20)))
        reported = (await client.get_twin())["reported"]
        assert reported == {**{f"k{n}": n for n in range(20)}, "$version": 21}
        await asyncio.to_thread(manager.update_twin, "twin-async", wanted(a={"b": 1}), None)
        assert await asyncio.to_thread(heard.get, timeout=PATIENCE) == {"a": {"b": 1}, "$version": 2}
    finally:
        await client.shutdown()


def test_a_module(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    hub.add_device("twin-edge")
    text = hub.device_connection_string("twin-edge", hub.add_device("twin-edge", "part"), "part")
    client = IoTHubModuleClient.create_from_connection_string(text, **options(hub))
    client.connect()
    try:
        heard = with_patches(client)
        client.patch_twin_reported_properties({"state": "up"})
        twin = manager.get_module_twin("twin-edge", "part")
        assert (twin.module_id, twin.properties.reported["state"]) == ("part", "up")
        manager.update_module_twin("twin-edge", "part", wanted(speed=1), twin.etag)
        assert heard.get(timeout=PATIENCE) == {"speed": 1, "$version": 2}
        with pytest.raises(HttpOperationError) as caught:
            manager.update_module_twin("twin-edge", "part", wanted(speed=2), twin.etag)
        assert caught.value.response.status_code == 412
        replaced = manager.replace_module_twin("twin-edge", "part", Twin(tags={"t": 1}), "*")
        assert (replaced.tags, replaced.properties.desired["$version"]) == ({"t": 1}, 3)
        assert heard.get(timeout=PATIENCE) == {"$version": 3}
        assert client.get_twin()["desired"] == {"$version": 3}
    finally:
        client.shutdown()


def test_the_registry_manager(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    hub.add_device("twin-service")
    fresh = manager.get_twin("twin-service")
    assert (fresh.device_id, fresh.etag, fresh.version, fresh.tags) == ("twin-service", "AAAAAAAAAAE=", 2, None)
    assert (fresh.status, fresh.authentication_type) == ("enabled", "sas")
    assert fresh.device_etag == manager.get_device("twin-service").etag
    tagged = manager.update_twin("twin-service", Twin(tags={"a": 1, "b": {"c": 2}}), fresh.etag)
    assert (tagged.tags, tagged.version) == ({"a": 1, "b": {"c": 2}}, 3)
    back = manager.update_twin("twin-service", tagged, tagged.etag)
    assert back.tags == tagged.tags
    replaced = manager.replace_twin("twin-service", Twin(tags={"z": 1}), back.etag)
    assert replaced.tags == {"z": 1}
    assert replaced.as_dict() == manager.get_twin("twin-service").as_dict()
    for call, status, error in (
        (lambda: manager.update_twin("twin-service", Twin(tags={"q": 1}), fresh.etag), 412, "PreconditionFailed"),
        (lambda: manager.replace_twin("twin-service", Twin(tags={"q": 1}), fresh.etag), 412, "PreconditionFailed"),
        (lambda: manager.update_twin("twin-service", Twin(tags={"a.b": 1}), "*"), 400, "ArgumentInvalid"),
        (lambda: manager.get_twin("twin-ghost"), 404, "DeviceNotFound"),
        (lambda: manager.get_module_twin("twin-service", "ghost"), 404, "ModuleNotFound"),
    ):
        with pytest.raises(HttpOperationError) as caught:
            call()
        assert caught.value.response.status_code == status
        assert caught.value.response.json()["Message"].startswith(f"ErrorCode:{error};")


@pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws"])
def test_node_reads_reports_and_listens(https_443: HubProcess, manager: IoTHubRegistryManager, transport: str) -> None:
    hub, name = https_443, f"twin-node-{transport}"
    text = hub.device_connection_string(name, hub.add_device(name))
    manager.update_twin(name, wanted(interval=5), None)
    names = {key: str(value) for key, value in hub.facts.items() if key.isupper()}
    with subprocess.Popen(
        ["node", "twin.js", transport], cwd=NODE_HOME, env={**os.environ, **names}, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        watchdog = threading.Timer(120, running.kill)
        watchdog.start()
        try:
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdin.write(text)
            running.stdin.close()
            lines = (json.loads(line) for line in running.stdout)
            assert next(lines, None) == {
                "event": "twin", "desired": {"interval": 5, "$version": 2}, "reported": {"$version": 1},
            }  # fmt: skip
            assert next(lines)["event"] == "reported"
            refused = next(lines)
            assert refused["event"] == "refused"
            assert next(lines)["event"] == "listening"
            reported = manager.get_twin(name).properties.reported
            assert (reported["node"], reported["list"], reported["$version"]) == ({"version": 1}, [1, "two"], 3)
            for number in range(5):
                manager.update_twin(name, wanted(n=number, last=number == 4), None)
            assert [next(lines)["delta"] for _ in range(5)] == [
                {"n": number, "last": number == 4, "$version": number + 3} for number in range(5)
            ]
            assert running.wait(PATIENCE) == 0
        finally:
            watchdog.cancel()
            running.kill()
