"""Bearer tokens of a real issuer: azure-identity's client secret credential in azure-iot-hub and in azure-iothub."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from azure.eventhub import EventHubConsumerClient, TransportType
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import QuerySpecification, Twin
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process
from tests.issuer_parts import rsa_key
from tests.provisioning_client import Provisioning
from tests.sdk.oidc_issuer import NODE_HOME, SECRET, TENANT, OidcIssuer

pytestmark = pytest.mark.sdk

CLIENTS = {
    "reader": {"roles": ["IoT Hub Data Reader"]},
    "registry": {"roles": ["IoT Hub Registry Contributor"]},
    "contributor": {"roles": ["IoT Hub Data Contributor"]},
    "events": {"roles": ["Azure Event Hubs Data Receiver"]},
    "manager": {"roles": ["Contributor"]},
    "enroller": {"roles": ["Device Provisioning Service Data Contributor"]},
    "auditor": {"roles": ["Device Provisioning Service Data Reader"]},
    "nobody": {},
}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcIssuer]:
    with OidcIssuer(tmp_path_factory.mktemp("issuer"), CLIENTS) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, issuer: OidcIssuer) -> Iterator[HubProcess]:
    """A hub that takes the issuer's tokens."""
    with hub_process(tmp_path_factory.mktemp("trusting"), loopback(), "--partitions", "1", *issuer.options) as hub:
        hub.add_device("d")
        yield hub


