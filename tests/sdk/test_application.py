"""A whole application for a minute: 200 devices with telemetry, twins, methods and messages at once, and no error.

Devices and back end are Node's clients in one process (``tests/node/application.js``, which checks all but telemetry);
azure-eventhub reads what the devices sent.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubConsumerClient

from muster.testing.hub import HubProcess

pytestmark = [pytest.mark.sdk, pytest.mark.waits, pytest.mark.timeout(300)]

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
DEVICES, SECONDS = 200, 60
PREFIX = "app-"
BULK = 100


def register(hub: HubProcess, names: list[str]) -> dict[str, str]:
    """The devices' connection strings."""
    for start in range(0, len(names), BULK):
        body = [{"id": name, "importMode": "create"} for name in names[start : start + BULK]]
        status, answer = hub.request("POST", "/devices", body)
        assert status == 200, answer
    keys = {}
    for name in names:
        _, identity = hub.request("GET", f"/devices/{name}")
        keys[name] = identity["authentication"]["symmetricKey"]["primaryKey"]
    return {name: hub.device_connection_string(name, key) for name, key in keys.items()}


def read_all(hub: HubProcess, count: int) -> dict[str, list[int]]:
    """The numbers that each device sent, in the order they are read; gives up after two minutes."""
    numbers: dict[str, list[int]] = defaultdict(list)
    complete, left = threading.Event(), [count]

    def on_batch(_: Any, batch: list[EventData]) -> None:
        for event in batch:
            device = event.system_properties[b"iothub-connection-device-id"].decode()
            if device.startswith(PREFIX):
                numbers[device].append(json.loads(event.body_as_str())["n"])
                left[0] -= 1
        if left[0] <= 0:
            complete.set()

    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"], consumer_group="$Default", connection_verify=hub.facts["HUB_CA_FILE"]
    )
    with client:  # batches: event by event this client waits for every empty partition in turn
        options = {"starting_position": "-1", "max_batch_size": 300, "max_wait_time": 1}
        reader = threading.Thread(target=client.receive_batch, args=(on_batch,), kwargs=options, daemon=True)
        reader.start()
        complete.wait(120)
    reader.join(30)
    return numbers


def test_two_hundred_devices_do_everything_at_once_for_a_minute(hub: HubProcess) -> None:
    if hub.port("https") != 443:
        pytest.skip("the service SDK calls port 443, which may not be bound here")
    connections = register(hub, [f"{PREFIX}{number:03}" for number in range(DEVICES)])
    names = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
    done = subprocess.run(
        ["node", "application.js"], cwd=NODE_HOME, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, **names, "DEVICES": json.dumps(connections), "SECONDS": str(SECONDS),
             "SERVICE": hub.facts["HUB_CONNECTION_STRING"]},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["problems"] == []
    counts = report["counts"]
    assert counts["telemetry"] > DEVICES * SECONDS / 4
    assert all(counts[what] >= DEVICES for what in ("methods", "messages", "desired", "reported")), counts
    assert counts["feedback"] == counts["messages"]
    numbers = read_all(hub, counts["telemetry"])
    assert numbers == {name: list(range(sent)) for name, sent in report["sent"].items() if sent}
