"""Certificates that are issued on registration: a device sends a signing request beside its proof, and connects to its
hub with what it gets."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, Message
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from test_commands import Cli

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish, subscribe
from tests.addresses import loopback
from tests.certificate_maker import Maker
from tests.engines import hub_process
from tests.provisioning_client import Provisioning
from tests.provisioning_wire import AmqpRegistrant, MqttRegistrant

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_names = itertools.count()
P256 = ec.generate_private_key(ec.SECP256R1())
WEAK = rsa.generate_private_key(65_537, 1024)
CURVES: dict[str, Key] = {
    "P-256": P256,
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65_537, 2048),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with hub_process(tmp_path_factory.mktemp("issuing"), loopback()) as made:
        Cli(made)("ca", "init")
        yield made


@pytest.fixture
def dps(hub: HubProcess) -> Provisioning:
    return Provisioning(hub)


@pytest.fixture
def name() -> str:
    return f"issued-{next(_names)}"


def request(name: str, key: Key = P256) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return base64.b64encode(made.public_bytes(Encoding.DER)).decode()


def enroll(dps: Provisioning, name: str, policy: str = "default", **more: Any) -> str:
    """Enroll by symmetric key; a token for the registration."""
    made = dps.enroll(name, credentialPolicyName=policy, **more)
    return dps.token(name, made["attestation"]["symmetricKey"]["primaryKey"])


def chain_of(state: dict[str, Any]) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(base64.b64decode(one)) for one in state["issuedCertificateChain"]]


def send(dps: Provisioning, directory: Path, device: str, chain: list[x509.Certificate], key: Key = P256) -> None:
    """Send to the hub by the Azure SDK, with the certificate that was issued."""
    certificate, private = directory / "issued.pem", directory / "issued.key"
    certificate.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain[:2]))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    client = IoTHubDeviceClient.create_from_x509_certificate(
        X509(str(certificate), str(private)), dps.hub.address, device,
        server_verification_cert=Path(dps.hub.facts["HUB_CA_FILE"]).read_text(),
    )  # fmt: skip
    client.connect()
    client.send_message(Message("by an issued certificate"))
    client.shutdown()


@pytest.mark.parametrize("kind", CURVES)
def test_1_a_device_registers_by_key_and_connects_by_the_certificate_that_it_was_issued(
    dps: Provisioning, name: str, kind: str, tmp_path: Path
) -> None:
    token, key = enroll(dps, name), CURVES[kind]
    state = dps.provision(name, token, body={"registrationId": name, "csr": request(name, key)})
    chain = chain_of(state)
    looked_up = dps.call("POST", f"/{dps.scope}/registrations/{name}", {"registrationId": name}, Authorization=token)
    assert looked_up.body == {member: held for member, held in state.items() if member != "issuedCertificateChain"}
    leaf, issuing, root = chain
    leaf.verify_directly_issued_by(issuing)
    issuing.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)
    assert leaf.public_key() == key.public_key()
    assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days == 31
    _, held = dps.hub.request("GET", f"/devices/{name}")
    assert held["authentication"]["type"] == "certificateAuthority"
    send(dps, tmp_path, name, chain, key)


async def test_2_over_mqtt_and_amqp_too(dps: Provisioning, name: str) -> None:
    token = enroll(dps, name)
    body = json.dumps({"registrationId": name, "csr": request(name)}).encode()
    device = await MqttRegistrant.open(dps, name, token)
    assert len(chain_of(await device.provision(body))) == 3
    await device.close()
    with AmqpRegistrant(dps, name, token) as other:
        assert len(chain_of(other.provision(body))) == 3


def test_3_where_the_hub_does_not_know_the_certificate_s_name_it_knows_its_thumbprint(
    dps: Provisioning, name: str, tmp_path: Path
) -> None:
    token = enroll(dps, name, deviceId=f"{name}-at-hub")
    chain = chain_of(dps.provision(name, token, body={"registrationId": name, "csr": request(name)}))
    _, held = dps.hub.request("GET", f"/devices/{name}-at-hub")
    thumbprint = chain[0].fingerprint(hashes.SHA256()).hex().upper()
    assert held["authentication"]["type"] == "selfSigned"
    assert held["authentication"]["x509Thumbprint"]["primaryThumbprint"] == thumbprint
    send(dps, tmp_path, f"{name}-at-hub", chain)


def test_4_registering_again_renews_and_the_poll_tells_the_same_after_a_kill(
    make_hub: Callable[..., HubProcess], name: str, tmp_path: Path
) -> None:
    with make_hub() as hub:
        Cli(hub)("ca", "init")
        dps = Provisioning(hub)
        token = enroll(dps, name)
        first = chain_of(dps.provision(name, token, body={"registrationId": name, "csr": request(name)}))
        begun = dps.register(name, token, body={"registrationId": name, "csr": request(name)}).body["operationId"]
        told = dps.poll(name, begun, token)
        hub.kill()
        hub.start()
        assert dps.poll(name, begun, token) == told
        second = chain_of(told)
        assert (first[0] == second[0], first[1:] == second[1:]) == (False, True)
        send(dps, tmp_path, name, first)
        Cli(hub)("ca", "rotate")
        third = chain_of(dps.provision(name, token, body={"registrationId": name, "csr": request(name)}))
        assert third[1] != second[1]
        for chain in (second, third):
            send(dps, tmp_path, name, chain)
        assert "issuedCertificateChain" not in dps.provision(name, token)


def damaged(name: str) -> str:
    content = bytearray(base64.b64decode(request(name)))
    content[-1] ^= 1
    return base64.b64encode(content).decode()


WRONG: dict[str, tuple[Callable[[str], str], str]] = {
    "of another device": (lambda _: request("another"), "common name"),
    "in other letters": (lambda name: request(name.upper()), "common name"),
    "not signed with its key": (damaged, "not signed"),
    "with a weak key": (lambda name: request(name, WEAK), "RSA of 2048"),
    "too long": (lambda _: base64.b64encode(bytes(8193)).decode(), "8193 bytes"),
    "none": (lambda _: "bm9uZQ==", "no PKCS#10"),
    "as PEM": (lambda name: f"-----BEGIN CERTIFICATE REQUEST-----{request(name)}", "base64"),
}


@pytest.mark.parametrize("what", WRONG)
def test_5_a_request_that_cannot_be_granted_is_refused_by_name(dps: Provisioning, name: str, what: str) -> None:
    make, why = WRONG[what]
    token = enroll(dps, name)
    answer = dps.register(name, token, body={"registrationId": name, "csr": make(name)})
    assert (answer.status, answer.body["errorCode"], why in answer.body["message"]) == (400, 400004, True), answer
    if why != "base64":
        assert dps.why(name) == "csr-refused"
    assert dps.hub.request("GET", f"/devices/{name}")[0] == 404


@pytest.mark.parametrize(
    ("policy", "cause"), [("", "credential-policy-missing"), ("other", "credential-policy-unknown")]
)
def test_6_a_policy_that_is_not_there_is_told(dps: Provisioning, name: str, policy: str, cause: str) -> None:
    token = enroll(dps, name, policy)
    answer = dps.register(name, token, body={"registrationId": name, "csr": request(name)})
    assert (answer.status, "credential policy" in answer.body["message"], dps.why(name)) == (400, True, cause)


def test_7_who_does_not_prove_himself_hears_nothing_of_his_request(dps: Provisioning, name: str) -> None:
    enroll(dps, name)
    token = dps.token(name, base64.b64encode(bytes(32)).decode())
    answer = dps.register(name, token, body={"registrationId": name, "csr": "bm9uZQ=="})
    assert (answer.status, answer.body["message"], dps.why(name)) == (401, "Unauthorized", "wrong-enrollment-key")


def test_8_requests_in_other_places_and_forms_are_refused(dps: Provisioning, name: str) -> None:
    token = enroll(dps, name)
    answer = dps.register(name, token, body={"registrationId": name, "clientCertificateCsr": request(name)})
    assert (answer.status, "send csr" in answer.body["message"]) == (400, True)
    dps.provision(name, token)
    path = f"/{dps.scope}/registrations/{name}"
    answer = dps.call("POST", path, {"registrationId": name, "csr": request(name)}, Authorization=token)
    assert (answer.status, "csr" in answer.body["message"]) == (400, True)


def test_9_an_authority_of_the_operator_s_own(make_hub: Callable[..., HubProcess], name: str, tmp_path: Path) -> None:
    make = Maker(time.time())
    root = make.root("Own root")
    issuing = make.intermediate("Own issuing", root)
    (tmp_path / "chain.pem").write_bytes(issuing.pem + root.pem)
    (tmp_path / "issuing.key").write_bytes(issuing.key_pem)
    with make_hub("--credential-policy", f"own={tmp_path / 'chain.pem'},{tmp_path / 'issuing.key'},7") as hub:
        dps = Provisioning(hub)
        token = enroll(dps, name, "own")
        chain = chain_of(dps.provision(name, token, body={"registrationId": name, "csr": request(name)}))
        assert [one.public_bytes(Encoding.DER) for one in chain[1:]] == [issuing.der, root.der]
        assert (chain[0].not_valid_after_utc - chain[0].not_valid_before_utc).days == 8
        send(dps, tmp_path, name, chain)
        assert hub.request("GET", f"/devices/{name}")[1]["authentication"]["type"] == "selfSigned"


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        ("issuing.pem", "root.key", "not the key"),
        ("leaf.pem", "leaf.key", "no authority"),
        ("absent.pem", "root.key", "cannot be read"),
        ("root.pem", "root.pem", "key cannot be read"),
    ],
)
def test_10_files_that_will_not_do_are_told_at_the_start(
    make_hub: Callable[..., HubProcess], tmp_path: Path, certificate: str, key: str, why: str
) -> None:
    make = Maker(time.time())
    root = make.root("Own root")
    for stem, pair in (("root", root), ("issuing", make.intermediate("I", root)), ("leaf", make.issue("leaf", root))):
        (tmp_path / f"{stem}.pem").write_bytes(pair.pem)
        (tmp_path / f"{stem}.key").write_bytes(pair.key_pem)
    with pytest.raises(RuntimeError, match=why):
        make_hub("--credential-policy", f"own={tmp_path / certificate},{tmp_path / key}").start()


# --- renewed at the hub


ASK = "$iothub/credentials/POST/issueCertificate/?$rid="


async def connected(
    dps: Provisioning, directory: Path, device: str, chain: list[x509.Certificate], key: Key = P256
) -> MqttClient:
    """A device that is connected with what was issued, and has subscribed to what is issued."""
    certificate, private = directory / "mqtt.pem", directory / "mqtt.key"
    certificate.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in chain[:2]))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = dps.hub.trust()
    context.load_cert_chain(certificate, private)
    client = await MqttClient.open(dps.hub.address, dps.hub.port("mqtt"), context)
    user = f"{dps.hub.address}/{device}/?api-version=2025-08-01-preview"
    assert (await client.connect(device, user))[1] == 0
    await client.send(subscribe(1, [("$iothub/credentials/res/#", 0)]))
    assert (await client.expect("SUBACK")).body[2:] == b"\0"
    return client


async def ask(client: MqttClient, rid: str, body: Any) -> list[tuple[int, Any]]:
    """The answers to one request, to the last: status and body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    await client.send(publish(f"{ASK}{rid}", content))
    heard: list[tuple[int, Any]] = []
    while not heard or heard[-1][0] == 202:
        answer = (await client.expect("PUBLISH")).body
        size = 2 + int.from_bytes(answer[:2])
        status, _, query = answer[2:size].decode().removeprefix("$iothub/credentials/res/").partition("/")
        assert query == f"?$rid={rid}"
        heard.append((int(status), json.loads(answer[size:])))
    await client.expect("PUBACK")
    return heard


