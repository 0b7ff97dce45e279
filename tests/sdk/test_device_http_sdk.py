"""Devices on HTTPS with the real clients: azure-iot-device-http, and modules of azure-iot-device that call methods."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodRequest, MethodResponse
from azure.iot.device.exceptions import ClientError

from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker
from tests.engines import clustered

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"


def node(hub: HubProcess, script: str, *arguments: str, given: str = "") -> str:
    """Run a script under tests/node; what it printed."""
    names = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
    done = subprocess.run(
        ["node", script, *arguments], cwd=NODE_HOME, env={**os.environ, **names}, input=given, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def device_with(hub: HubProcess, credential: str, device: str) -> dict[str, str]:
    """A registered device: what the script needs to be it."""
    if credential == "sas":
        return {"connectionString": hub.device_connection_string(device, hub.add_device(device))}
    own = Maker(time.time()).issue(device, None)
    thumbprints = {"primaryThumbprint": own.sha256, "secondaryThumbprint": own.sha256}
    body = {"deviceId": device, "authentication": {"type": "selfSigned", "x509Thumbprint": thumbprints}}
    status, made = hub.request("PUT", f"/devices/{device}", body)
    assert status == 200, made
    connection = f"HostName={hub.address};DeviceId={device};x509=true"
    return {"connectionString": connection, "cert": own.pem.decode(), "key": own.key_pem.decode()}


@pytest.mark.waits
@pytest.mark.parametrize("credential", ["sas", "x509"])
def test_a_node_device_on_https(https_443: HubProcess, credential: str) -> None:
    hub, device = https_443, f"http-{credential}"
    given = json.dumps({**device_with(hub, credential, device), "files": not clustered()})
    told = json.loads(node(hub, "http_device.js", device, given=given))
    seen = told.pop("seen")
    assert told == {
        "large": "MessageTooLargeError", "again": "Error", "unknown": "DeviceNotFoundError",
    }  # fmt: skip
    assert sorted(one["name"] for one in seen) == ["abandon", "abandon", "complete", "reject"]
    for one in seen:
        assert (one["messageId"], one["correlationId"]) == (one["name"], f"c-{one['name']}")
        assert one["to"] == f"/devices/{device}/messages/deviceBound"
        assert one["property"] == {"key": "iothub-app-name", "value": one["name"]}, "the client keeps the prefix"
    _, twin = hub.request("GET", f"/twins/{device}")
    assert (twin["cloudToDeviceMessageCount"], twin["connectionState"]) == (0, "Disconnected")
    assert twin["lastActivityTime"] > "2020"
    events = [json.loads(line) for line in node(hub, "receive.js", "amqp", "3", device).splitlines()]
    assert [(event["body"]["n"], event["properties"]["N"]) for event in events] == [(0, "0"), (1, "1"), (2, "2")]
    assert {event["device"] for event in events} == {device}
    first = events[0]
    assert (first["messageId"], first["correlationId"], first["contentType"]) == ("m-0", "c/0", "application/json")


def test_a_python_module_calls_methods_of_its_device_and_of_a_module(
    https_443: HubProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client lets only a module of an edge environment call; it calls where its gateway is, here the hub."""
    hub, roots = https_443, https_443.facts["HUB_CA_FILE"]
    keys = {module: hub.add_device("http-caller", module) for module in (None, "target", "caller")}
    strings = {module: hub.device_connection_string("http-caller", key, module) for module, key in keys.items()}

    def answering(kind: Any, module: str | None) -> Any:
        client = kind.create_from_connection_string(strings[module], server_verification_cert=Path(roots).read_text())

        def answer(request: MethodRequest) -> None:
            payload = {"got": request.payload, "by": module}
            client.send_method_response(MethodResponse.create_from_method_request(request, 201, payload))

        client.on_method_request_received = answer
        client.connect()
        return client

    monkeypatch.setenv("EdgeHubConnectionString", f"{strings['caller']};GatewayHostName={hub.address}")
    monkeypatch.setenv("EdgeModuleCACertificateFile", roots)
    caller = IoTHubModuleClient.create_from_edge_environment()
    clients = [answering(IoTHubDeviceClient, None), answering(IoTHubModuleClient, "target"), caller]
    try:
        call = {"methodName": "m", "payload": {"a": 1}, "responseTimeoutInSeconds": 20, "connectTimeoutInSeconds": 10}
        for module in (None, "target"):
            told = caller.invoke_method(call, "http-caller", module)
            assert told == {"status": 201, "payload": {"got": {"a": 1}, "by": module}}
        with pytest.raises(ClientError):
            caller.invoke_method(call, "http-other")
    finally:
        for client in clients:
            client.shutdown()
