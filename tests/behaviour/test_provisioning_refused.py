"""Devices that may not register: what each hears over HTTPS, MQTT and AMQP, and what the verdict and the log call its
mistake."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from muster.identity.sas import decode_key, make
from muster.provisioning.attestation.symmetric_key import derive
from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker, Pair
from tests.provisioning_client import Provisioning
from tests.provisioning_wire import AmqpRegistrant, Heard, MqttRegistrant

_names = itertools.count()


class Scene:
    """Enrollments of every kind, and certificates that lead to them or not."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub, self.dps = hub, Provisioning(hub)
        self.maker = Maker(time.time())
        self.root = self.maker.root("Refused root")
        self.other = self.maker.root("Other root")
        self.unverified = self.maker.root("Unverified root")
        self.listed = self.maker.root("Listed root")
        self.number = next(_names)
        self.group = self.dps.group(f"keys-{self.number}")
        self.chains = self.dps.group(f"chains-{self.number}", x509("signingCertificates", self.root))
        for name, pair, verified in (("unverified", self.unverified, False), ("listed", self.listed, True)):
            body = {"properties": {"certificate": pair.pem.decode(), "isVerified": verified}}
            path = f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{hub.address}/certificates"
            status, _ = hub.request("PUT", f"{path}/refused-{name}", body, **{"If-Match": "*"})
            assert status in (200, 201)
        references = {"primary": "refused-unverified", "secondary": "refused-listed"}
        self.dps.group(f"by-reference-{self.number}", {"type": "x509", "x509": {"caReferences": references}})

    def close(self) -> None:
        for name in ("keys", "chains", "by-reference"):
            self.dps.call("DELETE", f"/enrollmentGroups/{name}-{self.number}")

    def name(self) -> str:
        return f"refused-{next(_names)}"

    def enrolled(self, **more: Any) -> tuple[str, str]:
        """A device with a key of its own: its id and that key."""
        name = self.name()
        return name, str(self.dps.enroll(name, **more)["attestation"]["symmetricKey"]["primaryKey"])

    def leaf(self, name: str, issuer: Pair | None = None, **options: Any) -> Pair:
        return self.maker.issue(name, self.root if issuer is None else issuer, **options)


@pytest.fixture(scope="module")
def scene(hub: HubProcess) -> Iterator[Scene]:
    scene = Scene(hub)
    yield scene
    scene.close()


def x509(role: str, primary: Pair, secondary: Pair | None = None) -> dict[str, Any]:
    slots = {"primary": primary, **({} if secondary is None else {"secondary": secondary})}
    certificates = {slot: {"certificate": base64.b64encode(one.der).decode()} for slot, one in slots.items()}
    return {"type": "x509", "x509": {role: certificates}}


class Given(NamedTuple):
    """One attempt: what a device brings, its id first."""

    name: str
    token: str = ""
    chain: Sequence[Pair] = ()
    scope: str | None = None
    body: Mapping[str, Any] | None = None


Case = Callable[[Scene], Given]
CASES: dict[str, Case] = {}
"""By the name of the cause."""


def case(cause: str) -> Callable[[Case], Case]:
    def keep(made: Case) -> Case:
        key = cause
        while key in CASES:
            key += "'"
        CASES[key] = made
        return made

    return keep


def by_token(cause: str, token: Callable[[Scene, str, str], str]) -> None:
    """A case of a device with a key of its own: ``token(scene, id, key)`` is what it sends."""

    def attempt(scene: Scene) -> Given:
        name, key = scene.enrolled()
        return Given(name, token(scene, name, key))

    case(cause)(attempt)


def by_group_key(cause: str, key: Callable[[Scene, str], str]) -> None:
    """A case of a device of a group: ``key(scene, id)`` is what it signs with."""

    def attempt(scene: Scene) -> Given:
        name = scene.name()
        return Given(name, scene.dps.token(name, key(scene, name)))

    case(cause)(attempt)


def by_chain(cause: str, chain: Callable[[Scene, str], list[Pair]]) -> None:
    """A case of a device of a group of X.509: ``chain(scene, id)`` is what it presents."""

    def attempt(scene: Scene) -> Given:
        name = scene.name()
        return Given(name, chain=chain(scene, name))

    case(cause)(attempt)