def certificates_of(body: dict[str, Any]) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(base64.b64decode(one)) for one in body["certificates"]]


@pytest.mark.parametrize("trusted", [True, False])
async def test_11_a_device_renews_over_the_credential_topic_and_its_connection_stays(
    make_hub: Callable[..., HubProcess], dps: Provisioning, name: str, tmp_path: Path, trusted: bool
) -> None:
    make = Maker(time.time())
    root = make.root("Own root")
    (tmp_path / "root.pem").write_bytes(root.pem)
    (tmp_path / "root.key").write_bytes(root.key_pem)
    options = ("--credential-policy", f"own={tmp_path / 'root.pem'},{tmp_path / 'root.key'}")
    with contextlib.ExitStack() as stack:
        place = dps if trusted else Provisioning(stack.enter_context(make_hub(*options)))
        token = enroll(place, name, "default" if trusted else "own")
        first = chain_of(place.provision(name, token, body={"registrationId": name, "csr": request(name)}))
        client = await connected(place, tmp_path, name, first)
        chains = [first]
        for number in range(2):
            asked = {"id": name, "csr": request(name), "replace": "*"}
            (status, accepted), (done, issued) = await ask(client, f"rid-{number}", asked)
            assert (status, done, accepted["correlationId"]) == (202, 200, issued["correlationId"])
            chains.append(certificates_of(issued))
        assert len({chain[0].serial_number for chain in chains}) == 3
        await client.close()
        for chain in chains if trusted else chains[::2]:
            again = await connected(place, tmp_path, name, chain)
            await again.close()


