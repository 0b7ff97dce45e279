"""An imported fleet with the real clients: devices connect with the keys they had, services find them as they were."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import ExportImportDevice, PropertyContainer

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]


def run(hub: HubProcess, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    command = [sys.executable, "-m", "muster", *arguments, "--data", str(hub.directory / "data")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


def test_imported_identities_connect_with_the_keys_they_had(
    hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    names = ("primaryKey", "secondaryKey")
    keys = {"type": "sas", "symmetricKey": dict(zip(names, KEYS, strict=True))}
    device = ExportImportDevice(
        id="moved", import_mode="create", status="enabled", tags={"place": "north"},
        properties=PropertyContainer(desired={"interval": 5}, reported={"firmware": "1.2"}),
    ).serialize()  # fmt: skip
    device["authentication"] = keys
    file = tmp_path / "devices.txt"
    module = {"id": "moved", "moduleId": "m", "authentication": keys}
    file.write_text(json.dumps(device) + "\n" + json.dumps(module))
    assert run(hub, "import", str(file)).strip() == "2 created, 0 refused"

    trust = Path(hub.facts["HUB_CA_FILE"]).read_text()
    for secret in KEYS:
        text = hub.device_connection_string("moved", secret)
        client = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=trust)
        client.connect()
        twin = client.get_twin()
        assert (twin["desired"]["interval"], twin["reported"]["firmware"]) == (5, "1.2")
        client.shutdown()
    part = IoTHubModuleClient.create_from_connection_string(
        hub.device_connection_string("moved", KEYS[0], "m"), server_verification_cert=trust
    )
    part.connect()
    part.shutdown()

    manager = IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])
    assert manager.get_device("moved").authentication.symmetric_key.secondary_key == KEYS[1]
    assert manager.get_twin("moved").tags == {"place": "north"}
    lines = [json.loads(line) for line in run(hub, "export").splitlines()]
    (line,) = [one for one in lines if one["id"] == "moved" and "moduleId" not in one]
    read = ExportImportDevice.deserialize(line)
    assert (read.authentication.symmetric_key.primary_key, read.tags) == (KEYS[0], {"place": "north"})
