"""Direct methods with the real clients: azure-iot-hub calls, azure-iot-device (Python and Node) answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodRequest, MethodResponse
from azure.iot.device.aio import IoTHubDeviceClient as AsyncIoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, CloudToDeviceMethodResult
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
DEVICES, EACH = 20, 5
PAYLOADS = [{"a": [1, 2.5, None, True], "é": "\u20ac \U0001f600"}, "text", 7, "", False, [], "x" * 131_000]


@pytest.fixture
def manager(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> IoTHubRegistryManager:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    return IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])


def roots(hub: HubProcess) -> str:
    return Path(hub.facts["HUB_CA_FILE"]).read_text()


def method(name: str = "echo", payload: Any = None, connect: int | None = None, response: int = 30) -> Any:
    return CloudToDeviceMethod(
        method_name=name, payload=payload, connect_timeout_in_seconds=connect, response_timeout_in_seconds=response
    )


def told(result: CloudToDeviceMethodResult) -> tuple[int, Any]:
    return result.status, result.payload


def refusal(caught: pytest.ExceptionInfo[HttpOperationError]) -> tuple[int, int, str]:
    """HTTP status, the code in the body and the name in the header."""
    response = caught.value.response
    body = json.loads(response.json()["Message"])
    return response.status_code, body["errorCode"], response.headers["iothub-errorcode"]


class Python:
    """A device or module of azure-iot-device's sync client that answers with what it got, but never ``mute``."""

    def __init__(self, hub: HubProcess, connection_string: str, module: bool = False) -> None:
        kind = IoTHubModuleClient if module else IoTHubDeviceClient
        self.client = kind.create_from_connection_string(connection_string, server_verification_cert=roots(hub))
        self.client.on_method_request_received = self._asked
        self.muted = threading.Event()

    def _asked(self, request: MethodRequest) -> None:
        if request.name == "mute":
            self.muted.set()
            return
        given = {"name": request.name, "given": request.payload}
        self.client.send_method_response(MethodResponse.create_from_method_request(request, 207, given))

    def __enter__(self) -> Python:
        self.client.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.shutdown()


@contextlib.asynccontextmanager
async def async_device(hub: HubProcess, device_id: str) -> AsyncIterator[None]:
    """A device of azure-iot-device's async client."""
    client = AsyncIoTHubDeviceClient.create_from_connection_string(
        hub.device_connection_string(device_id, hub.add_device(device_id)), server_verification_cert=roots(hub)
    )

    async def asked(request: MethodRequest) -> None:
        given = {"name": request.name, "given": request.payload}
        await client.send_method_response(MethodResponse.create_from_method_request(request, 207, given))

    client.on_method_request_received = asked
    await client.connect()
    try:
        yield
    finally:
        await client.shutdown()


