"""kill -9 at random moments while twins change: every change has its event, in order, told at least once."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
from collections.abc import Callable
from typing import Any

from azure.eventhub.aio import EventHubConsumerClient

from muster.testing.hub import HubProcess

DEVICES, ROUNDS = 4, 4
FIRST_VERSION = 3


def change_until_it_dies(hub: HubProcess, device_id: str, answered: list[int]) -> None:
    """Patch a twin again and again, and note the versions that were answered."""
    try:
        connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=10)
        headers = {"Authorization": hub.owner_token(), "Content-Type": "application/json"}
        path = f"/twins/{device_id}?api-version=2021-04-12"
        while True:
            connection.request("PATCH", path, json.dumps({"tags": {"n": len(answered)}}), headers)
            answered.append(json.loads(connection.getresponse().read())["version"])
    except (OSError, http.client.HTTPException):
        return


async def versions(hub: HubProcess, last: dict[str, int]) -> dict[str, list[int]]:
    """The versions of each device's events in the order of its partition, until each has come to ``last``."""
    found: dict[str, list[int]] = {device_id: [] for device_id in last}
    more = asyncio.Event()

    async def on_event(_: Any, event: Any) -> None:
        device = event.system_properties[b"iothub-connection-device-id"].decode()
        found[device].append(event.body_as_json()["version"])
        more.set()

    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"], "$Default", connection_verify=hub.facts["HUB_CA_FILE"],
        load_balancing_interval=0.5,
    )  # fmt: skip
    reading = asyncio.create_task(client.receive(on_event, starting_position="-1"))
    try:
        while any(last[device_id] not in seen for device_id, seen in found.items()):
            async with asyncio.timeout(20):
                await more.wait()
            more.clear()
    finally:
        await client.close()
        await reading
    return found


async def test_no_event_of_a_change_is_lost_by_kill_9(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub("--events", "twin")
    hub.start()
    names = [f"e{number}" for number in range(DEVICES)]
    for name in names:
        hub.add_device(name)
    answered: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        changing = asyncio.gather(*(asyncio.to_thread(change_until_it_dies, hub, *one) for one in answered.items()))
        while not all(answered.values()):  # however slow it is
            await asyncio.sleep(0.01)
        await asyncio.sleep(random.uniform(0.1, 0.4))
        await asyncio.to_thread(hub.kill)
        await changing
        hub.start()
    last = {name: hub.request("GET", f"/twins/{name}")[1]["version"] for name in names}
    for name, seen in (await versions(hub, last)).items():
        assert set(answered[name]) <= set(seen)
        first_told = list(dict.fromkeys(seen))
        assert first_told == list(range(FIRST_VERSION, last[name] + 1)), "in order, and each change has its event"
