"""The SDKs of Python against the second hub of a deployment, over an address of its own and beside the first."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.eventhub import EventData, EventHubConsumerClient
from azure.iot.device import IoTHubDeviceClient, Message, MethodRequest, MethodResponse
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubUser
from tests.addresses import loopback
from tests.engines import hub_process

pytestmark = pytest.mark.sdk

HERE = Path(__file__).parent
PATIENCE = 60.0


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubUser, HubUser]]:
    """Two hubs of one process."""
    west = loopback()
    directory = tmp_path_factory.mktemp("hubs")
    with hub_process(directory, loopback(), "--bind", west, "--hub", f"west={west}") as process:
        if process.port("https") != 443:
            pytest.skip("port 443 may not be bound here: sysctl net.ipv4.ip_unprivileged_port_start=443, or be root")
        yield process, process.other("west")


def manager(hub: HubUser) -> IoTHubRegistryManager:
    return IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])


def device(hub: HubUser, device_id: str, *, websockets: bool = False) -> IoTHubDeviceClient:
    """A device that the service SDK registers at ``hub``, connected."""
    made = manager(hub).create_device_with_sas(device_id, "", "", "enabled")
    connection = hub.device_connection_string(device_id, made.authentication.symmetric_key.primary_key)
    client = IoTHubDeviceClient.create_from_connection_string(
        connection, server_verification_cert=Path(hub.facts["HUB_CA_FILE"]).read_text(), websockets=websockets
    )
    client.connect()
    return client


def bodies(hub: HubUser, count: int) -> list[str]:
    """The first ``count`` events that the Event Hubs SDK reads at ``hub``."""
    found: queue.SimpleQueue[str] = queue.SimpleQueue()

    def came(_: object, event: EventData | None) -> None:
        if event is not None:
            found.put(event.body_as_str())
            if found.qsize() >= count:
                client.close()

    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"], "$Default", connection_verify=hub.facts["HUB_CA_FILE"]
    )
    client.receive(came, starting_position="-1")
    return sorted(found.get() for _ in range(found.qsize()))


@pytest.fixture
def trusted(hubs: tuple[HubUser, HubUser], monkeypatch: pytest.MonkeyPatch) -> tuple[HubUser, HubUser]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hubs[0].facts["REQUESTS_CA_BUNDLE"])
    return hubs


@pytest.mark.parametrize("websockets", [False, True], ids=["tls", "websocket"])
def test_telemetry_goes_to_the_hub_of_the_connection_string(trusted: tuple[HubUser, HubUser], websockets: bool) -> None:
    name = f"telemetry-{websockets}"
    clients = [device(hub, name, websockets=websockets) for hub in trusted]
    for hub, client in zip(("east", "west"), clients, strict=True):
        for number in range(3):
            client.send_message(Message(f"{name} {hub} {number}"))
        client.shutdown()
    for place, hub in zip(("east", "west"), trusted, strict=True):
        expected = {f"{name} {place} {number}" for number in range(3)}
        found = bodies(hub, 6 if websockets else 3)
        assert expected <= set(found)
        assert all(f" {place} " in body for body in found)


def test_twins_and_methods_are_those_of_the_hub(trusted: tuple[HubUser, HubUser]) -> None:
    east, west = trusted
    clients = {hub: device(hub, "twinned") for hub in trusted}
    for hub, client in clients.items():

        def answer(request: MethodRequest, client: IoTHubDeviceClient = client, hub: HubUser = hub) -> None:
            client.send_method_response(MethodResponse.create_from_method_request(request, 200, {"at": hub.address}))

        client.on_method_request_received = answer
        client.patch_twin_reported_properties({"at": hub.address})
        manager(hub).update_twin("twinned", Twin(tags={"at": hub.address}), "*")
    for hub in trusted:
        twin = manager(hub).get_twin("twinned")
        assert (twin.tags, twin.properties.reported["at"]) == ({"at": hub.address}, hub.address)
        done = manager(hub).invoke_device_method(
            "twinned", CloudToDeviceMethod(method_name="ask", response_timeout_in_seconds=30)
        )
        assert done.payload == {"at": hub.address}
    manager(west).delete_device("twinned")
    with pytest.raises(HttpOperationError):
        manager(west).get_device("twinned")
    assert manager(east).get_device("twinned").connection_state == "Connected"
    for client in clients.values():
        client.shutdown()


def test_commands_come_from_the_hub_only(trusted: tuple[HubUser, HubUser]) -> None:
    pytest.importorskip("uamqp", reason="uamqp has no build for this Python")
    got: dict[str, queue.SimpleQueue[Message]] = {}
    clients = []
    for place, hub in zip(("east", "west"), trusted, strict=True):
        client = device(hub, "commanded")
        got[place] = queue.SimpleQueue()
        client.on_message_received = got[place].put
        clients.append(client)
    for place, hub in zip(("west", "east"), reversed(trusted), strict=True):
        wanted = json.dumps({"device": "commanded", "body": f"from {place}", "properties": {}})
        names = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
        done = subprocess.run(
            [sys.executable, str(HERE / "uamqp_sender.py"), "amqp"], env={**os.environ, **names}, input=f"{wanted}\n",
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert got[place].get(timeout=PATIENCE).data == f"from {place}".encode()
    assert all(one.empty() for one in got.values())
    for client in clients:
        client.shutdown()
