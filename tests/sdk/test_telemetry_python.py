"""azure-iot-device sends, azure-eventhub reads: the main job with the real clients of Python."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubConsumerClient
from azure.eventhub.aio import EventHubConsumerClient as AsyncEventHubConsumerClient
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message
from azure.iot.device.aio import IoTHubDeviceClient as AsyncIoTHubDeviceClient

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

DEVICES, EACH = 10, 100


def message(number: int, run: str) -> Message:
    """A message with every property the SDK can set."""
    made = Message(f'{{"n": {number}}}', message_id=f"{run}-{number}", content_encoding="utf-8",
                   content_type="application/json")  # fmt: skip
    made.correlation_id = f"c/{number}&="
    made.user_id = "someone"
    made.custom_properties = {"run": run, "n": str(number), "odd key &=": "odd value +/%é"}
    return made


def registered(hub: HubProcess, run: str) -> dict[str, str]:
    """Ten devices with their connection strings."""
    names = [f"{run}-{number}" for number in range(DEVICES)]
    return {name: hub.device_connection_string(name, hub.add_device(name)) for name in names}


def roots(hub: HubProcess) -> str:
    return Path(hub.facts["HUB_CA_FILE"]).read_text()


def send_all(hub: HubProcess, run: str, *, websockets: bool) -> None:
    """Each device from a thread of its own, one message after the other."""
    failures: list[BaseException] = []

    def send(connection_string: str) -> None:
        try:
            client = IoTHubDeviceClient.create_from_connection_string(
                connection_string, server_verification_cert=roots(hub), websockets=websockets
            )
            client.connect()
            for number in range(EACH):
                client.send_message(message(number, run))
            client.shutdown()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=send, args=(text,)) for text in registered(hub, run).values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


async def send_all_async(hub: HubProcess, run: str, *, websockets: bool) -> None:
    """Each device as a task, its messages handed over all at once."""

    async def send(connection_string: str) -> None:
        client = AsyncIoTHubDeviceClient.create_from_connection_string(
            connection_string, server_verification_cert=roots(hub), websockets=websockets
        )
        await client.connect()
        for first in range(0, EACH, 20):
            await asyncio.gather(*(client.send_message(message(number, run)) for number in range(first, first + 20)))
        await client.shutdown()

    await asyncio.gather(*(send(text) for text in registered(hub, run).values()))


def check(events: Iterable[tuple[str, EventData]], run: str, *, in_order: bool = True) -> None:
    """Every message once, each device's in one partition and in order, with all its properties."""
    numbers: dict[str, list[int]] = defaultdict(list)
    partitions: dict[str, set[str]] = defaultdict(set)
    sequences: dict[str, list[int]] = defaultdict(list)
    for partition, event in events:
        annotations = {key.decode(): value for key, value in event.system_properties.items() if isinstance(key, bytes)}
        device = annotations["iothub-connection-device-id"].decode()
        properties = {key.decode(): value.decode() for key, value in event.properties.items()}
        number = int(properties["n"])
        numbers[device].append(number)
        partitions[device].add(partition)
        sequences[partition].append(event.sequence_number)
        assert event.body_as_json() == {"n": number}
        assert properties == {"run": run, "n": str(number), "odd key &=": "odd value +/%é"}
        assert event.message_id == f"{run}-{number}"
        assert event.correlation_id == f"c/{number}&="
        assert event.content_type == "application/json"
        assert event.raw_amqp_message.properties.content_encoding == b"utf-8"
        assert event.raw_amqp_message.properties.user_id == b"someone"
        assert annotations["iothub-message-source"] == b"Telemetry"
        assert b'"type":"sas"' in annotations["iothub-connection-auth-method"]
        assert annotations["iothub-connection-auth-generation-id"].decode().isdigit()
        assert event.enqueued_time.timestamp() * 1000 == pytest.approx(annotations["iothub-enqueuedtime"])
        assert event.offset == str(event.sequence_number)
    assert len(numbers) == DEVICES
    for device, seen in numbers.items():
        assert sorted(seen) == list(range(EACH)), device
        assert not in_order or seen == sorted(seen), device
    assert all(len(used) == 1 for used in partitions.values())
    assert all(seen == sorted(set(seen)) for seen in sequences.values())


