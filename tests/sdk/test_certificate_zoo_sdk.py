"""The whole certificate zoo as azure-iot-device shows it, to a hub in a process of its own that REST prepares.

The SDK speaks TLS 1.2, where our own client and OpenSSL (``tests/behaviour/test_certificate_zoo_tls.py``) speak 1.3.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient
from azure.iot.device.exceptions import ConnectionFailedError, CredentialError

from muster.core.limits import SIGNATURE_PROBES
from muster.identity.model import Authentication, AuthenticationType, IdentityKey
from muster.testing.hub import HubProcess
from tests import certificate_zoo_bad
from tests.addresses import loopback
from tests.certificate_maker import Maker
from tests.certificate_zoo import ZOO, Registered, Specimen
from tests.engines import hub_process

assert certificate_zoo_bad
pytestmark = pytest.mark.sdk

NOT_BY_THIS_SDK = {
    "no_certificate_came": "its clients have a certificate or a key, never nothing",
    "token_beside_a_good_certificate": "a client with a certificate sends no token",
}
STRICT = {
    "thumbprint_weak_key": "EE_KEY_TOO_SMALL",
    "weak_leaf": "EE_KEY_TOO_SMALL",
    "weak_intermediate": "CA_KEY_TOO_SMALL",
    "leaf_signed_with_sha1": "CA_MD_TOO_WEAK",
    "intermediate_signed_with_sha1": "CA_MD_TOO_WEAK",
}
"""What Python's ssl does not load by itself, and what it says; only with the SDK's ``cipher`` option does it go out."""
ANSWERS = {"revocation-unknown": ConnectionFailedError}
"""What ``connect`` raises for a cause, where it is not ``CredentialError``."""


class Hub:
    """A hub that only this module uses: every specimen finds it empty."""

    def __init__(self, process: HubProcess) -> None:
        self.process = process
        self.path = (
            f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{process.address}/certificates"
        )

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        status, answer = self.process.request(method, path, body, **headers)
        assert status < 300, answer
        return answer

    def prepare(self, specimen: Specimen) -> None:
        for number, one in enumerate(specimen.authorities):
            self.trust(f"ca{number}", one)
        for name, held in specimen.others.items():
            self.register(IdentityKey(name), held)
        if specimen.key.module_id is not None:
            self.register(IdentityKey(specimen.key.device_id), Authentication(AuthenticationType.NONE))
        if specimen.registered:
            self.register(specimen.key, specimen.authentication, enabled=specimen.enabled)

    def trust(self, name: str, one: Registered) -> None:
        properties = {"certificate": one.pair.pem.decode(), "isVerified": one.verified}
        self.request("PUT", f"{self.path}/{name}", {"properties": properties})
        if one.rules.fail_closed:
            self.request("PUT", f"/$muster/authorities/{name}/rules", {"failClosed": True})
        for der in one.lists:
            self.request("PUT", f"/$muster/authorities/{name}/list", {"list": base64.b64encode(der).decode()})

    def register(self, key: IdentityKey, held: Authentication, *, enabled: bool = True) -> None:
        thumbprints = {"primaryThumbprint": held.primary_thumbprint, "secondaryThumbprint": held.secondary_thumbprint}
        authentication = {"type": held.type.value, "x509Thumbprint": thumbprints}
        path, body = f"/devices/{key.device_id}", {"deviceId": key.device_id, "authentication": authentication}
        if key.module_id is None:
            body["status"] = "enabled" if enabled else "disabled"
        else:
            path, body["moduleId"] = f"{path}/modules/{key.module_id}", key.module_id
        self.request("PUT", path, body)

    def clear(self) -> None:
        for one in self.request("GET", self.path)["value"]:
            self.request("DELETE", f"{self.path}/{one['name']}", **{"If-Match": "*"})
        for one in self.request("GET", "/devices"):
            self.request("DELETE", f"/devices/{one['deviceId']}", **{"If-Match": "*"})

    def newest_refusal(self) -> Any:
        """Of the device or its module; empty without any."""
        found = self.request("GET", "/$muster/why?device=dev")["refusals"]
        return found[0] if found else {}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with hub_process(tmp_path_factory.mktemp("zoo"), loopback(), "--sync", "off") as process:
        yield process


@pytest.fixture
def hub(process: HubProcess) -> Iterator[Hub]:
    hub = Hub(process)
    yield hub
    hub.clear()


def client_of(hub: Hub, specimen: Specimen, directory: Path, **options: Any) -> Any:
    """A client of the SDK that shows the specimen and tries once."""
    assert specimen.leaf is not None
    certificate, key = directory / "client.pem", directory / "client.key"
    certificate.write_bytes(b"".join(one.pem for one in (specimen.leaf, *specimen.sent)))
    key.write_bytes(specimen.leaf.key_pem)
    names = {"device_id": specimen.key.device_id}
    kind: Any = IoTHubDeviceClient
    if specimen.key.module_id is not None:
        kind, names["module_id"] = IoTHubModuleClient, specimen.key.module_id
    return kind.create_from_x509_certificate(
        X509(str(certificate), str(key)), hostname=hub.process.address, connection_retry=False,
        server_verification_cert=Path(hub.process.facts["HUB_CA_FILE"]).read_text(), **names, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", [name for name in ZOO if name not in NOT_BY_THIS_SDK])
def test_a_specimen_by_the_sdk(hub: Hub, tmp_path: Path, name: str) -> None:
    cause, recipe = ZOO[name]
    specimen = recipe(Maker(time.time()))
    hub.prepare(specimen)
    before = hub.newest_refusal()
    if cause.startswith("thumbprint-"):
        time.sleep(1 / SIGNATURE_PROBES.open)  # a hub that others asked just now would not look whose it is
    if name in STRICT:
        with pytest.raises(ssl.SSLError, match=STRICT[name]):
            client_of(hub, specimen, tmp_path)
    options = {"cipher": "DEFAULT:@SECLEVEL=0"} if name in STRICT else {}
    client = client_of(hub, specimen, tmp_path, **options)
    try:
        if cause:
            with pytest.raises(ANSWERS.get(cause, CredentialError)):
                client.connect()
        else:
            client.connect()
            client.send_message("by certificate")
    finally:
        client.shutdown()
    newest = hub.newest_refusal()
    if cause:
        assert newest["cause"] == cause
        assert newest["trackingId"] != before.get("trackingId")
    else:
        assert newest == before