@pytest.fixture(autouse=True)
def trusted_by_requests(trusting: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", trusting.facts["REQUESTS_CA_BUNDLE"])


def manager(hub: HubProcess, issuer: OidcIssuer, client: str) -> IoTHubRegistryManager:
    return IoTHubRegistryManager.from_token_credential(hub.address, issuer.credential(client))


def call(hub: HubProcess, token: str, path: str = "/devices/d", method: str = "GET") -> tuple[int, dict[str, Any]]:
    """Status and body of one call."""
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=30)
    headers = {"Authorization": f"Bearer {token}"}
    try:
        connection.request(method, f"{path}?api-version=2021-04-12", headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def refused(hub: HubProcess, token: str, path: str = "/devices/d") -> tuple[int, str, str]:
    """Status and name of the refusal on the wire, and its cause as ``muster why`` tells it."""
    status, body = call(hub, token, path)
    tracking_id = body["ExceptionMessage"].removeprefix("Tracking ID:").partition("-")[0]
    _, kept = hub.request("GET", f"/$muster/why?trackingId={tracking_id}")
    name = body["Message"].removeprefix("ErrorCode:").partition(";")[0]
    return status, name, kept["refusals"][0]["cause"]


def test_each_role_does_its_own_and_no_more_with_azure_iot_hub(trusting: HubProcess, issuer: OidcIssuer) -> None:
    reader = manager(trusting, issuer, "reader")
    assert reader.get_device("d").device_id == "d"
    assert reader.get_twin("d").device_id == "d"
    assert [one.device_id for one in reader.query_iot_hub(QuerySpecification(query="SELECT * FROM devices")).items]
    assert reader.get_device_registry_statistics().total_device_count
    for act in (
        lambda: reader.create_device_with_sas("new", "", "", "enabled"),
        lambda: reader.update_twin("d", Twin(tags={"a": 1}), "*"),
        lambda: reader.delete_device("d"),
    ):
        with pytest.raises(HttpOperationError) as caught:
            act()
        assert caught.value.response.status_code == 403
        assert caught.value.response.headers["iothub-errorcode"] == "GenericForbidden"
        message = caught.value.response.json()["Message"]
        assert message.startswith(f"ErrorCode:GenericForbidden;Principal reader ({issuer.url}) is not authorized for ")
    registry = manager(trusting, issuer, "registry")
    registry.create_device_with_sas("new", "", "", "enabled")
    registry.delete_device("new")
    with pytest.raises(HttpOperationError) as caught:
        registry.get_twin("d")
    assert caught.value.response.status_code == 403
    contributor = manager(trusting, issuer, "contributor")
    assert contributor.update_twin("d", Twin(tags={"a": 1}), "*").tags == {"a": 1}
    with pytest.raises(HttpOperationError) as caught:
        manager(trusting, issuer, "nobody").get_device("d")
    assert caught.value.response.status_code == 403


def test_keys_are_rotated_while_a_client_works(trusting: HubProcess, issuer: OidcIssuer) -> None:
    credential = issuer.credential("reader")
    there = IoTHubRegistryManager.from_token_credential(trusting.address, credential)
    old = issuer.token("reader")
    kids = {jwt.get_unverified_header(old)["kid"]}
    for _ in range(2):
        assert there.get_device("d").device_id == "d"
        issuer.tell(rotate=True)
        fresh = issuer.token("reader")
        kids.add(jwt.get_unverified_header(fresh)["kid"])
        assert call(trusting, fresh)[0] == 200
        assert call(trusting, old)[0] == 200
    assert len(kids) == 3


def test_the_tokens_of_each_surface_stay_there(trusting: HubProcess, issuer: OidcIssuer) -> None:
    management = issuer.token("manager", "https://management.azure.com")
    assert call(trusting, management, "/$muster/authorities")[0] == 200
    assert refused(trusting, management) == (401, "IotHubUnauthorizedAccess", "bearer-audience")
    data = issuer.token("contributor")
    assert refused(trusting, data, "/$muster/authorities") == (401, "IotHubUnauthorizedAccess", "bearer-audience")
    slash = issuer.token("reader", "https://iothubs.azure.net/")
    assert call(trusting, slash)[0] == 200


def test_attacks_are_refused_each_by_its_name(trusting: HubProcess, issuer: OidcIssuer) -> None:
    good = issuer.token("contributor")
    claims = jwt.decode(good, options={"verify_signature": False})
    kid = jwt.get_unverified_header(good)["kid"]
    mine = rsa_key("attacker")

    def forged(algorithm: str = "RS256", key: Any = mine, key_id: str = kid, **more: Any) -> str:
        return jwt.encode(claims | more, key, algorithm, {"kid": key_id})

    head, payload, signature = good.split(".")
    expected = {
        forged("none", None): "bearer-algorithm",
        forged("HS256", "x" * 40): "bearer-algorithm",
        forged(): "bearer-signature",
        forged(key_id="made-up"): "bearer-key-unknown",
        forged(iss="https://evil.test"): "bearer-issuer",
        f"{head}.{payload}.{signature[:-4]}AAAA": "bearer-signature",
        f"{head}.{payload}.": "bearer-signature",
        "x" * 12_300: "bearer-too-long",
        "not.a.token": "bearer-malformed",
        issuer.token("contributor", "https://vault.azure.net"): "bearer-audience",
    }
    for token, cause in expected.items():
        assert refused(trusting, token) == (401, "IotHubUnauthorizedAccess", cause)
    assert call(trusting, good)[0] == 200


def test_an_unknown_kid_flood_costs_the_issuer_little(trusting: HubProcess, issuer: OidcIssuer) -> None:
    claims = jwt.decode(issuer.token("reader"), options={"verify_signature": False})
    before = issuer.tell(asked=True)["asked"]
    for at in range(100):
        token = jwt.encode(claims, rsa_key("attacker"), "RS256", {"kid": f"made-up-{at}"})
        assert call(trusting, token)[0] == 401
    assert issuer.tell(asked=True)["asked"] - before <= 8


def test_an_issuer_that_is_down_stops_nobody_who_is_known(make_hub: Callable[..., HubProcess], tmp_path: Path) -> None:
    with OidcIssuer(tmp_path, CLIENTS) as own:
        hub = make_hub(*own.options).start()
        hub.add_device("d")
        token, other, late = own.token("reader"), own.token("contributor"), own.token("reader")
        assert call(hub, token)[0] == 200
        own.stop()
        assert call(hub, token)[0] == 200
        assert call(hub, other)[0] == 200, "its signature was never looked at before"
        hub.stop()
        hub.start()
        assert refused(hub, late) == (503, "ServiceUnavailable", "issuer-unreachable")


def test_a_hub_without_an_issuer_says_how_to_name_one(make_hub: Callable[..., HubProcess], issuer: OidcIssuer) -> None:
    hub = make_hub().start()
    assert refused(hub, issuer.token("reader")) == (401, "IotHubUnauthorizedAccess", "bearer-token")


def test_the_short_way_by_the_environment(make_hub: Callable[..., HubProcess], issuer: OidcIssuer) -> None:
    named = (
        f"MUSTER_OIDC_ISSUER={issuer.url}",
        "MUSTER_OIDC_AUDIENCE=api://plant other",
        f"MUSTER_OIDC_CA={issuer.ca}",
    )
    hub = make_hub(prefix=("env", *named)).start()
    hub.add_device("d")
    for audience in ("api://plant", "https://iothubs.azure.net/"):
        assert call(hub, issuer.token("reader", audience))[0] == 200
    assert refused(hub, issuer.token("reader", "api://elsewhere"))[2] == "bearer-audience"


def test_an_issuer_that_cannot_be_one_is_refused_at_the_start(make_hub: Callable[..., HubProcess]) -> None:
    with pytest.raises(RuntimeError, match=r"--oidc-issuer.*not HTTPS"):
        make_hub("--oidc-issuer", "http://issuer.example").start()
    with pytest.raises(RuntimeError, match="holds no certificates"):
        make_hub("--oidc-issuer", "https://issuer.example", "--oidc-ca", os.devnull).start()


def names(hub: HubProcess, issuer: OidcIssuer, client: str) -> dict[str, str]:
    """The environment of a client in another process."""
    bundle = issuer.ca.with_name("bundle.pem")
    bundle.write_bytes(issuer.ca.read_bytes() + Path(hub.facts["HUB_CA_FILE"]).read_bytes())
    return {
        **os.environ, "HOST": hub.address, "HUB_HOST": hub.address, "TENANT": TENANT, "CLIENT": client,
        "SECRET": SECRET, "AUTHORITY": f"https://{urlsplit(issuer.url).netloc}", "AUTHORITY_CA": str(issuer.ca),
        "NODE_EXTRA_CA_CERTS": str(bundle), "SSL_CERT_FILE": str(hub.facts["HUB_CA_BUNDLE"]),
    }  # fmt: skip


def node(hub: HubProcess, issuer: OidcIssuer, client: str, what: str) -> dict[str, Any]:
    """What each step came to: ``True``, or how it was refused."""
    ran = subprocess.run(
        ["node", "token_credential.js", what, "d"], cwd=NODE_HOME, env=names(hub, issuer, client),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    steps = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert steps, ran.stderr
    return {one.get("did", one.get("refused")): one if "refused" in one else True for one in steps}


def test_node_registry_with_a_token_credential(trusting: HubProcess, issuer: OidcIssuer) -> None:
    if trusting.port("https") != 443:
        pytest.skip("the port is fixed")
    steps = node(trusting, issuer, "reader", "registry")
    assert [steps[name] for name in ("get", "getTwin", "query")] == [True] * 3, steps
    for name in ("updateTwin", "create"):
        assert steps[name]["name"] == "TooManyDevicesError", "what it takes any 403 for"
    assert set(node(trusting, issuer, "contributor", "registry").values()) == {True}


def test_node_sends_and_listens_with_a_token_credential(trusting: HubProcess, issuer: OidcIssuer) -> None:
    assert set(node(trusting, issuer, "contributor", "c2d").values()) == {True}
    steps = node(trusting, issuer, "reader", "c2d")
    assert steps["open"] is True
    assert steps["send"]["name"] == "UnauthorizedError"


@pytest.mark.parametrize(("client", "outcome"), [("contributor", "sent"), ("registry", "")])
def test_azure_iot_hub_sends_to_devices(trusting: HubProcess, issuer: OidcIssuer, client: str, outcome: str) -> None:
    pytest.importorskip("uamqp", reason="uamqp has no build for this Python")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("uamqp_sender.py")), "credential"],
        env=names(trusting, issuer, client), capture_output=True, text=True, timeout=120, check=False,
        input=json.dumps({"device": "d", "body": "x", "properties": {}}) + "\n",
    )  # fmt: skip
    if outcome:
        assert done.stdout == "sent\n", done.stderr[-2000:]
    else:
        assert "sent" not in done.stdout.splitlines()
        _, kept = trusting.request("GET", "/$muster/why")
        assert (kept["refusals"][0]["cause"], kept["refusals"][0]["principal"]) == (
            "role-missing",
            f"{client} ({issuer.url})",
        )


