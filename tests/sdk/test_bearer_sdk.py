"""Bearer tokens of a real issuer: azure-identity's client secret credential in azure-iot-hub and in azure-iothub."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import QuerySpecification, Twin
from msrest.exceptions import HttpOperationError

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.issuer_parts import rsa_key
from tests.sdk.oidc_issuer import NODE_HOME, SECRET, TENANT, OidcIssuer

pytestmark = pytest.mark.sdk

CLIENTS = {
    "reader": {"roles": ["IoT Hub Data Reader"]},
    "registry": {"roles": ["IoT Hub Registry Contributor"]},
    "contributor": {"roles": ["IoT Hub Data Contributor"]},
    "manager": {"roles": ["Contributor"]},
    "nobody": {},
}


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcIssuer]:
    with OidcIssuer(tmp_path_factory.mktemp("issuer"), CLIENTS) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, issuer: OidcIssuer) -> Iterator[HubProcess]:
    """A hub that takes the issuer's tokens."""
    with HubProcess(tmp_path_factory.mktemp("trusting"), loopback(), *issuer.options) as hub:
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
        assert message.startswith("ErrorCode:GenericForbidden;Principal reader is not authorized for ")
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


def test_an_issuer_that_cannot_be_one_is_refused_at_the_start(make_hub: Callable[..., HubProcess]) -> None:
    with pytest.raises(RuntimeError, match=r"--oidc-issuer.*not HTTPS"):
        make_hub("--oidc-issuer", "http://issuer.example").start()
    with pytest.raises(RuntimeError, match="holds no certificates"):
        make_hub("--oidc-issuer", "https://issuer.example", "--oidc-ca", os.devnull).start()


def node(hub: HubProcess, issuer: OidcIssuer, client: str, what: str) -> dict[str, Any]:
    """What each step came to: ``True``, or how it was refused."""
    bundle = issuer.ca.with_name("bundle.pem")
    bundle.write_bytes(issuer.ca.read_bytes() + Path(hub.facts["HUB_CA_FILE"]).read_bytes())
    parts = urlsplit(issuer.url)
    names = {
        "HOST": hub.address, "AUTHORITY": f"https://{parts.netloc}", "TENANT": TENANT, "CLIENT": client,
        "SECRET": SECRET, "NODE_EXTRA_CA_CERTS": str(bundle),
    }  # fmt: skip
    ran = subprocess.run(
        ["node", "token_credential.js", what, "d"], cwd=NODE_HOME, env={**os.environ, **names}, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    steps = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert steps, ran.stderr
    return {one["did"]: True for one in steps if "did" in one} | {
        one["refused"]: one for one in steps if "refused" in one
    }


def test_node_registry_with_a_token_credential(trusting: HubProcess, issuer: OidcIssuer) -> None:
    if trusting.port("https") != 443:
        pytest.skip("the port is fixed")
    steps = node(trusting, issuer, "reader", "registry")
    assert [steps[name] for name in ("get", "getTwin", "query")] == [True] * 3, steps
    for name in ("updateTwin", "create"):
        assert steps[name]["name"] == "TooManyDevicesError", "what it takes any 403 for"
    assert set(node(trusting, issuer, "contributor", "registry").values()) == {True}