def group_key(scene: Scene) -> str:
    return str(scene.group["attestation"]["symmetricKey"]["primaryKey"])


def signed_over(resource: str, text: str, key: str) -> str:
    """A token whose signature is over another text than its own."""
    secret, expiry = decode_key(key), int(time.time()) + 3600
    assert secret is not None
    signature = base64.b64encode(hmac.digest(secret, f"{text}\n{expiry}".encode(), hashlib.sha256)).decode()
    return f"SharedAccessSignature sr={resource}&sig={signature.replace('+', '%2B').replace('=', '%3D')}&se={expiry}"


by_token("no-attestation", lambda _scene, _name, _key: "")
by_token("key-as-token", lambda _scene, _name, key: key)
by_token("bearer-token", lambda _scene, _name, _key: "Bearer eyJhbGciOi.J9.x")
by_token("connection-string-as-token", lambda scene, _name, key: f"HostName={scene.hub.address};SharedAccessKey={key}")
by_token("token-malformed", lambda scene, name, key: scene.dps.token(name, key).replace("Signature", "Token"))
by_token("token-field-missing", lambda scene, name, key: scene.dps.token(name, key).replace("&se=", "&xx="))
by_token("token-expired", lambda scene, name, key: scene.dps.token(name, key, seconds=-4000))
by_token("device-clock-not-set", lambda scene, name, key: scene.dps.token(name, key, seconds=-1.7e9))
by_token(
    "token-scope-differs",
    lambda scene, name, key: scene.dps.token(name, key, resource=f"0neother/registrations/{name}"),
)
by_token("token-registration-differs", lambda scene, _name, key: scene.dps.token("another", key))
by_token(
    "hub-token-on-provisioning",
    lambda scene, name, key: scene.dps.token(name, key, resource=f"{scene.hub.address}/devices/{name}"),
)
by_token("hub-token-on-provisioning", lambda scene, _name, _key: scene.dps.service_token())
by_token(
    "token-resource-malformed",
    lambda scene, name, key: scene.dps.token(name, key, resource=f"{scene.dps.scope}/{name}"),
)
by_token("wrong-enrollment-key", lambda scene, name, _key: scene.dps.token(name, base64.b64encode(b"x" * 32).decode()))
by_token("wrong-enrollment-key", lambda scene, name, key: scene.dps.token(name, derive(key, name)))
by_token(
    "key-used-as-text",
    lambda scene, name, key: make(f"{scene.dps.scope}/registrations/{name}", 4_000_000_000, key.encode()),
)
by_token(
    "signed-over-decoded-resource",
    lambda scene, name, key: signed_over(
        f"{scene.dps.scope}%2Fregistrations%2F{name}", f"{scene.dps.scope}/registrations/{name}", key
    ),
)
by_group_key("group-key-used", lambda scene, _name: group_key(scene))
by_group_key("derived-from-other-id", lambda scene, name: derive(group_key(scene), name.upper()))
by_group_key(
    "derived-with-key-as-text",
    lambda scene, name: base64.b64encode(
        hmac.digest(group_key(scene).encode(), name.encode(), hashlib.sha256)
    ).decode(),
)
by_group_key("derived-key-unknown", lambda _scene, name: derive(base64.b64encode(b"y" * 32).decode(), name))


@case("id-scope-unknown")
def wrong_scope(scene: Scene) -> Given:
    name, key = scene.enrolled()
    token = scene.dps.token(name, key, resource=f"0ne0000FFFF/registrations/{name}")
    return Given(name, token, scope="0ne0000FFFF")


@case("registration-id-malformed")
def no_id(scene: Scene) -> Given:
    name = f"{scene.name()}/of a device"
    return Given(name, scene.dps.token(name, base64.b64encode(b"k" * 32).decode()))


@case("registration-id-differs")
def other_id_in_body(scene: Scene) -> Given:
    name, key = scene.enrolled()
    return Given(name, scene.dps.token(name, key), body={"registrationId": "another"})


@case("token-for-x509-enrollment")
def token_for_certificate(scene: Scene) -> Given:
    name = scene.name()
    scene.dps.enroll(name, x509("clientCertificates", scene.leaf(name)))
    return Given(name, scene.dps.token(name, base64.b64encode(b"k" * 32).decode()))