class Credential:
    """The issuer's tokens, for azure-eventhub: counts how often it was asked."""

    def __init__(self, issuer: OidcIssuer, client: str) -> None:
        self._inner, self.asked = issuer.credential(client), []

    def get_token(self, *scopes: str, **options: Any) -> Any:
        self.asked.append(scopes)
        return self._inner.get_token(*scopes, **options)


def receive(hub: HubProcess, issuer: OidcIssuer, client: str, transport: TransportType) -> list[str]:
    """The errors that a consumer with the application's tokens meets until it gets an event."""
    consumer = EventHubConsumerClient(
        hub.address, hub.facts["EVENTHUB_CONNECTION_STRING"].rpartition("EntityPath=")[2], "$Default",
        Credential(issuer, client), connection_verify=hub.facts["HUB_CA_FILE"], transport_type=transport,
        retry_total=0, retry_backoff_factor=0.1,
    )  # fmt: skip
    errors: list[str] = []

    def failed(_: Any, error: Exception) -> None:
        errors.append(str(error))
        threading.Thread(target=consumer.close).start()

    def got(_: Any, event: Any) -> None:
        errors.append(event.body_as_str())
        threading.Thread(target=consumer.close).start()

    consumer.receive(got, on_error=failed, partition_id="0", starting_position="-1")
    return errors


