"""The real clients with certificates: devices and modules of Python and Node.js, and the registry manager."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.device.aio import IoTHubDeviceClient as AsyncIoTHubDeviceClient
from azure.iot.device.aio import IoTHubModuleClient as AsyncIoTHubModuleClient
from azure.iot.device.exceptions import CredentialError
from azure.iot.hub import IoTHubRegistryManager

from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker, Pair

pytestmark = pytest.mark.sdk
NODE_HOME = Path(__file__).resolve().parents[1] / "node"


class Scene:
    """A root that the hub trusts, an intermediate, and the registry manager."""

    def __init__(self, hub: HubProcess, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hub, self.directory = hub, directory
        self.make = Maker(time.time())
        self.root = self.make.root()
        self.middle = self.make.intermediate("Middle", self.root)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["HUB_CA_BUNDLE"])
        monkeypatch.setenv("SSL_CERT_FILE", hub.facts["HUB_CA_BUNDLE"])
        self.registry = IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])
        self.name = f"{directory.name}-{os.getpid()}"[-40:]
        body = {"properties": {"certificate": self.root.pem.decode(), "isVerified": True}}
        status, made = hub.request("PUT", self.path, body)
        assert status in (200, 201), made

    @property
    def path(self) -> str:
        providers = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices"
        return f"{providers}/IotHubs/{self.hub.address}/certificates/{self.name}"

    def close(self) -> None:
        self.hub.request("DELETE", self.path, **{"If-Match": "*"})

    def x509(self, leaf: Pair, *sent: Pair) -> X509:
        certificate, key = self.directory / "client.pem", self.directory / "client.key"
        certificate.write_bytes(b"".join(one.pem for one in (leaf, *sent)))
        key.write_bytes(leaf.key_pem)
        return X509(cert_file=str(certificate), key_file=str(key))

    def options(self, websockets: bool) -> dict[str, Any]:
        roots = Path(self.hub.facts["HUB_CA_FILE"]).read_text()
        return {"hostname": self.hub.address, "server_verification_cert": roots, "websockets": websockets}


@pytest.fixture
def scene(hub: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    scene = Scene(hub, tmp_path, monkeypatch)
    yield scene
    scene.close()


def require_443(hub: HubProcess, websockets: bool) -> None:
    if websockets and hub.port("https") != 443:
        pytest.skip("port 443 may not be bound here")


@pytest.mark.parametrize("websockets", [False, True])
def test_python_device_and_module_by_authority(scene: Scene, websockets: bool) -> None:
    require_443(scene.hub, websockets)
    device = f"ca-{scene.name}"
    made = scene.registry.create_device_with_certificate_authority(device, "enabled")
    assert made.authentication.type == "certificateAuthority"
    scene.registry.create_module_with_certificate_authority(device, "mod", "me")
    leaf = scene.make.issue(device, scene.middle)
    client = IoTHubDeviceClient.create_from_x509_certificate(
        scene.x509(leaf, scene.middle), device_id=device, **scene.options(websockets)
    )
    client.connect()
    client.send_message("by certificate")
    assert client.get_twin()["desired"]["$version"] == 1
    client.shutdown()
    leaf = scene.make.issue(f"{device}/mod", scene.middle, key=None)
    module = IoTHubModuleClient.create_from_x509_certificate(
        scene.x509(leaf, scene.middle), device_id=device, module_id="mod", **scene.options(websockets)
    )
    module.connect()
    module.send_message("by certificate")
    module.shutdown()


@pytest.mark.parametrize("websockets", [False, True])
async def test_async_python_device_and_module_by_thumbprint(scene: Scene, websockets: bool) -> None:
    require_443(scene.hub, websockets)
    device = f"tp-{scene.name}"
    leaf, other = scene.make.issue("any name", None), scene.make.issue("another", None)
    made = scene.registry.create_device_with_x509(device, other.sha1, leaf.sha256, "enabled")
    assert made.authentication.type == "selfSigned"
    assert made.authentication.x509_thumbprint.secondary_thumbprint == leaf.sha256
    scene.registry.create_module_with_x509(device, "mod", "me", leaf.sha1, "")
    for kind, names in (
        (AsyncIoTHubDeviceClient, {"device_id": device}),
        (AsyncIoTHubModuleClient, {"device_id": device, "module_id": "mod"}),
    ):
        client = kind.create_from_x509_certificate(scene.x509(leaf), **names, **scene.options(websockets))
        await client.connect()
        await client.send_message("by certificate")
        await client.shutdown()


def test_a_refused_python_device_hears_it_and_the_hub_tells_why(scene: Scene) -> None:
    device = f"no-{scene.name}"
    scene.registry.create_device_with_certificate_authority(device, "enabled")
    client = IoTHubDeviceClient.create_from_x509_certificate(
        scene.x509(scene.make.issue(device, scene.middle)), device_id=device, **scene.options(False)
    )
    with pytest.raises(CredentialError):
        client.connect()
    client.shutdown()
    _, answer = scene.hub.request("GET", f"/$muster/why?device={device}")
    assert answer["refusals"][0]["cause"] == "intermediate-missing"


@pytest.mark.parametrize("transport", ["mqtt", "mqtt-ws", "amqp", "amqp-ws"])
def test_node_devices_and_modules(scene: Scene, transport: str) -> None:
    require_443(scene.hub, transport.endswith("-ws"))
    device = f"node-{scene.name}"
    thumb = scene.make.issue("any", None)
    scene.registry.create_device_with_certificate_authority(device, "enabled")
    scene.registry.create_module_with_certificate_authority(device, "mod", "me")
    scene.registry.create_device_with_x509(f"{device}-tp", thumb.sha1, "", "enabled")
    host = f"HostName={scene.hub.address};x509=true"
    leaf, module = scene.make.issue(device, scene.middle), scene.make.issue(f"{device}/mod", scene.middle)
    given = [
        {"connectionString": f"{host};{ids}", "cert": "".join(one.pem.decode() for one in sent),
         "key": sent[0].key_pem.decode()}
        for ids, sent in (
            (f"DeviceId={device}", (leaf, scene.middle)),
            (f"DeviceId={device};ModuleId=mod", (module, scene.middle)),
            (f"DeviceId={device}-tp", (thumb,)),
        )
    ]  # fmt: skip
    names = {name: str(value) for name, value in scene.hub.facts.items() if name.isupper()}
    done = subprocess.run(
        ["node", "x509.js", transport], cwd=NODE_HOME, env={**os.environ, **names}, input=json.dumps(given),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
