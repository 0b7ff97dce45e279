"""What azure-iot-hub changes is on record: who, what, before and after, and no key of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties
from msrest.exceptions import HttpOperationError

from muster.core.audit import fingerprint
from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

PRIMARY, SECONDARY = "cHJpbWFyeSBvZiB0aGUgYXVkaXQgdGVzdC4uLg==", "c2Vjb25kYXJ5IG9mIHRoZSBhdWRpdCB0ZXN0Lg=="
OTHER = "b3RoZXIga2V5IG9mIHRoZSBhdWRpdCB0ZXN0Li4="


@pytest.fixture
def own(make_hub: Callable[..., HubProcess]) -> Iterator[HubProcess]:
    with make_hub() as hub:
        yield hub


def muster(hub: HubProcess, *arguments: str) -> str:
    command = [sys.executable, "-m", "muster", "audit", *arguments, "--data", str(hub.directory / "data")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def manager_of(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> IoTHubRegistryManager:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    return IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])


def test_what_the_registry_manager_changes_is_on_record(own: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = manager_of(own, monkeypatch)
    made = manager.create_device_with_sas("d", PRIMARY, SECONDARY, "enabled")
    manager.update_device_with_sas("d", made.etag, OTHER, SECONDARY, "disabled", status_reason="audit")
    with pytest.raises(HttpOperationError):
        manager.create_device_with_sas("d", PRIMARY, SECONDARY, "enabled")
    manager.create_module_with_sas("d", "m", "", "", "")
    manager.update_twin("d", Twin(tags={"floor": 1}, properties=TwinProperties(desired={"interval": 5})), "*")
    manager.update_twin("d", Twin(properties=TwinProperties(desired={"interval": 7, "mode": "fast"})), "*")
    body = {"policyKey": "primaryKey", "devices": [{"id": "d"}]}
    status, keys = own.request("POST", "/devices/keys/regenerate", body)
    assert status == 200
    manager.delete_device("d")
    text = muster(own, "export")
    records = [json.loads(line) for line in text.splitlines()]
    told = [(one["operation"], one["subject"], one["verdict"]) for one in records]
    assert told == [
        ("device.put", "devices/d", "allowed"),
        ("device.put", "devices/d", "allowed"),
        ("device.put", "devices/d", "refused"),
        ("module.put", "devices/d/modules/m", "allowed"),
        ("twin.patch", "devices/d", "allowed"),
        ("twin.patch", "devices/d", "allowed"),
        ("keys.regenerate", "devices/d", "allowed"),
        ("device.delete", "devices/d/modules/m", "allowed"),
        ("device.delete", "devices/d", "allowed"),
    ]
    for one in records:
        assert one["caller"] == "iothubowner (policy)"
        assert re.fullmatch(r"127\.\d+\.\d+\.\d+:\d+", one["from"])
        assert (one["transport"], len(one["trackingId"])) == ("https", 32)
    created, updated, refused, _, first, second, rotated, _, deleted = records
    assert created["before"] is None
    assert keys_of(created["after"]) == (fingerprint(PRIMARY), fingerprint(SECONDARY))
    assert created["after"] == updated["before"]
    assert keys_of(updated["after"]) == (fingerprint(OTHER), fingerprint(SECONDARY))
    assert (updated["after"]["status"], updated["after"]["statusReason"]) == ("disabled", "audit")
    assert (refused["error"], refused["omitted"]) == (409001, 0)
    assert (first["before"]["tags"], first["after"]["tags"]) == ({}, {"floor": 1})
    assert (second["before"]["desired"], second["after"]["desired"]) == (
        {"interval": 5}, {"interval": 7, "mode": "fast"},
    )  # fmt: skip
    (fresh,) = re.findall(r'"primaryKey": "([^"]+)"', json.dumps(keys))
    assert keys_of(rotated["before"])[0] == fingerprint(OTHER)
    assert keys_of(rotated["after"])[0] == fingerprint(fresh)
    assert deleted["after"] is None
    parts = dict(part.split("=", 1) for part in own.facts["HUB_CONNECTION_STRING"].split(";"))
    for secret in (PRIMARY, SECONDARY, OTHER, fresh, parts["SharedAccessKey"], "SharedAccessSignature"):
        assert secret not in text
    assert muster(own, "verify").startswith("whole, 9 records: 9:")


def keys_of(told: dict[str, Any]) -> tuple[str, str]:
    return told["primaryKey"], told["secondaryKey"]