REFUSED: dict[str, tuple[Callable[[str], Any], list[int], int]] = {
    "no JSON": (lambda _: b"{", [400], 400006),
    "an array": (lambda _: [], [400], 400004),
    "no csr": (lambda name: {"id": name}, [400], 400005),
    "no id": (lambda name: {"csr": request(name)}, [400], 400005),
    "another id": (lambda name: {"id": "another", "csr": request(name)}, [400], 400004),
    "an unknown member": (lambda name: {"id": name, "csr": request(name), "more": 1}, [400], 400004),
    "no base64": (lambda name: {"id": name, "csr": "%"}, [400], 400004),
    "no request": (lambda name: {"id": name, "csr": "bm9uZQ=="}, [202, 400], 400037),
    "another's request": (lambda name: {"id": name, "csr": request("another")}, [202, 400], 400037),
    "a request that is not there": (
        lambda name: {"id": name, "csr": request(name), "replace": "rid-0"}, [412], 412001,
    ),
}  # fmt: skip


async def test_12_what_cannot_be_renewed_is_told_and_the_connection_stays(
    dps: Provisioning, name: str, tmp_path: Path
) -> None:
    token = enroll(dps, name)
    first = chain_of(dps.provision(name, token, body={"registrationId": name, "csr": request(name)}))
    client = await connected(dps, tmp_path, name, first)
    for number, (what, (make, statuses, code)) in enumerate(REFUSED.items()):
        heard = await ask(client, f"wrong-{number}", make(name))
        assert ([status for status, _ in heard], heard[-1][1]["errorCode"]) == (statuses, code), what
    dps.enroll(name, credentialPolicyName="default", provisioningStatus="disabled")
    assert (await ask(client, "disabled", {"id": name, "csr": request(name)}))[-1][0] == 403
    dps.enroll(name, credentialPolicyName="")
    heard = await ask(client, "no-policy", {"id": name, "csr": request(name)})
    assert "credential policy" in heard[-1][1]["message"]
    await client.send(publish("$iothub/credentials/POST/issueCertificate/?$rid=x", b"{}"))
    await client.expect_end()
    assert dps.why(name) == "credential-topic"