@case("certificate-for-key-enrollment")
def certificate_for_token(scene: Scene) -> Given:
    name, _ = scene.enrolled()
    return Given(name, chain=[scene.leaf(name)])


@case("wrong-enrollment-key")
def key_that_was_replaced(scene: Scene) -> Given:
    name, _ = scene.enrolled()
    held = scene.dps.enroll(name)["attestation"]["symmetricKey"]
    new = {"primaryKey": held["primaryKey"], "secondaryKey": base64.b64encode(b"n" * 32).decode()}
    scene.dps.enroll(name, {"type": "symmetricKey", "symmetricKey": new})
    return Given(name, scene.dps.token(name, held["secondaryKey"]))


@case("wrong-enrollment-key")
def key_of_another_device(scene: Scene) -> Given:
    (name, _), (_, key) = scene.enrolled(), scene.enrolled()
    return Given(name, scene.dps.token(name, key))


@case("certificate-not-enrolled")
def certificate_that_was_rolled_over(scene: Scene) -> Given:
    name = scene.name()
    first, second, third = (scene.leaf(name) for _ in range(3))
    scene.dps.enroll(name, x509("clientCertificates", first, second))
    scene.dps.enroll(name, x509("clientCertificates", third, second))
    return Given(name, chain=[first])


@case("certificate-not-enrolled")
def other_certificate(scene: Scene) -> Given:
    name = scene.name()
    scene.dps.enroll(name, x509("clientCertificates", scene.leaf(name)))
    return Given(name, chain=[scene.leaf(name)])


@case("issuer-enrolled-as-device")
def issuer_as_device(scene: Scene) -> Given:
    name = scene.name()
    scene.dps.enroll(name, x509("clientCertificates", scene.root))
    return Given(name, chain=[scene.leaf(name), scene.root])


@case("certificate-expired")
def own_certificate_expired(scene: Scene) -> Given:
    name = scene.name()
    leaf = scene.leaf(name, days=(-10, -1))
    scene.dps.enroll(name, x509("clientCertificates", leaf))
    return Given(name, chain=[leaf])


@case("certificate-not-yet-valid")
def own_secondary_certificate_not_yet_valid(scene: Scene) -> Given:
    name = scene.name()
    primary, secondary = scene.leaf(name), scene.leaf(name, days=(2, 3))
    scene.dps.enroll(name, x509("clientCertificates", primary, secondary))
    return Given(name, chain=[secondary])


@case("certificate-revoked")
def revoked(scene: Scene) -> Given:
    name = scene.name()
    leaf = scene.leaf(name, scene.listed)
    listed = base64.b64encode(scene.maker.revoked(scene.listed, leaf)).decode()
    assert scene.hub.request("PUT", "/$muster/authorities/refused-listed/list", {"list": listed})[0] == 200
    return Given(name, chain=[leaf])


by_chain("registration-cn-differs", lambda scene, _name: [scene.leaf("another")])
by_chain("registration-cn-missing", lambda scene, _name: [scene.maker.issue(None, scene.root)])
by_chain("no-group-for-certificate", lambda scene, name: [scene.leaf(name, scene.other), scene.other])
by_chain("no-group-for-certificate", lambda scene, name: [scene.maker.issue(name, None)])
by_chain("intermediate-missing", lambda scene, name: [scene.leaf(name, scene.maker.intermediate("Middle", scene.root))])
by_chain(
    "issuer-key-differs",
    lambda scene, name: [scene.leaf(name, Pair(scene.root.certificate, scene.other.key))],
)
by_chain("authority-not-verified", lambda scene, name: [scene.leaf(name, scene.unverified)])
by_chain("certificate-expired", lambda scene, name: [scene.leaf(name, days=(-10, -1))])
by_chain("certificate-not-yet-valid", lambda scene, name: [scene.leaf(name, scene.listed, days=(2, 3))])


async def over_https(dps: Provisioning, given: Given) -> Heard:
    answer = dps.register(given.name, given.token, chain=given.chain, scope=given.scope, body=given.body)
    assert answer.headers.get("x-ms-error-code") == (str(answer.body["errorCode"]) if answer.status >= 400 else None)
    return Heard(answer.status, int(answer.headers.get("retry-after", 0)), answer.body)


