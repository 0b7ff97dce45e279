"""The provisioning client of Python, sync and async, over MQTT and WebSocket: devices register and send to the hub that
they were given."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, Message, ProvisioningDeviceClient
from azure.iot.device.aio import IoTHubDeviceClient as AsyncIoTHubDeviceClient
from azure.iot.device.aio import ProvisioningDeviceClient as AsyncProvisioningDeviceClient
from azure.iot.device.exceptions import ClientError

from muster.provisioning.attestation.symmetric_key import derive
from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker, Pair
from tests.provisioning_client import Provisioning

pytestmark = pytest.mark.sdk


@pytest.fixture
def dps(https_443: HubProcess) -> Provisioning:
    return Provisioning(https_443)


def options(dps: Provisioning, websockets: bool) -> dict[str, Any]:
    return {"server_verification_cert": Path(dps.hub.facts["HUB_CA_FILE"]).read_text(), "websockets": websockets}


def place(dps: Provisioning, name: str) -> dict[str, str]:
    return {"provisioning_host": dps.hub.address, "registration_id": name, "id_scope": dps.scope}


def x509(directory: Path, leaf: Pair, *sent: Pair) -> X509:
    certificate, key = directory / "client.pem", directory / "client.key"
    certificate.write_bytes(b"".join(one.pem for one in (leaf, *sent)))
    key.write_bytes(leaf.key_pem)
    return X509(cert_file=str(certificate), key_file=str(key))


def connected(hub: HubProcess, device: str) -> bool:
    _, found = hub.request("GET", f"/devices/{device}")
    return str(found["lastActivityTime"]) > "0001-01-02"


@pytest.mark.parametrize("websockets", [False, True])
def test_a_device_with_a_key_of_its_own(dps: Provisioning, websockets: bool) -> None:
    name = f"python-{os.getpid()}-own-{websockets}".lower()
    key = dps.enroll(name)["attestation"]["symmetricKey"]["primaryKey"]
    client = ProvisioningDeviceClient.create_from_symmetric_key(
        **place(dps, name), symmetric_key=key, **options(dps, websockets)
    )
    client.provisioning_payload = {"größe": 1}
    result = client.register()
    state = result.registration_state
    assert (result.status, state.assigned_hub, state.device_id) == ("assigned", dps.hub.address, name)
    assert state.sub_status == "initialAssignment"
    device = IoTHubDeviceClient.create_from_symmetric_key(
        key, state.assigned_hub, state.device_id, **options(dps, websockets)
    )
    device.send_message(Message("here I am"))
    device.shutdown()
    assert connected(dps.hub, name)


@pytest.mark.parametrize("websockets", [False, True])
async def test_a_device_of_a_group_with_a_derived_key(dps: Provisioning, websockets: bool) -> None:
    name = f"python-{os.getpid()}-derived-{websockets}".lower()
    group = dps.group(f"python-{os.getpid()}-keys")
    key = derive(group["attestation"]["symmetricKey"]["primaryKey"], name)
    client = AsyncProvisioningDeviceClient.create_from_symmetric_key(
        **place(dps, name), symmetric_key=key, **options(dps, websockets)
    )
    result = await client.register()
    assert result.status == "assigned"
    device = AsyncIoTHubDeviceClient.create_from_symmetric_key(
        key, result.registration_state.assigned_hub, name, **options(dps, websockets)
    )
    await device.send_message(Message("here I am"))
    await device.shutdown()
    assert connected(dps.hub, name)


@pytest.mark.parametrize("websockets", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_a_device_with_a_certificate(dps: Provisioning, tmp_path: Path, websockets: bool, grouped: bool) -> None:
    name = f"python-{os.getpid()}-x509-{websockets}-{grouped}".lower()
    make = Maker(time.time())
    root = make.root(f"Root of {name}")
    middle = make.intermediate(f"Middle of {name}", root)
    leaf = make.issue(name, middle if grouped else None)
    role, held = ("signingCertificates", root) if grouped else ("clientCertificates", leaf)
    attestation = {"type": "x509", "x509": {role: {"primary": {"certificate": held.pem.decode()}}}}
    (dps.group if grouped else dps.enroll)(name, attestation)
    own = x509(tmp_path, leaf, *([middle] if grouped else []))
    result = ProvisioningDeviceClient.create_from_x509_certificate(
        **place(dps, name), x509=own, **options(dps, websockets)
    ).register()
    assert (result.status, result.registration_state.device_id) == ("assigned", name)
    device = IoTHubDeviceClient.create_from_x509_certificate(own, dps.hub.address, name, **options(dps, websockets))
    device.send_message(Message("here I am"))
    device.shutdown()
    assert connected(dps.hub, name)


async def test_a_wrong_key_ends_in_an_error_and_a_disabled_enrollment_too(dps: Provisioning) -> None:
    name = f"python-{os.getpid()}-refused"
    key = dps.enroll(name, provisioningStatus="disabled")["attestation"]["symmetricKey"]["primaryKey"]
    for used, cause in ((derive(key, name), "wrong-enrollment-key"), (key, "enrollment-disabled")):
        client = AsyncProvisioningDeviceClient.create_from_symmetric_key(
            **place(dps, name), symmetric_key=used, **options(dps, False)
        )
        with pytest.raises(ClientError):
            await client.register()
        assert dps.why(name) == cause
