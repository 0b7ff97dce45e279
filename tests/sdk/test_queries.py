"""Queries with the real service clients: azure-iot-hub and azure-iothub, and the queries that az iot sends."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import QuerySpecification, Twin, TwinProperties
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
COUNT = 7
GROUP = "tags.set = 'queries'"


@pytest.fixture
def manager(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> IoTHubRegistryManager:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    return IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])


@pytest.fixture
def devices(hub: HubProcess, manager: IoTHubRegistryManager) -> Iterator[list[str]]:
    names = [f"query-{number}" for number in range(COUNT)]
    for number, name in enumerate(names):
        hub.add_device(name)
        patch = Twin(tags={"set": "queries", "n": number}, properties=TwinProperties(desired={"speed": number * 1.5}))
        manager.update_twin(name, patch, "*")
    yield names
    for name in names:
        manager.delete_device(name)


def pages(manager: IoTHubRegistryManager, text: str, size: int | None) -> list[list[Any]]:
    found = []
    continuation = None
    while True:
        result = manager.query_iot_hub(QuerySpecification(query=text), continuation, size)
        found.append(result.items)
        continuation = result.continuation_token
        if continuation is None:
            return found


def test_python_pages_through_twins(manager: IoTHubRegistryManager, devices: list[str]) -> None:
    found = pages(manager, f"SELECT * FROM devices WHERE {GROUP}", 3)
    assert [len(page) for page in found] == [3, 3, 1]
    twins = [twin for page in found for twin in page]
    assert [twin.device_id for twin in twins] == devices
    assert [twin.as_dict() for twin in twins] == [manager.get_twin(name).as_dict() for name in devices]
    assert len(pages(manager, f"SELECT * FROM devices WHERE {GROUP}", None)) == 1


def test_python_gets_raw_rows(manager: IoTHubRegistryManager, devices: list[str]) -> None:
    (rows,) = pages(manager, f"SELECT COUNT() AS version FROM devices WHERE {GROUP} AND tags.n > 1", 10)
    assert [row.version for row in rows] == [COUNT - 2]


def test_python_is_told_what_is_wrong(manager: IoTHubRegistryManager) -> None:
    with pytest.raises(HttpOperationError) as caught:
        pages(manager, "SELECT * FROM devices WHERE", None)
    assert caught.value.response.status_code == 400
    message = caught.value.response.json()["Message"]
    assert message.startswith("ErrorCode:ArgumentInvalid;Query has a syntax error at character 28: expected")


def test_node_pages_through_twins(https_443: HubProcess, devices: list[str]) -> None:
    hub = https_443
    names = {key: str(value) for key, value in hub.facts.items() if key.isupper()}
    queries = [
        f"SELECT * FROM devices WHERE {GROUP}",
        f"SELECT deviceId, tags.n FROM devices WHERE {GROUP} AND properties.desired.speed > 8",
        "SELECT * FROM devices WHERE tags.set = 'no such'",
        "SELECT * FRM devices",
    ]
    outcome = subprocess.run(
        ["node", "query.js", "3", *queries], cwd=NODE_HOME, capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, **names, "CONNECTION": hub.facts["HUB_CONNECTION_STRING"]},
    )  # fmt: skip
    twins, rows, nothing, wrong = map(json.loads, outcome.stdout.splitlines())
    assert [[twin["deviceId"] for twin in page] for page in twins["pages"]] == [devices[:3], devices[3:6], devices[6:]]
    assert twins["pages"][0][1]["properties"]["desired"]["speed"] == 1.5
    assert [row["deviceId"] for row in rows["pages"][0]] == ["query-6"]
    assert nothing == {"pages": [[]]}
    assert wrong["error"] == "ArgumentError"
    assert "Query has a syntax error at character 15" in wrong["message"] or "expected" in wrong["message"]


AZ_IOT = (
    "select * from devices",
    "select * from devices where capabilities.iotEdge = true",
    "SELECT deviceId, deviceScope FROM devices",
    "select * from devices where deviceId='query-1'",
    "SELECT * FROM devices.modules",
    "select * from devices.modules where devices.modules.deviceId='query-1'",
    "select deviceId from devices where array_contains(parentScopes, 'ms-azure-iot-edge://x-1')",
    "select * from devices where array_contains(parentScopes, 'ms-azure-iot-edge://x-1')",
    "select deviceId from devices where configurations.[[my-config]].status = 'Applied'",
    "select deviceId from devices.modules where moduleId = '$edgeAgent' and configurations.[[my-config]].status = "
    "'Applied' and properties.desired.$version = properties.reported.lastDesiredVersion and "
    "properties.reported.lastDesiredStatus.code != 200",
)


@pytest.mark.parametrize("text", AZ_IOT)
def test_what_az_iot_sends_is_answered(hub: HubProcess, devices: list[str], text: str) -> None:
    status, rows = hub.request("POST", "/devices/query", {"query": text}, **{"Cache-Control": "no-cache"})
    assert status == 200
    if "query-1" in text and ".modules" not in text:
        assert [row["deviceId"] for row in rows] == ["query-1"]