@pytest.fixture
def told(trusting: HubProcess) -> None:
    """There is an event in the first partition."""
    device = IoTHubDeviceClient.create_from_connection_string(
        trusting.device_connection_string("d", trusting.request("GET", "/devices/d")[1]["authentication"]
        ["symmetricKey"]["primaryKey"]), server_verification_cert=Path(trusting.facts["HUB_CA_FILE"]).read_text(),
    )  # fmt: skip
    device.connect()
    device.send_message("an event")
    device.shutdown()


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize("transport", [TransportType.Amqp, TransportType.AmqpOverWebsocket])
def test_azure_eventhub_reads_with_a_token_credential(
    trusting: HubProcess, issuer: OidcIssuer, transport: TransportType
) -> None:
    for client in ("events", "contributor"):
        assert receive(trusting, issuer, client, transport)[0] == "an event"
    assert "not authorized for messages/receive/action" in receive(trusting, issuer, "reader", transport)[0]


def test_node_enrolls_devices_with_a_token_credential(trusting: HubProcess, issuer: OidcIssuer) -> None:
    if trusting.port("https") != 443:
        pytest.skip("the port is fixed")
    trusting_provisioning = Provisioning(trusting)
    trusting_provisioning.enroll("d")
    steps = node(trusting, issuer, "auditor", "provisioning")
    assert [steps[name] for name in ("get", "query", "groups")] == [True] * 3, steps
    assert {steps[name]["status"] for name in ("put", "keys", "delete")} == {403}
    assert set(node(trusting, issuer, "enroller", "provisioning").values()) == {True}


def test_provisioning_tells_401_from_403_in_its_own_shape(trusting: HubProcess, issuer: OidcIssuer) -> None:
    dps = Provisioning(trusting)
    expected = {
        issuer.token("enroller"): (401, 401002, "bearer-audience"),
        issuer.token("nobody", "https://azure-devices-provisioning.net"): (403, 403000, "role-missing"),
        issuer.token("contributor", "https://azure-devices-provisioning.net/"): (403, 403000, "role-missing"),
    }
    for token, (status, code, cause) in expected.items():
        answer = dps.call(
            "POST", "/enrollments/query", {"query": "SELECT * FROM enrollments"}, Authorization=f"Bearer {token}"
        )
        assert (answer.status, answer.body["errorCode"]) == (status, code)
        _, kept = trusting.request("GET", f"/$muster/why?trackingId={answer.body['trackingId']}")
        assert kept["refusals"][0]["cause"] == cause
    management = issuer.token("manager", "https://management.azure.com")
    assert dps.call("GET", "/$muster/provisioning/policies", Authorization=f"Bearer {management}").status == 200
