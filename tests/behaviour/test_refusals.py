"""Wrong credentials and requests against a hub in its own process: what the wire says, and what `muster why` says.

The wire answers as Azure does and no more; the verdict under the tracking id names the mistake.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import re
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish

API = "?api-version=2021-04-12"
OTHER_KEY = base64.b64encode(b"another device's very own key 32").decode()


@dataclass(frozen=True)
class Scene:
    """A hub with one good device, one disabled, one registered for X.509, and a module."""

    hub: HubProcess
    keys: dict[str, str]

    def token(self, device: str = "good", **changes: Any) -> str:
        options = {"resource": f"devices/{device}", "key": self.keys["good"], **changes}
        return self.hub.token(**options)

    def policy_key(self, policy: str) -> str:
        names = {"iothubowner": "HUB_CONNECTION_STRING", "service": "SERVICE_CONNECTION_STRING"}
        text = self.hub.facts[names[policy]]
        return dict(part.split("=", 1) for part in text.split(";"))["SharedAccessKey"]

    def policy_token(self, policy: str, resource: str = "", **options: Any) -> str:
        return self.hub.token(resource, self.policy_key(policy), policy, **options)


@pytest.fixture(scope="session")  # a worker may come back to this module, and the hub is still the same
def scene(hub: HubProcess) -> Scene:
    keys = {name: hub.add_device(name) for name in ("good", "second", "off")}
    status, _ = hub.request("PUT", "/devices/off", {"deviceId": "off", "status": "disabled"}, **{"If-Match": "*"})
    assert status == 200
    x509 = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "AB" * 20, "secondaryThumbprint": "CD" * 20}}
    status, _ = hub.request("PUT", "/devices/x509", {"deviceId": "x509", "authentication": x509})
    assert status == 200
    keys["good/m"] = hub.add_device("good", "m")
    return Scene(hub, keys)


@dataclass(frozen=True)
class Login:
    """What is different from a good CONNECT of device ``good``, and what comes of it."""

    cause: str
    password: Callable[[Scene], str | None] = lambda s: s.token()
    user: str = "{host}/good/" + API
    client_id: str = "good"
    code: int = 5


def resigned(scene: Scene, *, resource: str, signed: str, key: bytes) -> str:
    """A token whose signature was made over something else than its ``sr``."""
    from muster.identity.sas import sign

    expiry = str(int(time.time()) + 600)
    signature = base64.b64encode(sign(signed, expiry, key)).decode()
    return f"SharedAccessSignature sr={resource}&sig={urllib.parse.quote(signature, safe='')}&se={expiry}"


LOGINS = [
    Login("no-token", lambda s: None),
    Login("connection-string-as-token", lambda s: s.hub.device_connection_string("good", s.keys["good"])),
    Login("key-as-token", lambda s: s.keys["good"]),
    Login("token-malformed", lambda s: "letmein"),
    Login("token-scheme-missing", lambda s: s.token().removeprefix("SharedAccessSignature ")),
    Login("token-encoded", lambda s: urllib.parse.quote(s.token())),
    Login("token-whitespace", lambda s: f'"{s.token()}"'),
    Login("token-field-missing", lambda s: "&".join(p for p in s.token().split("&") if not p.startswith("se="))),
    Login("expiry-not-seconds", lambda s: s.token().rsplit("se=", 1)[0] + "se=2030-01-01"),
    Login("signature-not-base64", lambda s: "SharedAccessSignature sr=x&sig=%2A%2A&se=4000000000"),
    Login("signature-length", lambda s: "SharedAccessSignature sr=x&sig=YWJj&se=4000000000"),
    Login("token-expired", lambda s: s.token(seconds=-1000)),
    Login("device-unknown", user="{host}/nobody/" + API, client_id="nobody"),
    Login("device-id-case", user="{host}/GOOD/" + API, client_id="GOOD"),
    Login("policy-as-device", user="{host}/iothubowner/" + API, client_id="iothubowner"),
    Login("module-unknown", user="{host}/good/nothing/" + API, client_id="good/nothing"),
    Login("device-disabled", lambda s: s.token("off", key=s.keys["off"]), "{host}/off/" + API, "off"),
    Login("token-for-x509-identity", lambda s: s.token("x509"), "{host}/x509/" + API, "x509"),
    Login("certificate-required", lambda s: None, "{host}/x509/" + API, "x509"),
    Login("device-mismatch", lambda s: s.token("second", key=s.keys["second"])),
    Login("key-of-other-device", lambda s: s.token(key=s.keys["second"])),
    Login("wrong-key", lambda s: s.token(key=OTHER_KEY)),
    Login("token-for-another-hub", lambda s: s.token().replace("sr=127", "sr=otherhub.azure-devices.net%2Fx%2F127")),
    Login("host-unknown", user="otherhub.azure-devices.net/good/" + API),
    Login("policy-unknown", lambda s: s.hub.token("", s.policy_key("service"), "nopolicy")),
    Login("policy-lacks-right", lambda s: s.policy_token("service")),
    Login("client-id-mismatch", client_id="second"),
    Login("api-version-missing", user="{host}/good/?DeviceClientType=x"),
    Login("user-name", user="nonsense"),
    Login("client-id", client_id="", code=2),
]  # fmt: skip


async def attempt(scene: Scene, login: Login) -> tuple[int, str]:
    """The CONNACK code, and the cause of the newest refusal."""
    hub = scene.hub
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    user = login.user.format(host=hub.address)
    _, code = await client.connect(login.client_id, user, login.password(scene), clean_session=True)
    await client.expect_end()
    await client.close()
    return code, newest_cause(hub)


def newest_cause(hub: HubProcess) -> str:
    status, answer = hub.request("GET", "/$muster/why")
    assert status == 200
    return str(answer["refusals"][0]["cause"])


@pytest.mark.parametrize("login", LOGINS, ids=lambda login: login.cause)
async def test_a_wrong_login_is_refused_and_named(scene: Scene, login: Login) -> None:
    answer = await attempt(scene, login)
    for _ in range(10):
        if answer[1] != "wrong-key" or login.cause == "wrong-key":
            break
        await asyncio.sleep(1)  # whose key it was is looked up so many times a second only
        answer = await attempt(scene, login)
    assert answer == (login.code, login.cause)


async def test_the_good_login_is_let_in(scene: Scene) -> None:
    hub = scene.hub
    for device, key in (("good", "good"), ("good/m", "good/m")):
        client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
        resource = device.replace("/", "/modules/")
        token = scene.token(resource, key=scene.keys[key])
        assert await client.connect(device, f"{hub.address}/{device}/{API}", token) == (False, 0)
        await client.close()


@dataclass(frozen=True)
class Request:
    """A REST call that is refused."""

    name: str
    status: int
    error: str
    token: Callable[[Scene], str] = lambda s: s.policy_token("iothubowner")
    method: str = "GET"
    path: str = "/devices/good" + API
    body: str | None = None
    cause: str = ""


UNAUTHORIZED = "IotHubUnauthorizedAccess"
REQUESTS = [
    Request("no authorization", 401, UNAUTHORIZED, lambda s: "", cause="no-token"),
    Request("expired", 401, UNAUTHORIZED, lambda s: s.policy_token("iothubowner", seconds=-1000),
            cause="token-expired"),
    Request("no right to read", 401, UNAUTHORIZED, lambda s: s.policy_token("service"), cause="policy-lacks-right"),
    Request("connection string", 401, UNAUTHORIZED, lambda s: s.hub.facts["HUB_CONNECTION_STRING"],
            cause="connection-string-as-token"),
    Request("unknown policy", 401, UNAUTHORIZED, lambda s: s.hub.token("", OTHER_KEY, "nobody"),
            cause="policy-unknown"),
    Request("wrong key", 401, UNAUTHORIZED, lambda s: s.hub.token("", OTHER_KEY, "service"),
            cause="wrong-key"),
    Request("no api-version", 400, "InvalidProtocolVersion", path="/devices/good"),
    Request("strange api-version", 400, "InvalidProtocolVersion", path="/devices/good?api-version=latest"),
    Request("unknown device", 404, "DeviceNotFound", path="/devices/nobody" + API),
    Request("unknown module", 404, "ModuleNotFound", path="/devices/good/modules/none" + API),
    Request("unknown path", 404, "GenericNotFound", path="/nowhere" + API),
    Request("wrong method", 405, "GenericMethodNotAllowed", method="DELETE", path="/statistics/devices" + API),
    Request("device exists", 409, "DeviceAlreadyExists", method="PUT", body='{"deviceId": "good"}'),
    Request("other id in the body", 400, "ArgumentInvalid", method="PUT", body='{"deviceId": "bad"}'),
    Request("no JSON", 400, "IotHubFormatError", method="PUT", path="/devices/new" + API, body="{"),
]  # fmt: skip


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.name)
def test_a_wrong_request_is_refused_in_azures_shape(scene: Scene, request_: Request) -> None:
    hub = scene.hub
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=30)
    headers = {"Content-Type": "application/json"} | ({"Authorization": t} if (t := request_.token(scene)) else {})
    connection.request(request_.method, request_.path, request_.body, headers)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    assert (answer.status, answer.headers["iothub-errorcode"]) == (request_.status, request_.error)
    assert content["Message"].startswith(f"ErrorCode:{request_.error};")
    assert content["ExceptionMessage"].startswith("Tracking ID:")
    if request_.cause:
        tracking = content["ExceptionMessage"].removeprefix("Tracking ID:")
        status, kept = hub.request("GET", f"/$muster/why?trackingId={urllib.parse.quote(tracking)}")
        assert status == 200
        assert kept["refusals"][0]["cause"] == request_.cause


BREACHES = {
    "another device's topic": ("topic", "devices/second/messages/events/", b"x", 1),
    "a foreign topic": ("topic", "home/kitchen", b"x", 1),
    "QoS 2": ("qos", "devices/good/messages/events/", b"x", 2),
    "too large": ("message-size", "devices/good/messages/events/a=b", bytes(262_144), 1),
}


@pytest.mark.parametrize("name", BREACHES)
async def test_a_breach_ends_the_connection_and_is_named(scene: Scene, name: str) -> None:
    cause, topic, body, qos = BREACHES[name]
    hub = scene.hub
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    assert (await client.connect("good", f"{hub.address}/good/{API}", scene.token(), clean_session=True))[1] == 0
    await client.send(publish(topic, body, qos=qos))
    assert await client.expect_end() == b""
    await client.close()
    status, answer = hub.request("GET", "/$muster/why?device=good")
    assert (status, answer["refusals"][0]["cause"]) == (200, cause)


def test_no_secret_is_kept_with_a_refusal(scene: Scene) -> None:
    _, answer = scene.hub.request("GET", "/$muster/why?count=100")
    text = json.dumps(answer)
    for secret in (*scene.keys.values(), scene.policy_key("service"), scene.policy_key("iothubowner"), OTHER_KEY):
        assert secret not in text
        assert urllib.parse.quote(secret, safe="") not in text
    assert not re.search(r"sig=[\w%+/]{20}", text)
    assert scene.hub.log_file.read_text().count(scene.keys["good"]) == 0
