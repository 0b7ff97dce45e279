"""azure-iot-hub: every registry operation of ``IoTHubRegistryManager``."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterator

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import AuthenticationMechanism, ExportImportDevice, SymmetricKey
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

PRIMARY, SECONDARY = (base64.b64encode(letter * 32).decode() for letter in (b"p", b"s"))
SHA1, SHA256 = "AB" * 20, "CD" * 32


@pytest.fixture
def manager(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> IoTHubRegistryManager:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
    return IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])


@pytest.fixture
def device_id(request: pytest.FixtureRequest, manager: IoTHubRegistryManager) -> Iterator[str]:
    """An id of the test's own, with characters that must be encoded in a path; what is left of it is deleted."""
    name = re.sub(r"[^a-z0-9]", "-", request.node.name) + "+%#?:'"
    yield name
    with contextlib.suppress(HttpOperationError):
        manager.delete_device(name)


def refused(caught: pytest.ExceptionInfo[HttpOperationError], status: int, error: str) -> None:
    assert caught.value.response.status_code == status
    assert caught.value.response.json()["Message"].startswith(f"ErrorCode:{error};")


def test_sas_devices_are_created_read_updated_and_deleted(manager: IoTHubRegistryManager, device_id: str) -> None:
    made = manager.create_device_with_sas(device_id, PRIMARY, SECONDARY, "enabled", status_reason="new")
    assert (made.device_id, made.status, made.status_reason) == (device_id, "enabled", "new")
    assert made.authentication.type == "sas"
    assert made.authentication.symmetric_key.primary_key == PRIMARY
    assert made.authentication.symmetric_key.secondary_key == SECONDARY
    assert made.connection_state == "Disconnected"
    assert made.generation_id.isdigit()
    assert made.capabilities.iot_edge is False
    with pytest.raises(HttpOperationError) as caught:
        manager.create_device_with_sas(device_id, PRIMARY, SECONDARY, "enabled")
    refused(caught, 409, "DeviceAlreadyExists")

    assert manager.get_device(device_id).as_dict() == made.as_dict()
    update = manager.update_device_with_sas(device_id, made.etag, SECONDARY, PRIMARY, "disabled", status_reason="off")
    assert (update.status, update.status_reason) == ("disabled", "off")
    assert update.authentication.symmetric_key.primary_key == SECONDARY
    assert update.generation_id == made.generation_id
    assert update.etag != made.etag
    with pytest.raises(HttpOperationError) as caught:
        manager.update_device_with_sas(device_id, made.etag, PRIMARY, SECONDARY, "enabled")
    refused(caught, 412, "PreconditionFailed")
    forced = manager.update_device_with_sas(device_id, None, None, None, "enabled")
    assert forced.status == "enabled"
    assert forced.authentication.symmetric_key.primary_key == SECONDARY, "keys that are not given stay"

    with pytest.raises(HttpOperationError) as caught:
        manager.delete_device(device_id, made.etag)
    refused(caught, 412, "PreconditionFailed")
    manager.delete_device(device_id, forced.etag)
    with pytest.raises(HttpOperationError) as caught:
        manager.get_device(device_id)
    refused(caught, 404, "DeviceNotFound")


def test_keys_that_are_not_given_are_made(manager: IoTHubRegistryManager, device_id: str) -> None:
    made = manager.create_device_with_sas(device_id, None, None, "enabled")
    keys = made.authentication.symmetric_key
    assert len(base64.b64decode(keys.primary_key)) == len(base64.b64decode(keys.secondary_key)) == 32
    assert keys.primary_key != keys.secondary_key


def test_thumbprint_devices(manager: IoTHubRegistryManager, device_id: str) -> None:
    made = manager.create_device_with_x509(device_id, SHA1, SHA256, "enabled")
    assert made.authentication.type == "selfSigned"
    assert made.authentication.x509_thumbprint.primary_thumbprint == SHA1
    assert made.authentication.symmetric_key.primary_key is None
    update = manager.update_device_with_x509(device_id, made.etag, SHA256, SHA1, "disabled")
    assert update.authentication.x509_thumbprint.primary_thumbprint == SHA256
    assert update.status == "disabled"


def test_authority_devices(manager: IoTHubRegistryManager, device_id: str) -> None:
    made = manager.create_device_with_certificate_authority(device_id, "enabled")
    assert made.authentication.type == "certificateAuthority"
    update = manager.update_device_with_certificate_authority(device_id, made.etag, "disabled", status_reason="x")
    assert (update.status, update.status_reason) == ("disabled", "x")
    assert update.authentication.type == "certificateAuthority"


def test_edge_devices_and_their_children(manager: IoTHubRegistryManager, device_id: str) -> None:
    edge = manager.create_device_with_sas(device_id, None, None, "enabled", iot_edge=True)
    assert edge.capabilities.iot_edge is True
    assert edge.device_scope.startswith(f"ms-azure-iot-edge://{device_id}-")
    assert [module.module_id for module in manager.get_modules(device_id)] == ["$edgeAgent", "$edgeHub"]
    leaf_id, low_id = f"{device_id}-leaf", f"{device_id}-low"
    try:
        leaf = manager.create_device_with_sas(leaf_id, None, None, "enabled", device_scope=edge.device_scope)
        assert leaf.parent_scopes == [edge.device_scope]
        low = manager.create_device_with_sas(
            low_id, None, None, "enabled", iot_edge=True, parent_scopes=edge.device_scope
        )
        assert low.parent_scopes == [edge.device_scope]
        assert low.device_scope != edge.device_scope
        with pytest.raises(HttpOperationError) as caught:
            manager.update_device_with_sas(leaf_id, leaf.etag, None, None, "enabled", device_scope=leaf_id)
        refused(caught, 400, "InvalidDeviceScope")
    finally:
        for name in (leaf_id, low_id):
            manager.delete_device(name)