async def over_mqtt(dps: Provisioning, given: Given) -> Heard:
    device = await MqttRegistrant.open(dps, given.name, given.token or None, chain=given.chain, scope=given.scope)
    heard = await device.register(b"" if given.body is None else json.dumps(given.body).encode())
    await device.close()
    return heard


async def over_amqp(dps: Provisioning, given: Given) -> Heard:
    with AmqpRegistrant(dps, given.name, given.token or None, chain=given.chain, scope=given.scope) as device:
        return device.register(b"" if given.body is None else json.dumps(given.body).encode())


OVER = [over_https, over_mqtt, over_amqp]


NO_CONNECTION = "registration-id-malformed"
"""Over MQTT and AMQP none comes about with such an id: sentence 9 of test_provisioning_wire."""


@pytest.mark.parametrize(
    ("cause", "over"),
    [(cause, over) for cause in CASES for over in OVER if over is over_https or cause != NO_CONNECTION],
)
async def test_a_device_that_may_not_register_hears_401_and_its_mistake_has_a_name(
    scene: Scene, cause: str, over: Any
) -> None:
    given, cause = CASES[cause](scene), cause.rstrip("'")
    heard = await over(scene.dps, given)
    assert (heard.status, heard.body["errorCode"]) == (401, 401002)
    certificate = any(word in cause for word in ("certificate", "authority", "issuer", "intermediate", "cn-"))
    expected = "Invalid certificate." if certificate and "token-for" not in cause else "Unauthorized"
    assert heard.body["message"] == expected
    _, told = scene.hub.request("GET", f"/$muster/why?trackingId={heard.body['trackingId']}")
    (refusal,) = told["refusals"]
    transport = over.__name__.replace("over_", "dps-")
    assert (refusal["cause"], refusal["transport"]) == (cause, transport)
    assert scene.dps.why(given.name) == cause
    (entry, *_) = scene.dps.log(given.name, 1)
    assert (entry["entry"], entry["cause"], entry["transport"]) == ("attempt", cause, transport)


def test_there_are_as_many_cases_as_were_promised() -> None:
    assert len(CASES) >= 25


@pytest.mark.parametrize("over", OVER)
async def test_a_disabled_enrollment_is_told_as_a_status_and_kept_as_a_refusal(scene: Scene, over: Any) -> None:
    name, key = scene.enrolled(provisioningStatus="disabled")
    state = {"registrationId": name, "status": "disabled"}
    heard = await over(scene.dps, Given(name, scene.dps.token(name, key)))
    assert heard == (200, 0, {"operationId": "", "status": "disabled", "registrationState": state})
    assert scene.dps.why(name) == "enrollment-disabled"
    await over(scene.dps, Given(name, scene.dps.token(name, derive(key, name))))
    assert scene.dps.why(name) == "wrong-enrollment-key", "who does not prove himself learns nothing"


def test_a_disabled_group_shuts_its_devices_out_and_no_others(scene: Scene) -> None:
    middle = scene.maker.intermediate("Middle of the disabled", scene.root)
    group = scene.dps.group(
        f"disabled-{next(_names)}", x509("signingCertificates", middle), provisioningStatus="disabled"
    )
    name = scene.name()
    answer = scene.dps.register(name, chain=[scene.leaf(name, middle), middle])
    assert (answer.status, answer.body["status"]) == (200, "disabled"), "the nearest group decides"
    assert scene.dps.provision(name, chain=[scene.leaf(name)])["status"] == "assigned"
    scene.dps.call("DELETE", f"/enrollmentGroups/{group['enrollmentGroupId']}")


def test_without_an_enrollment_and_without_groups_nobody_may_register(
    make_hub: Callable[..., HubProcess],
) -> None:
    with make_hub() as hub:
        dps = Provisioning(hub)
        assert dps.register("dev", dps.token("dev", base64.b64encode(b"k" * 32).decode())).status == 401
        assert dps.why("dev") == "enrollment-unknown"
        leaf = Maker(time.time()).issue("dev2", None)
        assert dps.register("dev2", chain=[leaf]).status == 401
        assert dps.why("dev2") == "enrollment-unknown"
