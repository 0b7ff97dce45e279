"""Connection strings that ``muster hub policy`` prints, in the real clients: azure-iot-hub, azure-eventhub and
azure-iot-device. What is rotated, deleted or switched off counts no more for them, and ``muster why`` says why."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubConsumerClient
from azure.iot.device import IoTHubDeviceClient, Message
from azure.iot.device.exceptions import ClientError, CredentialError
from azure.iot.hub import IoTHubRegistryManager
from msrest.exceptions import HttpOperationError

from muster.dialect.connection_string import parse_connection_string
from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process

pytestmark = pytest.mark.sdk
PATIENCE_SECONDS = 60


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with hub_process(tmp_path_factory.mktemp("policies"), loopback()) as hub:
        yield hub


@pytest.fixture(autouse=True)
def trusted(own: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    if own.port("https") != 443:
        pytest.skip("the service SDK calls port 443, which may not be bound here")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", own.facts["REQUESTS_CA_BUNDLE"])


def muster(hub: HubProcess, *arguments: str) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "muster", *arguments, "--data", str(hub.directory / "data")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def policy(hub: HubProcess, *arguments: str) -> str:
    return muster(hub, "hub", "policy", *arguments)


def refused(hub: HubProcess, act: Callable[[], Any]) -> str:
    """The cause for which the hub refuses a call of azure-iot-hub with 401, as ``muster why`` names it."""
    with pytest.raises(HttpOperationError) as caught:
        act()
    assert caught.value.response.status_code == 401
    body = caught.value.response.json()
    assert body["Message"].startswith("ErrorCode:IotHubUnauthorizedAccess;")
    tracking_id = body["ExceptionMessage"].removeprefix("Tracking ID:").partition("-")[0]
    told: str = json.loads(muster(hub, "why", tracking_id, "--json"))["cause"]
    return told


def test_azure_iot_hub_may_do_what_its_policy_grants_now(own: HubProcess) -> None:
    own.add_device("d")
    text = policy(own, "set", "own", "--right", "RegistryRead")
    client = IoTHubRegistryManager.from_connection_string(text)
    assert client.get_device("d").device_id == "d"
    assert refused(own, lambda: client.get_twin("d")) == "policy-lacks-right"
    assert policy(own, "set", "own", "--right", "RegistryRead", "--right", "ServiceConnect") == text, "the keys stay"
    assert client.get_twin("d").device_id == "d"
    new = policy(own, "rotate", "own", "primary")
    assert new != text
    assert refused(own, lambda: client.get_device("d")) == "wrong-key"
    assert IoTHubRegistryManager.from_connection_string(new).get_device("d").device_id == "d"
    shown = json.loads(policy(own, "show", "own", "--json"))
    assert (shown["connectionString"], shown["rights"]) == (new, "RegistryRead, ServiceConnect")
    policy(own, "delete", "own")
    assert refused(own, lambda: IoTHubRegistryManager.from_connection_string(new).get_device("d")) == "policy-unknown"
    assert "own " not in policy(own, "list")


def test_azure_eventhub_reads_until_its_key_is_rotated_and_again_with_the_new_one(own: HubProcess) -> None:
    policy(own, "set", "reader", "--right", "ServiceConnect")
    device = IoTHubDeviceClient.create_from_connection_string(
        own.device_connection_string("sender", own.add_device("sender")),
        server_verification_cert=Path(own.facts["HUB_CA_FILE"]).read_text(),
    )
    device.connect()

    def consumer() -> EventHubConsumerClient:
        login = parse_connection_string(policy(own, "show", "reader"))
        text = parse_connection_string(own.facts["EVENTHUB_CONNECTION_STRING"])
        return EventHubConsumerClient.from_connection_string(
            replace(text, policy=login.policy, key=login.key).text(), "$Default",
            connection_verify=own.facts["HUB_CA_FILE"], retry_total=0,
        )  # fmt: skip

    came, errors = queue.SimpleQueue[str](), queue.SimpleQueue[Exception]()

    def on_event(_: Any, event: EventData | None) -> None:
        if event is not None:
            came.put(event.body_as_str())

    def receive(client: EventHubConsumerClient) -> threading.Thread:
        options = {"on_error": lambda _, error: errors.put(error), "starting_position": "-1"}
        thread = threading.Thread(target=client.receive, args=(on_event,), kwargs=options, daemon=True)
        thread.start()
        return thread

    try:
        with consumer() as client:
            thread = receive(client)
            device.send_message(Message("one"))
            assert came.get(timeout=PATIENCE_SECONDS) == "one"
            policy(own, "rotate", "reader", "primary")
            assert errors.get(timeout=PATIENCE_SECONDS)
        thread.join(PATIENCE_SECONDS)
        newest = json.loads(muster(own, "why", "--last", "--json"))
        assert newest["cause"] in {"policy-withdrawn", "wrong-key"}
        with consumer() as client:
            thread = receive(client)
            assert came.get(timeout=PATIENCE_SECONDS) == "one"
        thread.join(PATIENCE_SECONDS)
    finally:
        device.shutdown()


def test_azure_iot_device_comes_by_a_policy_with_device_connect_until_its_key_is_rotated(own: HubProcess) -> None:
    own.add_device("behalf")
    roots = Path(own.facts["HUB_CA_FILE"]).read_text()

    def token() -> str:
        key = parse_connection_string(policy(own, "show", "gateway")).key
        return own.token("devices/behalf", key, "gateway")

    policy(own, "set", "gateway", "--right", "DeviceConnect")
    old = token()
    client = IoTHubDeviceClient.create_from_sastoken(old, server_verification_cert=roots, connection_retry=False)
    gone = threading.Event()
    client.on_connection_state_change = lambda: None if client.connected else gone.set()
    client.connect()
    client.send_message(Message("by a policy"))
    policy(own, "rotate", "gateway", "primary")
    assert gone.wait(PATIENCE_SECONDS)
    assert json.loads(muster(own, "why", "--device", "behalf", "--json"))["cause"] == "policy-withdrawn"
    with pytest.raises((CredentialError, ClientError)):
        client.connect()
    assert json.loads(muster(own, "why", "--device", "behalf", "--json"))["cause"] == "wrong-key"
    client.shutdown()
    client = IoTHubDeviceClient.create_from_sastoken(token(), server_verification_cert=roots)
    client.connect()
    client.send_message(Message("with the new key"))
    client.shutdown()


def test_without_local_auth_services_are_refused_and_devices_go_on_over_a_restart(
    make_hub: Callable[..., HubProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_hub() as hub:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["REQUESTS_CA_BUNDLE"])
        service = IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])
        text = muster(hub, "device", "add", "d")
        roots = Path(hub.facts["HUB_CA_FILE"]).read_text()
        device = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=roots)
        device.send_message(Message("before"))
        name = next(iter(hub.facts["hubs"]))
        muster(hub, "hub", "set", name, "--local-auth", "off")
        for _ in range(2):
            assert refused(hub, lambda: service.get_device("d")) == "local-auth-disabled"
            device.send_message(Message("a device's own key"))
            assert json.loads(muster(hub, "hub", "show", name))["disableLocalAuth"] is True
            device.shutdown()
            hub.stop()
            hub.start()
            device = IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=roots)
        muster(hub, "hub", "set", name, "--local-auth", "on")
        assert service.get_device("d").device_id == "d"
        device.shutdown()