@contextlib.contextmanager
def node_device(
    hub: HubProcess, connection_string: str, *arguments: str, transport: str = "mqtt"
) -> Iterator[subprocess.Popen[str]]:
    """A device of Node.js's azure-iot-device, see tests/node/methods.js."""
    names = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
    names |= {"CONNECTION": connection_string, "TRANSPORT": transport}
    with subprocess.Popen(
        ["node", "methods.js", *arguments], cwd=NODE_HOME, env={**os.environ, **names},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def echoes(call: Callable[[Any], CloudToDeviceMethodResult]) -> None:
    """Every kind of payload comes back as it went; none is an empty text, as azure-iot-hub sends it."""
    for payload in PAYLOADS:
        assert told(call(method(payload=payload, connect=30))) == (207, {"name": "echo", "given": payload})
    assert told(call(method(connect=30))) == (207, {"name": "echo", "given": ""})


def test_a_python_device_answers(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    with Python(hub, hub.device_connection_string("m-sync", hub.add_device("m-sync"))):
        echoes(lambda request: manager.invoke_device_method("m-sync", request))


async def test_an_async_python_device_answers(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    async with async_device(hub, "m-async"):
        await asyncio.to_thread(echoes, lambda request: manager.invoke_device_method("m-async", request))


def test_a_python_module_answers(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    hub.add_device("m-pymod")
    with Python(hub, hub.device_connection_string("m-pymod", hub.add_device("m-pymod", "m"), "m"), module=True):
        echoes(lambda request: manager.invoke_device_module_method("m-pymod", "m", request))
        with pytest.raises(HttpOperationError) as caught:
            manager.invoke_device_method("m-pymod", method())
        assert refusal(caught) == (404, 404103, "DeviceNotOnline")


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_a_node_device_answers(hub: HubProcess, manager: IoTHubRegistryManager, transport: str) -> None:
    name = f"m-node-{transport}"
    with node_device(hub, hub.device_connection_string(name, hub.add_device(name)), transport=transport):
        echoes(lambda request: manager.invoke_device_method(name, request))
        counted = [manager.invoke_device_method(name, method("count")).payload for _ in range(3)]
        assert counted == [1, 2, 3], "each call arrives once"


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_a_node_module_answers(hub: HubProcess, manager: IoTHubRegistryManager, transport: str) -> None:
    name = f"m-nodemod-{transport}"
    hub.add_device(name)
    connection = hub.device_connection_string(name, hub.add_device(name, "m"), "m")
    with node_device(hub, connection, "module", transport=transport):
        echoes(lambda request: manager.invoke_device_module_method(name, "m", request))


async def test_a_hundred_calls_at_once_on_twenty_devices(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    names = [f"m-many-{number}" for number in range(DEVICES)]
    jobs = [(name, number) for number in range(EACH) for name in names]
    with ThreadPoolExecutor(len(jobs)) as pool:
        async with contextlib.AsyncExitStack() as stack:
            for name in names:
                await stack.enter_async_context(async_device(hub, name))

            def call(name: str, number: int) -> tuple[int, Any]:
                caller = IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])
                return told(caller.invoke_device_method(name, method(payload=[name, number], connect=30)))

            loop = asyncio.get_running_loop()
            results = await asyncio.gather(*(loop.run_in_executor(pool, call, *job) for job in jobs))
    assert results == [(207, {"name": "echo", "given": list(job)}) for job in jobs]


def test_offline_unknown_and_mute_devices(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    connection = hub.device_connection_string("m-mute", hub.add_device("m-mute"))
    for device_id, expected in (
        ("m-nobody", (404, 404001, "DeviceNotFound")),
        ("m-mute", (404, 404103, "DeviceNotOnline")),
    ):
        with pytest.raises(HttpOperationError) as caught:
            manager.invoke_device_method(device_id, method())
        assert refusal(caught) == expected
    with Python(hub, connection) as device:
        began = time.monotonic()
        with pytest.raises(HttpOperationError) as caught:
            manager.invoke_device_method("m-mute", method("mute", connect=30, response=5))
        assert refusal(caught) == (504, 504101, "GatewayTimeout")
        assert time.monotonic() - began > 4.5
        assert device.muted.is_set()
        assert manager.invoke_device_method("m-mute", method()).status == 207, "it goes on"


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_a_device_whose_socket_is_cut_in_the_midst_of_a_call(
    hub: HubProcess, manager: IoTHubRegistryManager, transport: str
) -> None:
    name = f"m-cut-{transport}"
    connection = hub.device_connection_string(name, hub.add_device(name))
    with node_device(hub, connection, transport=transport) as process, ThreadPoolExecutor(1) as pool:
        call = pool.submit(manager.invoke_device_method, name, method("mute", connect=30, response=300))
        assert process.stdout is not None
        assert process.stdout.readline() == "muted\n"
        process.kill()
        with pytest.raises(HttpOperationError) as caught:
            call.result(10)
        assert refusal(caught) == (404, 404104, "DeviceConnectionClosedRemotely")


def test_a_device_that_reconnects_while_a_caller_waits(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    device = Python(hub, hub.device_connection_string("m-again", hub.add_device("m-again")))
    with device:
        assert manager.invoke_device_method("m-again", method(connect=30)).status == 207
        device.client.disconnect()
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(manager.invoke_device_method, "m-again", method(payload=1, connect=60))
            time.sleep(0.3)
            assert not call.done()
            device.client.connect()
            assert told(call.result(30)) == (207, {"name": "echo", "given": 1})