def consumer(hub: HubProcess, kind: Any, group: str = "$Default", **options: Any) -> Any:
    return kind.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"],
        consumer_group=group,
        connection_verify=hub.facts["HUB_CA_FILE"],
        load_balancing_interval=0.5,  # a closed client's receive ends only when this has passed
        **options,
    )


def read_all(hub: HubProcess, run: str) -> list[tuple[str, EventData]]:
    """With the sync client, from the beginning of every partition."""
    found: list[tuple[str, EventData]] = []
    client = consumer(hub, EventHubConsumerClient)

    def receive(context: Any, events: list[EventData]) -> None:
        found.extend((context.partition_id, event) for event in events if event.properties.get(b"run") == run.encode())
        if len(found) >= DEVICES * EACH:
            done.set()

    done = threading.Event()
    # in batches: its loop waits 0.2 s at each partition that has nothing before it takes the next event of another
    reading = threading.Thread(target=client.receive_batch, args=(receive,), kwargs={"starting_position": "-1"})
    reading.start()
    complete = done.wait(60)
    client.close()
    reading.join()
    assert complete, f"{len(found)} events of {DEVICES * EACH}"
    return found


async def read_all_async(hub: HubProcess, run: str, **options: Any) -> list[tuple[str, EventData]]:
    found: list[tuple[str, EventData]] = []
    client = consumer(hub, AsyncEventHubConsumerClient, **options)
    done = asyncio.Event()

    async def receive(context: Any, events: list[EventData]) -> None:
        found.extend((context.partition_id, event) for event in events if event.properties.get(b"run") == run.encode())
        if len(found) >= DEVICES * EACH:
            done.set()

    reading = asyncio.create_task(client.receive_batch(receive, starting_position="-1"))
    try:
        async with asyncio.timeout(60):
            await done.wait()
    finally:
        await client.close()
        await reading
    return found


def test_sync_over_mqtt_read_by_the_sync_client(hub: HubProcess) -> None:
    send_all(hub, "sync-mqtt", websockets=False)
    check(read_all(hub, "sync-mqtt"), "sync-mqtt")


async def test_async_over_mqtt_read_by_the_async_client(hub: HubProcess) -> None:
    await send_all_async(hub, "async-mqtt", websockets=False)
    check(await read_all_async(hub, "async-mqtt"), "async-mqtt", in_order=False)


def test_sync_over_websocket_read_by_the_sync_client(https_443: HubProcess) -> None:
    send_all(https_443, "sync-ws", websockets=True)
    check(read_all(https_443, "sync-ws"), "sync-ws")


async def test_async_over_websocket_read_over_websocket(https_443: HubProcess) -> None:
    from azure.eventhub import TransportType

    await send_all_async(https_443, "async-ws", websockets=True)
    events = await read_all_async(https_443, "async-ws", transport_type=TransportType.AmqpOverWebsocket)
    check(events, "async-ws", in_order=False)


def test_a_module_sends(hub: HubProcess) -> None:
    hub.add_device("with-module")
    key = hub.add_device("with-module", "m1")
    client = IoTHubModuleClient.create_from_connection_string(
        hub.device_connection_string("with-module", key, "m1"), server_verification_cert=roots(hub)
    )
    client.connect()
    client.send_message("from a module")
    client.shutdown()
    found: list[EventData] = []
    reader = consumer(hub, EventHubConsumerClient)

    def receive(_: Any, events: list[EventData]) -> None:
        found.extend(e for e in events if e.system_properties.get(b"iothub-connection-module-id") == b"m1")
        if found:
            done.set()

    done = threading.Event()
    reading = threading.Thread(target=reader.receive_batch, args=(receive,), kwargs={"starting_position": "-1"})
    reading.start()
    complete = done.wait(30)
    reader.close()
    reading.join()
    assert complete
    assert found[0].body_as_str() == "from a module"
    assert found[0].system_properties[b"iothub-connection-device-id"] == b"with-module"
