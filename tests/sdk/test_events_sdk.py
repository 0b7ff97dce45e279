"""Events as azure-eventhub reads them, made by azure-iot-device and azure-iot-hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData
from azure.eventhub.aio import EventHubConsumerClient
from azure.iot.device import IoTHubDeviceClient, Message
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties
from processors import until

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

MODEL = "dtmi:com:example:Thermostat;1"
SOURCE = b"iothub-message-source"


@pytest.fixture
def events_hub(make_hub: Callable[..., HubProcess], monkeypatch: pytest.MonkeyPatch) -> HubProcess:
    hub = make_hub("--events", "twin,lifecycle,connection,digital-twin", "--partitions", "2").start()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    return hub


@pytest.fixture
async def received(events_hub: HubProcess) -> AsyncIterator[list[EventData]]:
    """All that a reader gets, from the beginning."""
    async with reading(events_hub) as found:
        yield found


@asynccontextmanager
async def reading(hub: HubProcess) -> AsyncIterator[list[EventData]]:
    found: list[EventData] = []
    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"],
        "$Default",
        connection_verify=hub.facts["HUB_CA_FILE"],
        load_balancing_interval=0.5,
    )

    async def on_event(_: Any, event: EventData | None) -> None:
        if event is not None:
            found.append(event)

    task = asyncio.create_task(client.receive(on_event, starting_position="-1"))
    try:
        yield found
    finally:
        await client.close()
        await task


def roots(hub: HubProcess) -> str:
    return Path(hub.facts["HUB_CA_FILE"]).read_text()


def use_it(hub: HubProcess) -> None:
    """The life of a device, all of it one after the other."""
    manager = IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])
    text = hub.device_connection_string("ev", hub.add_device("ev"))
    client = IoTHubDeviceClient.create_from_connection_string(
        text, server_verification_cert=roots(hub), product_info=MODEL
    )
    client.connect()
    client.patch_twin_reported_properties({"temperature": 21.5})
    manager.update_twin("ev", Twin(tags={"floor": 3}, properties=TwinProperties(desired={"interval": 5})), "*")
    message = Message("telemetry")
    message.content_type, message.content_encoding = "text/plain", "utf-8"
    client.send_message(message)
    manager.replace_twin("ev", Twin(tags={}, properties=TwinProperties(desired={})), "*")
    client.shutdown()
    manager.delete_device("ev")


async def test_a_reader_gets_every_kind_with_its_properties(events_hub: HubProcess, received: list[EventData]) -> None:
    await asyncio.to_thread(use_it, events_hub)
    await until(lambda: any(event.properties.get(b"opType") == b"deleteDeviceIdentity" for event in received), "all")
    told = [
        (event.system_properties[SOURCE].decode(), event.properties[b"opType"].decode())
        for event in received
        if event.system_properties[SOURCE] != b"Telemetry"
    ]
    assert told == [
        ("deviceLifecycleEvents", "createDeviceIdentity"),
        ("digitalTwinChangeEvents", "updateTwin"),
        ("deviceConnectionStateEvents", "deviceConnected"),
        ("twinChangeEvents", "updateTwin"),
        ("digitalTwinChangeEvents", "updateTwin"),
        ("twinChangeEvents", "updateTwin"),
        ("digitalTwinChangeEvents", "updateTwin"),
        ("twinChangeEvents", "replaceTwin"),
        ("digitalTwinChangeEvents", "updateTwin"),
        ("deviceConnectionStateEvents", "deviceDisconnected"),
        ("deviceLifecycleEvents", "deleteDeviceIdentity"),
    ]
    events = [event for event in received if event.system_properties[SOURCE] != b"Telemetry"]
    for event in events:
        check_form(events_hub, event)
    assert events[1].body_as_json() == [{"op": "replace", "path": "/$metadata/$model", "value": MODEL}]
    change = events[5].body_as_json()
    stamp = {"$lastUpdated": events[5].properties[b"operationTimestamp"].decode(), "$lastUpdatedVersion": 2}
    desired = {"interval": 5, "$metadata": {**stamp, "interval": stamp}, "$version": 2}
    assert change == {"version": 4, "tags": {"floor": 3}, "properties": {"desired": desired}}
    numbers = [events[n].body_as_json()["sequenceNumber"] for n in (2, 9)]
    assert numbers[0] < numbers[1]


def check_form(hub: HubProcess, event: EventData) -> None:
    """What every event of the device has, by the types that the client makes of it."""
    patch = event.system_properties[SOURCE] == b"digitalTwinChangeEvents"
    assert event.content_type == ("application/json-patch+json" if patch else "application/json")
    system = event.system_properties
    name = hub.facts["EVENTHUB_CONNECTION_STRING"].rpartition("EntityPath=")[2].encode()
    assert (system[b"content-encoding"], system[b"user-id"]) == (b"utf-8", name)
    assert int(event.correlation_id, 16) >= 0
    assert system[b"iothub-connection-device-id"] == b"ev"
    assert isinstance(system[b"iothub-enqueuedtime"], int)
    assert b"iothub-connection-auth-method" not in system
    assert b"iothub-connection-module-id" not in system
    assert set(event.properties) == {
        b"hubName", b"deviceId", b"operationTimestamp", b"opType", b"iothub-message-schema",
    }  # fmt: skip
    assert (event.properties[b"hubName"], event.properties[b"deviceId"]) == (name, b"ev")
    assert event.properties[b"operationTimestamp"].endswith(b"+00:00" if patch else b"Z")


async def test_a_reader_gets_the_largest_twin(events_hub: HubProcess, received: list[EventData]) -> None:
    events_hub.add_device("big")
    many = {f"k{n:04}": n for n in range(2500)}
    body = {"tags": {f"t{n:03}": n for n in range(680)}, "properties": {"desired": many}}
    assert events_hub.request("PUT", "/twins/big", body)[0] == 200
    await until(lambda: any(event.properties.get(b"opType") == b"replaceTwin" for event in received), "the event")
    (event,) = [event for event in received if event.system_properties[SOURCE] == b"twinChangeEvents"]
    assert event.body_as_json()["properties"]["desired"]["k2499"] == 2499


async def test_a_hub_that_stops_says_who_was_connected(events_hub: HubProcess) -> None:
    hub = events_hub
    text = hub.device_connection_string("ev", hub.add_device("ev"))
    client = IoTHubDeviceClient.create_from_connection_string(
        text, server_verification_cert=roots(hub), auto_connect=False
    )
    await asyncio.to_thread(client.connect)
    assert await asyncio.to_thread(hub.stop) == 0
    await asyncio.to_thread(client.shutdown)
    hub.start()
    async with reading(hub) as received:
        await until(lambda: len(received) >= 3, "all events")
    assert [event.properties[b"opType"] for event in received] == [
        b"createDeviceIdentity", b"deviceConnected", b"deviceDisconnected",
    ]  # fmt: skip
