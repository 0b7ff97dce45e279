"""Real SDKs against a hub whose rates are enforced: they see 429, and go on when the time has come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.hub import IoTHubRegistryManager
from test_telemetry_node import node

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process

pytestmark = [pytest.mark.sdk, pytest.mark.waits]


@pytest.fixture
def throttled(tmp_path: Path) -> Iterator[HubProcess]:
    with hub_process(tmp_path, loopback(), "--profile", "azure") as hub:
        if hub.port("https") != 443:
            pytest.skip("port 443 may not be bound here")
        hub.add_device("d")
        yield hub


def meter_of(hub: HubProcess, name: str) -> dict[str, Any]:
    _, body = hub.request("GET", "/$muster/meters")
    found: dict[str, Any] = next(one for one in body["operations"] if one["name"] == name)
    return found


def test_python_comes_again_by_itself(throttled: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", throttled.facts["REQUESTS_CA_BUNDLE"])
    manager = IoTHubRegistryManager.from_connection_string(throttled.facts["HUB_CONNECTION_STRING"])
    calls = 1  # the one that made the device
    while not (meter := meter_of(throttled, "registry"))["refused"]:
        for _ in range(20):
            assert manager.get_device("d").device_id == "d"
        calls += 20
    assert calls > 100
    assert meter["accepted"] == calls, "what was refused was sent again, after the time that the hub told"


def test_node_is_told_and_goes_on(throttled: HubProcess) -> None:
    refused, found = map(json.loads, node(throttled, "throttled.js").splitlines())
    assert refused["calls"] >= 99
    assert (refused["name"], refused["status"], refused["seconds"]) == ("ThrottlingError", 429, 1)
    assert found == {"found": "d"}


def test_a_service_of_node_that_sends_too_many_commands_over_amqp_sends_them_again_by_itself(
    throttled: HubProcess,
) -> None:
    names = [f"d{number}" for number in range(12)]  # a queue takes fifty
    for name in names:
        throttled.add_device(name)
    sent = 0
    while not (meter := meter_of(throttled, "commands"))["refused"]:
        node(throttled, "throttled_c2d.js", "104", *names)
        sent += 104
    assert meter["accepted"] == sent