def test_modules_of_every_kind(manager: IoTHubRegistryManager, device_id: str) -> None:
    manager.create_device_with_sas(device_id, None, None, "enabled")
    made = manager.create_module_with_sas(device_id, "sas+m", "me", PRIMARY, SECONDARY)
    assert (made.device_id, made.module_id, made.managed_by) == (device_id, "sas+m", "me")
    assert made.authentication.symmetric_key.secondary_key == SECONDARY
    update = manager.update_module_with_sas(device_id, "sas+m", "you", made.etag, SECONDARY, PRIMARY)
    assert update.managed_by == "you"
    assert update.authentication.symmetric_key.primary_key == SECONDARY
    with pytest.raises(HttpOperationError) as caught:
        manager.create_module_with_sas(device_id, "sas+m", "me", PRIMARY, SECONDARY)
    refused(caught, 409, "ModuleAlreadyExistsOnDevice")
    with pytest.raises(HttpOperationError) as caught:
        manager.update_module_with_sas(device_id, "sas+m", "me", made.etag, PRIMARY, SECONDARY)
    refused(caught, 412, "PreconditionFailed")

    signed = manager.create_module_with_x509(device_id, "signed", "", SHA1, SHA256)
    assert signed.authentication.x509_thumbprint.secondary_thumbprint == SHA256
    signed = manager.update_module_with_x509(device_id, "signed", "", None, SHA256, SHA1)
    assert signed.authentication.x509_thumbprint.primary_thumbprint == SHA256
    authority = manager.create_module_with_certificate_authority(device_id, "authority", "")
    assert authority.authentication.type == "certificateAuthority"
    authority = manager.update_module_with_certificate_authority(device_id, "authority", "x", authority.etag)
    assert authority.managed_by == "x"

    assert manager.get_module(device_id, "sas+m").as_dict() == update.as_dict()
    names = [module.module_id for module in manager.get_modules(device_id)]
    assert names == ["authority", "sas+m", "signed"]
    manager.delete_module(device_id, "sas+m", update.etag)
    manager.delete_module(device_id, "signed")
    with pytest.raises(HttpOperationError) as caught:
        manager.get_module(device_id, "signed")
    refused(caught, 404, "ModuleNotFound")
    assert [module.module_id for module in manager.get_modules(device_id)] == ["authority"]


def test_devices_are_listed_and_counted(manager: IoTHubRegistryManager, device_id: str) -> None:
    before = manager.get_device_registry_statistics()
    manager.create_device_with_sas(device_id, None, None, "disabled")
    after = manager.get_device_registry_statistics()
    assert after.total_device_count == before.total_device_count + 1
    assert after.disabled_device_count == before.disabled_device_count + 1
    assert after.enabled_device_count == before.enabled_device_count
    assert manager.get_service_statistics().connected_device_count >= 0
    listed = {device.device_id: device for device in manager.get_devices()}
    assert listed[device_id].as_dict() == manager.get_device(device_id).as_dict()
    assert len(manager.get_devices(1)) == 1


def test_bulk_calls(manager: IoTHubRegistryManager, device_id: str) -> None:
    names = [f"{device_id}-{number}" for number in range(100)]

    def items(mode: str, **fields: object) -> list[ExportImportDevice]:
        keys = AuthenticationMechanism(type="sas", symmetric_key=SymmetricKey(primary_key=PRIMARY))
        return [ExportImportDevice(id=name, import_mode=mode, authentication=keys, **fields) for name in names]

    result = manager.bulk_create_or_update_devices(items("create"))
    assert (result.is_successful, result.errors, result.warnings) == (True, [], [])
    assert manager.get_device(names[99]).authentication.symmetric_key.primary_key == PRIMARY
    result = manager.bulk_create_or_update_devices(
        [*items("update", status="disabled")[:2], ExportImportDevice(id=f"{device_id}-ghost", import_mode="delete")]
    )
    assert result.is_successful is False
    (error,) = result.errors
    assert (error.device_id, error.error_code) == (f"{device_id}-ghost", "DeviceNotFound")
    assert manager.get_device(names[1]).status == "disabled"
    result = manager.bulk_create_or_update_devices(items("delete"))
    assert result.is_successful is True
    with pytest.raises(HttpOperationError) as caught:
        manager.bulk_create_or_update_devices([*items("create"), ExportImportDevice(id=device_id)])
    refused(caught, 413, "TooManyDevices")


def test_a_wrong_policy_key_is_refused_with_a_tracking_id(hub: HubProcess, manager: IoTHubRegistryManager) -> None:
    wrong = re.sub("SharedAccessKey=.*", f"SharedAccessKey={PRIMARY}", hub.facts["HUB_CONNECTION_STRING"])
    with pytest.raises(HttpOperationError) as caught:
        IoTHubRegistryManager.from_connection_string(wrong).get_devices()
    refused(caught, 401, "IotHubUnauthorizedAccess")
    assert "Tracking ID:" in caught.value.response.json()["ExceptionMessage"]
