"""EST on the authority of a credential policy: openssl makes key and request, curl enrols and renews, openssl reads
what came; and what is refused."""

from __future__ import annotations

import base64
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from test_commands import Cli

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process
from tests.provisioning_client import Provisioning

pytestmark = pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("openssl")), reason="curl and openssl are not installed"
)

PATIENCE = 30
_names = itertools.count()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with hub_process(tmp_path_factory.mktemp("est"), loopback()) as made:
        Cli(made)("ca", "init")
        yield made


@pytest.fixture
def dps(hub: HubProcess) -> Provisioning:
    return Provisioning(hub)


class Said(NamedTuple):
    """An answer; ``head`` is its header lines."""

    status: int
    head: str
    text: str


class Device:
    """A device that has openssl, curl and a directory."""

    def __init__(self, dps: Provisioning, directory: Path, name: str) -> None:
        self.dps, self.directory, self.name = dps, directory, name
        self.run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "device.key")
        self.request(name)

    def run(self, *command: str, data: str = "") -> str:
        done = subprocess.run(
            command, cwd=self.directory, input=data, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def request(self, name: str) -> None:
        """Make the request to send."""
        self.run(
            "openssl", "req", "-new", "-key", "device.key", "-subj", f"/CN={name}", "-outform", "DER", "-out", "csr"
        )
        (self.directory / "csr.b64").write_text(base64.encodebytes((self.directory / "csr").read_bytes()).decode())

    def ask(self, call: str, *options: str, post: bool = True) -> Said:
        """What curl hears."""
        hub = self.dps.hub
        sent = ("-H", "Content-Type: application/pkcs10", "--data-binary", "@csr.b64") if post else ()
        said = self.run(
            "curl", "-sS", "--include", "--cacert", hub.facts["HUB_CA_FILE"], *sent, *options,
            f"https://{hub.address}:{hub.port('https')}/.well-known/est/{call}",
        )  # fmt: skip
        head, _, text = said.replace("\r\n", "\n").partition("\n\n")
        return Said(int(head.split()[1]), head, text)

    def keep(self, said: Said, file: str = "device.pem") -> str:
        """Write the certificates of an answer; what openssl says of them."""
        assert said.status == 200, said
        assert "application/pkcs7-mime" in said.head
        (self.directory / "p7").write_bytes(base64.b64decode(said.text))
        self.run("openssl", "pkcs7", "-inform", "DER", "-in", "p7", "-print_certs", "-out", file)
        return (self.directory / file).read_text()

    def shown(self, file: str, *what: str) -> str:
        return self.run("openssl", "x509", "-in", file, "-noout", *what)


@pytest.fixture
def device(dps: Provisioning, tmp_path: Path) -> Device:
    return Device(dps, tmp_path, f"est-{next(_names)}")


def enroll(dps: Provisioning, name: str, policy: str = "default", **more: str) -> tuple[str, str]:
    """Enroll by symmetric key; what curl is told to prove it."""
    made = dps.enroll(name, credentialPolicyName=policy, **more)
    return "-u", f"{name}:{dps.token(name, made['attestation']['symmetricKey']['primaryKey'])}"


BY_CERTIFICATE = ("--cert", "device.pem", "--key", "device.key")


def test_1_enroll_by_key_and_renew_by_the_certificate(dps: Provisioning, device: Device) -> None:
    proof = enroll(dps, device.name)
    authorities = device.keep(device.ask("cacerts", post=False), "ca.pem")
    assert authorities.count("BEGIN CERTIFICATE") == 2
    device.keep(device.ask("simpleenroll", *proof))
    assert device.shown("device.pem", "-subject").strip().endswith(f"CN = {device.name}")
    assert device.run("openssl", "verify", "-CAfile", "ca.pem", "device.pem") == "device.pem: OK\n"
    serials = [device.shown("device.pem", "-serial")]
    for _ in range(2):
        device.keep(device.ask("simplereenroll", *BY_CERTIFICATE))
        serials.append(device.shown("device.pem", "-serial"))
    assert len(set(serials)) == 3
    Cli(dps.hub)("ca", "rotate")
    device.keep(device.ask("simplereenroll", *BY_CERTIFICATE))
    device.keep(device.ask("default/simplereenroll", *BY_CERTIFICATE))
    told = [entry["transport"] for entry in dps.log(device.name, 5)]
    assert told == ["dps-est"] * 5


def test_2_a_device_of_a_group_renews_once_it_has_registered(dps: Provisioning, device: Device) -> None:
    group = dps.group(f"{device.name}-group", credentialPolicyName="default")
    token = dps.derived_token(device.name, group)
    device.keep(device.ask("simpleenroll", "-u", f"{device.name}:{token}"))
    assert device.ask("simplereenroll", *BY_CERTIFICATE).status == 401
    assert dps.why(device.name) == "enrollment-unknown"
    dps.provision(device.name, token)
    device.keep(device.ask("simplereenroll", *BY_CERTIFICATE))


def test_3_the_refusals(dps: Provisioning, device: Device) -> None:
    proof = enroll(dps, device.name)
    nobody = device.ask("simpleenroll")
    assert (nobody.status, dps.why(device.name)) == (401, "no-attestation")
    assert re.search("^WWW-Authenticate: Basic", nobody.head, re.MULTILINE | re.IGNORECASE)
    wrong = dps.token(device.name, base64.b64encode(bytes(32)).decode())
    assert device.ask("simpleenroll", "-u", f"{device.name}:{wrong}").status == 401
    assert device.ask("simpleenroll", "-H", "Authorization: Basic %").status == 400
    assert device.ask("other/simpleenroll", *proof).status == 400
    assert device.ask("other/cacerts", post=False).status == 404
    assert device.ask("simpleenroll", *proof, post=False).status == 405
    device.request("another")
    said = device.ask("simpleenroll", *proof)
    assert (said.status, "common name" in said.text, dps.why(device.name)) == (400, True, "csr-refused")
    (device.directory / "csr.b64").write_text("%")
    assert "base64" in device.ask("simpleenroll", *proof).text
    (device.directory / "csr.b64").write_text("A" * 20_000)
    assert device.ask("simpleenroll", *proof).status == 413


def test_4_who_is_disabled_or_without_a_policy_gets_none(dps: Provisioning, device: Device) -> None:
    proof = enroll(dps, device.name, "")
    said = device.ask("simpleenroll", *proof)
    assert (said.status, "credential policy" in said.text) == (400, True)
    proof = enroll(dps, device.name)
    device.keep(device.ask("simpleenroll", *proof))
    enroll(dps, device.name, provisioningStatus="disabled")
    assert device.ask("simpleenroll", *proof).status == 403
    assert device.ask("simplereenroll", *BY_CERTIFICATE).status == 403


def test_5_only_what_was_issued_here_renews_and_only_for_its_own_name(
    dps: Provisioning, device: Device, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cli, other = Cli(dps.hub), Device(dps, tmp_path_factory.mktemp("other"), f"{device.name}-other")
    enroll(dps, device.name)
    device.keep(device.ask("simpleenroll", *enroll(dps, device.name)))
    device.run(
        "openssl", "req", "-x509", "-key", "device.key", "-subj", f"/CN={device.name}", "-days", "9", "-out", "own"
    )
    own = device.ask("simplereenroll", "--cert", "own", "--key", "device.key")
    assert (own.status, dps.why(device.name)) == (401, "certificate-self-signed")
    made = device.directory / "root.pem", device.directory / "root.key"
    device.run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=R",
        "-keyout", "root.key", "-out", "root.pem", "-addext", "keyUsage=critical,keyCertSign",
    )  # fmt: skip
    cli("ca", "add", f"{device.name}-root", str(made[0]), "--set-verified")
    device.run("openssl", "x509", "-req", "-inform", "DER", "-in", "csr", "-CA", "root.pem", "-CAkey", "root.key",
               "-days", "9", "-out", "foreign")  # fmt: skip
    foreign = device.ask("simplereenroll", "--cert", "foreign", "--key", "device.key")
    assert (foreign.status, dps.why(device.name)) == (401, "certificate-not-issued-here")
    other.keep(other.ask("simpleenroll", *enroll(dps, other.name)))
    other.request(device.name)
    assert other.ask("simplereenroll", *BY_CERTIFICATE).status == 401
    cli("ca", "revoke", str(device.directory / "device.pem"))
    assert (device.ask("simplereenroll", *BY_CERTIFICATE).status, dps.why(device.name)) == (401, "certificate-revoked")
