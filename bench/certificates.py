"""Measure connects with a client certificate, beside Mosquitto with `require_certificate`, and without one.

usage: python -m bench.certificates [--quick] [--profile]

One hub and two Mosquittos on one core, the load on the other; storms of full TLS handshakes, CONNECT, CONNACK and
DISCONNECT, visited in turn. *First time*: more devices than the hub remembers chains of (`CHAINS_REMEMBERED`) connect
one after the other, so each certificate has to be read and its chain verified anew. *Again*: devices whose chain was
verified a moment ago. Each device has a certificate of its own, issued by an authority that is registered and verified;
Mosquitto has it as its `cafile` and takes the common name for the user name. *Thumbprint*: self-signed certificates,
which Mosquitto has no way to take. *Token*: what `bench.run` measures, beside a Mosquitto with a password file.

`--profile` says where the hub's time goes in a connect with a certificate for the first time (py-spy, perf).
The full run takes four minutes and writes docs/results/DATE-certificates.{json,md}.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import shutil
import statistics
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bench import machine, measure
from bench.journal import ROOT
from bench.measure import Result, Scale
from bench.profile import sample_layers, sample_python, table
from bench.run import FILES_BESIDE_CONNECTIONS, build_programs, running, say
from bench.servers import BUILD, BULK, HOST, Accounts, Device, Mosquitto, Muster, Server
from muster.core.certificate_limits import CHAINS_REMEMBERED

FIRST, AGAIN, THUMBPRINT, TOKEN = "certificate, first time", "certificate, again", "thumbprint", "token"
BAR = 1.3
COST = "server_ms_per_connect"
FULL = Scale(rounds=6, seconds=3, warm_up=1, connections=1000, idle_connections=0, latency_rounds=0)
QUICK = Scale(rounds=2, seconds=1.5, warm_up=1, connections=1000, idle_connections=0, latency_rounds=0)
NAMES = {
    FIRST: [f"chained-{number:05d}" for number in range(CHAINS_REMEMBERED.open + 500)],
    AGAIN: [f"again-{number:05d}" for number in range(FULL.connections)],
    THUMBPRINT: [f"printed-{number:05d}" for number in range(FULL.connections)],
}
PARTS = (
    ("verification", r"/(certificates|chains|certificate_checks|trust|client_certificates)\.py"),
    ("registry", r"/stores/sqlite/"),
    ("TLS", r"/heads/(tls|secure|listener)\.py"),
    ("MQTT, verdict, session", r"muster/"),
)
"""What the innermost frame of a stack that is ours belongs to."""


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, PEM."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def pair(self) -> bytes:
        return self.pem + self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def issue(name: str, issuer: Issued | None, *, authority: bool = False) -> Issued:
    """A certificate as `muster ca issue` makes them: P-256, for clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
    public = key.public_key()
    above, signer = (subject, key) if issuer is None else (issuer.certificate.subject, issuer.key)
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    allowed = {"key_cert_sign", "crl_sign"} if authority else {"digital_signature"}
    builder = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=above, public_key=public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(authority, None), True)
        .add_extension(x509.KeyUsage(**{usage: usage in allowed for usage in names}), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    return Issued(builder.sign(signer, hashes.SHA256()), key)


class Fleet:
    """The devices with certificates, and the files that tell the load generator of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root = issue("Bench Root", None, authority=True)
        self.devices = {
            kind: [(name, issue(name, None if kind == THUMBPRINT else self.root)) for name in names]
            for kind, names in NAMES.items()
        }
        self.next = dict.fromkeys(NAMES, 0)
        """The device that the hub's next storm begins with: else each would begin with those that are remembered."""
        self.root_file.write_bytes(self.root.pem)
        for kind, devices in self.devices.items():
            lines = [f"{name}\t{Device(name).user}\t-\n" for name, _ in devices]
            self.identities(kind).write_text("".join(lines))
            self.certificates(kind).write_bytes(b"".join(issued.pair for _, issued in devices))

    @property
    def root_file(self) -> Path:
        return self.directory / "root.pem"

    def identities(self, kind: str) -> Path:
        return self.directory / f"{kind.replace(', ', '-').replace(' ', '-')}.tsv"

    def certificates(self, kind: str) -> Path:
        return self.identities(kind).with_suffix(".pem")


class CertificateMuster(Muster):
    """The hub, with devices of every kind."""

    def __init__(self, directory: Path, accounts: Accounts, fleet: Fleet) -> None:
        super().__init__(directory, accounts)
        self.fleet = fleet

    def _register(self) -> None:
        super()._register()
        path = f"/subscriptions/-/resourceGroups/-/providers/Microsoft.Devices/IotHubs/{HOST}/certificates/root"
        properties = {"certificate": base64.b64encode(self.fleet.root.pem).decode(), "isVerified": True}
        status, answer = self.hub.request("PUT", path, {"properties": properties})
        if status not in (200, 201):
            raise RuntimeError(f"the authority could not be registered: {status} {answer}")
        for kind, devices in self.fleet.devices.items():
            for start in range(0, len(devices), BULK):
                body = [
                    {"id": name, "importMode": "create", "authentication": authentication(kind, issued)}
                    for name, issued in devices[start : start + BULK]
                ]
                status, answer = self.hub.request("POST", "/devices", body)
                if status != 200 or not answer["isSuccessful"]:
                    raise RuntimeError(f"the devices could not be registered: {status} {answer}")


def authentication(kind: str, issued: Issued) -> dict[str, Any]:
    """How a device proves itself, as REST spells it."""
    if kind != THUMBPRINT:
        return {"type": "certificateAuthority"}
    digits = issued.certificate.fingerprint(hashes.SHA256()).hex()
    return {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": digits, "secondaryThumbprint": digits}}


class CertificateMosquitto(Mosquitto):
    """Mosquitto that verifies the chain of every client and takes the common name for the user name."""

    name = "Mosquitto, require_certificate"

    def __init__(self, directory: Path, accounts: Accounts, fleet: Fleet) -> None:
        super().__init__(directory, accounts)
        self.fleet = fleet

    def settings(self) -> dict[str, object]:
        more = {"cafile": self.fleet.root_file, "require_certificate": "true", "use_identity_as_username": "true"}
        return {name: value for name, value in super().settings().items() if name != "password_file"} | more


def storm(server: Server, scale: Scale, fleet: Fleet, kind: str) -> Result:
    """One storm of connects. Raises ``LoadError``, also when one of them was refused."""
    timing = ["-d", str(scale.seconds), "-W", str(scale.warm_up)]
    if kind == TOKEN:
        return measure.mqload(server, scale, kind, "storm", *timing)
    more = ["-C", str(fleet.certificates(kind)), "-F", str(fleet.next[kind])]
    result = measure.mqload(server, scale, kind, "storm", *timing, *more, identities=fleet.identities(kind))
    if isinstance(server, Muster):
        fleet.next[kind] = result["next"]
    if result["failed"]:
        raise measure.LoadError(f"{kind}: {server.name} refused {result['failed']} connects")
    return result


def rounds(scale: Scale, fleet: Fleet, visits: dict[str, list[Server]]) -> dict[str, dict[str, list[Result]]]:
    """All measurements, interleaved: by kind and server."""
    results: dict[str, dict[str, list[Result]]] = {kind: {one.name: [] for one in visits[kind]} for kind in visits}
    for number in range(1, scale.rounds + 1):
        for kind, servers in visits.items():
            for server in servers:
                results[kind][server.name].append(storm(server, scale, fleet, kind))
            told = ", ".join(
                f"{name} {taken[-1]['server_ms_per_connect']:.3f}" for name, taken in results[kind].items()
            )
            say(f"round {number}  {kind:24} ms: {told}")
    return results


def to_markdown(results: dict[str, dict[str, list[Result]]], facts: dict[str, str | int | float]) -> str:
    """The report."""
    described = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    count = len(next(iter(results[FIRST].values())))
    lines = [
        f"# Connects with certificates, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "",
        f"`python -m bench.certificates` on {described}.", "",
        f"Medians of {count} interleaved rounds (least-most), CPU of the server in ms a connect: full handshake,",
        "CONNECT, CONNACK, DISCONNECT. Ratios are medians of the ratios of each round. Mosquitto has",
        "`require_certificate` and `use_identity_as_username`; for the token it has a password file.", "",
        "| | Muster | Mosquitto | ratio | asked | Muster, connects/s | Mosquitto, connects/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for kind, taken in results.items():
        own, *others = taken.values()
        peer = others[0] if others else []
        ratios = [one[COST] / other[COST] for one, other in zip(own, peer, strict=False)]
        ratio = statistics.median(ratios) if ratios else None
        asked = "" if ratio is None else f"≤ {BAR}: {'met' if ratio <= BAR else '**missed**'}"
        shown = "-" if ratio is None else f"{ratio:.2f}"
        rates = [f"{measure.median_of(one, 'connects_per_s'):,.0f}" if one else "-" for one in (own, peer)]
        lines.append(f"| {kind} | {_spread(own)} | {_spread(peer)} | {shown} | {asked} | {' | '.join(rates)} |")
    return "\n".join(lines) + "\n"


def _spread(taken: list[Result]) -> str:
    if not taken:
        return "-"
    values = [one[COST] for one in taken]
    return f"{statistics.median(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def profile(server: Server, scale: Scale, fleet: Fleet, kind: str, folder: Path) -> str:
    """Where the hub's time goes in a storm: by layer, by part of the work, by function."""
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(storm, server, scale, fleet, kind)
        subprocess.run(["sleep", "2"], check=True)
        layers = sample_layers(server.pid, 5, folder)
        stacks = sample_python(server.pid, 5, folder)
        result = under_way.result()
    parts, functions = Counter[str](), Counter[str]()
    for stack, count in stacks:
        parts[part_of(stack)] += count
        functions[stack[-1]] += count
    tables = [("by layer, perf", layers), ("by part, py-spy", parts), ("by function, py-spy", functions)]
    return f"{kind}: {result[COST]:.3f} ms" + "".join(table(title, counts, 30) for title, counts in tables if counts)


def part_of(stack: list[str]) -> str:
    """The part of the work that the innermost frame of ours on a stack belongs to."""
    for entry in reversed(stack):
        for name, pattern in PARTS:
            if re.search(pattern, entry):
                return name
    return "event loop and the rest"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.certificates", description="Measure connects with certificates.")
    parser.add_argument("--quick", action="store_true", help="two short rounds; figures are not for quoting")
    parser.add_argument("--profile", action="store_true", help="profile the hub instead")
    chosen = parser.parse_args()
    scale = QUICK if chosen.quick else FULL
    machine.raise_file_limit(FILES_BESIDE_CONNECTIONS)
    build_programs()
    directory = BUILD / "certificates"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    accounts = Accounts(directory, [Device(f"device-{number:05d}") for number in range(scale.connections)])
    accounts.write()
    fleet = Fleet(directory)
    hub, plain = CertificateMuster(directory, accounts, fleet), Mosquitto(directory, accounts)
    strict = CertificateMosquitto(directory, accounts, fleet)
    visits: dict[str, list[Server]] = {
        FIRST: [hub, strict],
        AGAIN: [hub, strict],
        THUMBPRINT: [hub],
        TOKEN: [hub, plain],
    }
    if chosen.profile:
        long = Scale(1, 14, 1, scale.connections, 0, 0)
        with running([hub]):
            say("\n\n".join(profile(hub, long, fleet, kind, directory) for kind in (FIRST, AGAIN, TOKEN)))
        return
    with running([hub, plain, strict]):
        results = rounds(scale, fleet, visits)
    text = to_markdown(results, machine.describe(directory))
    where: Path = BUILD if chosen.quick else ROOT / "docs" / "results"
    stem = "certificates" if chosen.quick else f"{datetime.now(UTC):%Y-%m-%d}-certificates"
    (where / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (where / f"{stem}.md").write_text(text)
    say(f"\n{text}\nwritten to {where / stem}.md and .json")


if __name__ == "__main__":
    main()
