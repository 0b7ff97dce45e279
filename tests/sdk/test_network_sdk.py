"""Unmodified SDKs at an address that the rules refuse: they hear that they are not authorized, and go on elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventHubConsumerClient
from azure.eventhub.exceptions import EventHubError
from azure.iot.device import IoTHubDeviceClient, ProvisioningDeviceClient
from azure.iot.device.exceptions import ClientError, CredentialError
from azure.iot.hub import IoTHubRegistryManager
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.coming_from import coming_from
from tests.engines import hub_process
from tests.provisioning_client import Provisioning

pytestmark = pytest.mark.sdk

THERE = "127.9.9.9"
RULES = {
    "networkRuleSets": {
        "defaultAction": "Deny",
        "applyToBuiltInEventHubEndpoint": True,
        "ipRules": [{"filterName": "here", "action": "Allow", "ipMask": "127.0.0.1"}],
    }
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub and a provisioning service that take nobody but those at 127.0.0.1."""
    with hub_process(tmp_path_factory.mktemp("guarded"), loopback()) as hub:
        if hub.port("https") != 443:
            pytest.skip("port 443 may not be bound here")
        assert hub.request("PUT", "/$muster/network", RULES)[0] == 200
        only = {"filterName": "there", "action": "Reject", "ipMask": "127.9.0.0/16"}
        answer = Provisioning(hub).call("PUT", "/$muster/provisioning/network", {"ipFilterRules": [only]})
        assert answer.status == 200
        yield hub


def trust(hub: HubProcess) -> str:
    return Path(hub.facts["HUB_CA_FILE"]).read_text()


@pytest.mark.parametrize("websockets", [False, True])
def test_a_device(guarded: HubProcess, websockets: bool) -> None:
    name = f"device-{websockets}".lower()
    text = guarded.device_connection_string(name, guarded.add_device(name))

    def client() -> Any:
        return IoTHubDeviceClient.create_from_connection_string(
            text, server_verification_cert=trust(guarded), websockets=websockets, connection_retry=False
        )

    there = client()
    with coming_from(THERE), pytest.raises(CredentialError):
        there.connect()
    there.shutdown()
    here = client()
    here.send_message("let in")
    here.shutdown()


def test_a_registry_manager(guarded: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", guarded.facts["HUB_CA_FILE"])
    manager = IoTHubRegistryManager.from_connection_string(guarded.facts["HUB_CONNECTION_STRING"])
    with coming_from(THERE), pytest.raises(HttpOperationError) as refused:
        manager.get_service_statistics()
    assert refused.value.response.status_code == 401
    manager = IoTHubRegistryManager.from_connection_string(guarded.facts["HUB_CONNECTION_STRING"])
    assert manager.get_service_statistics().connected_device_count == 0


def test_an_event_hubs_consumer(guarded: HubProcess) -> None:
    def partitions() -> list[str]:
        client = EventHubConsumerClient.from_connection_string(
            guarded.facts["EVENTHUB_CONNECTION_STRING"], "$Default",
            connection_verify=guarded.facts["HUB_CA_FILE"], retry_total=0,
        )  # fmt: skip
        with client:
            return list(client.get_partition_ids())

    with coming_from(THERE), pytest.raises(EventHubError):
        partitions()
    assert partitions()


@pytest.mark.parametrize("websockets", [False, True])
def test_a_device_that_registers(guarded: HubProcess, websockets: bool) -> None:
    dps = Provisioning(guarded)
    name = f"registers-{websockets}".lower()
    key = dps.enroll(name)["attestation"]["symmetricKey"]["primaryKey"]

    def register() -> Any:
        client = ProvisioningDeviceClient.create_from_symmetric_key(
            provisioning_host=guarded.address, registration_id=name, id_scope=dps.scope, symmetric_key=key,
            server_verification_cert=trust(guarded), websockets=websockets,
        )  # fmt: skip
        return client.register()

    with coming_from(THERE), pytest.raises(ClientError):
        register()
    assert register().status == "assigned"
