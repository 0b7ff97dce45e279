"""Plug and play with the real clients: azure-iot-device announces a model, azure-iot-hub and azure-iothub drive it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, MethodRequest, MethodResponse
from azure.iot.device.aio import IoTHubDeviceClient as AsyncIoTHubDeviceClient
from azure.iot.hub import DigitalTwinClient, IoTHubRegistryManager
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
MODEL = "dtmi:com:example:TemperatureController;1"
PATIENCE = 30
TARGET = [{"op": "add", "path": "/thermostat1/targetTemperature", "value": 21.8}]


@pytest.fixture
def service(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> DigitalTwinClient:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    return DigitalTwinClient.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])


def device_options(hub: HubProcess, device_id: str) -> dict[str, Any]:
    return {
        "connection_string": hub.device_connection_string(device_id, hub.add_device(device_id)),
        "server_verification_cert": Path(hub.facts["HUB_CA_FILE"]).read_text(),
        "product_info": MODEL,
    }


def acknowledgement(patch: dict[str, Any]) -> dict[str, Any]:
    """What a device that keeps to the conventions reports when a target was desired."""
    value = patch["thermostat1"]["targetTemperature"]
    done = {"value": value, "ac": 200, "av": patch["$version"], "ad": "Successfully executed patch"}
    return {"thermostat1": {"__t": "c", "targetTemperature": done}}


def with_answers(client: IoTHubDeviceClient) -> queue.Queue[dict[str, Any]]:
    """Have a sync client answer commands with what it got; the desired patches it hears of."""
    heard: queue.Queue[dict[str, Any]] = queue.Queue()
    client.on_twin_desired_properties_patch_received = heard.put

    def asked(request: MethodRequest) -> None:
        given = {"name": request.name, "given": request.payload}
        client.send_method_response(MethodResponse.create_from_method_request(request, 207, given))

    client.on_method_request_received = asked
    return heard


def told(service: DigitalTwinClient, device_id: str) -> dict[str, Any]:
    """The digital twin without its times."""

    def plain(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: plain(member) for name, member in value.items() if name != "lastUpdateTime"}

    seen: dict[str, Any] = plain(service.get_digital_twin(device_id))
    return seen


def test_a_python_device_and_the_python_service(hub: HubProcess, service: DigitalTwinClient) -> None:
    client = IoTHubDeviceClient.create_from_connection_string(**device_options(hub, "dt-sync"))
    try:
        heard = with_answers(client)
        client.connect()
        client.patch_twin_reported_properties({"serialNumber": "s1"})
        assert told(service, "dt-sync") == {
            "$dtId": "dt-sync", "serialNumber": "s1", "$metadata": {"$model": MODEL, "serialNumber": {}},
        }  # fmt: skip
        service.update_digital_twin("dt-sync", TARGET)
        patch = heard.get(timeout=PATIENCE)
        assert patch == {"thermostat1": {"__t": "c", "targetTemperature": 21.8}, "$version": 2}
        client.patch_twin_reported_properties(acknowledgement(patch))
        assert told(service, "dt-sync")["thermostat1"] == {
            "targetTemperature": 21.8,
            "$metadata": {
                "targetTemperature": {
                    "desiredValue": 21.8, "desiredVersion": 2, "ackVersion": 2, "ackCode": 200,
                    "ackDescription": "Successfully executed patch",
                }
            },
        }  # fmt: skip
        for payload in ({"delay": 3}, "text", 5, [1]):
            answer = service.invoke_command("dt-sync", "reboot", payload, 30, 30)
            assert answer == {"name": "reboot", "given": payload}
        answer = service.invoke_component_command("dt-sync", "thermostat1", "getMaxMinReport", "since")
        assert answer == {"name": "thermostat1*getMaxMinReport", "given": "since"}
        raw = service.protocol.digital_twin.invoke_root_level_command("dt-sync", "reboot", {}, raw=True)
        assert raw.headers["x-ms-command-statuscode"] == 207
    finally:
        client.shutdown()


def test_what_the_python_service_is_refused(hub: HubProcess, service: DigitalTwinClient) -> None:
    hub.add_device("dt-refused")
    etag = service.protocol.digital_twin.get_digital_twin("dt-refused", raw=True).headers["ETag"]
    service.update_digital_twin("dt-refused", TARGET, etag)

    def refused(call: Any, *arguments: Any) -> tuple[int, str]:
        with pytest.raises(HttpOperationError) as caught:
            call(*arguments)
        response = caught.value.response
        return response.status_code, response.headers["iothub-errorcode"]

    wrong_path = [{"op": "add", "path": "/$metadata/x", "value": 1}]
    assert refused(service.update_digital_twin, "dt-refused", TARGET, etag) == (412, "PreconditionFailed")
    assert refused(service.update_digital_twin, "dt-refused", wrong_path) == (400, "InvalidDigitalTwinPatchPath")
    assert refused(service.get_digital_twin, "dt-nobody") == (404, "DeviceNotFound")
    assert refused(service.invoke_command, "dt-refused", "reboot", {}) == (404, "DeviceNotOnline")
    assert refused(service.invoke_command, "dt-refused", "reboot", {}, 1, 1) == (400, "ArgumentInvalid")


@contextlib.asynccontextmanager
async def async_device(hub: HubProcess, device_id: str) -> AsyncIterator[None]:
    """A device that keeps to the conventions, on the async client."""
    client = AsyncIoTHubDeviceClient.create_from_connection_string(**device_options(hub, device_id))

    async def asked(request: MethodRequest) -> None:
        given = {"name": request.name, "given": request.payload}
        await client.send_method_response(MethodResponse.create_from_method_request(request, 207, given))

    async def wanted(patch: dict[str, Any]) -> None:
        await client.patch_twin_reported_properties(acknowledgement(patch))

    client.on_method_request_received = asked
    client.on_twin_desired_properties_patch_received = wanted
    await client.connect()
    try:
        yield
    finally:
        await client.shutdown()


async def test_an_async_device_and_the_node_service(
    hub: HubProcess, service: DigitalTwinClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
    async with async_device(hub, "dt-node"):
        process = await asyncio.create_subprocess_exec(
            "node", "digital_twin.js", "dt-node",
            cwd=NODE_HOME, env={**os.environ, **names}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        output, errors = await asyncio.wait_for(process.communicate(), PATIENCE)
        assert process.returncode == 0, errors.decode()
        read, updated, refused, command, component = map(json.loads, output.splitlines())
        assert read["read"] == {"$dtId": "dt-node", "$metadata": {"$model": MODEL}}
        assert updated["updated"]["status"] == 202
        assert updated["updated"]["location"] == "/digitaltwins/dt-node"
        assert updated["updated"]["etag"] != read["etag"]
        assert refused == {"refused": {"status": 412}}
        assert json.loads(command["command"].pop("body")) == {"name": "reboot", "given": {"delay": 3}}
        assert json.loads(component["command"].pop("body")) == {"name": "thermostat1*getMaxMinReport", "given": "since"}
        assert command == component == {"command": {"status": 207}}
        async with asyncio.timeout(PATIENCE):
            while "targetTemperature" not in (await asyncio.to_thread(told, service, "dt-node"))["thermostat1"]:
                await asyncio.sleep(0.05)
    known = told(service, "dt-node")["thermostat1"]["$metadata"]["targetTemperature"]
    assert (known["desiredValue"], known["ackVersion"], known["ackCode"]) == (42, 2, 200)


def test_the_twin_names_the_model(hub: HubProcess, service: DigitalTwinClient) -> None:
    manager = IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])
    options = device_options(hub, "dt-model")
    for model in (MODEL, "dtmi:com:example:Other;1", ""):
        client = IoTHubDeviceClient.create_from_connection_string(**{**options, "product_info": model})
        client.connect()
        client.shutdown()
        assert hub.request("GET", "/twins/dt-model")[1]["modelId"] == model
        assert told(service, "dt-model")["$metadata"]["$model"] == model
    assert manager.get_twin("dt-model").version == 2
