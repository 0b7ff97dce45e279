"""The operator's own certificate: shown, replaced while connections go on, and kept when the new one is no good."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tls_server import Server, echo_server, until

from muster.node.certificate_files import CertificateFileError, CertificateFiles
from muster.node.directory import DataDirectory
from muster.node.file_watch import LOOK_SECONDS
from muster.node.own_certificate import OwnCertificate
from muster.testing.clock import VirtualAmbient
from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker, Pair, address


def for_hub(make: Maker, issuer: Pair | None, host: str, **options: object) -> Pair:
    try:
        names = address(host)
    except ValueError:
        names = x509.SubjectAlternativeName([x509.DNSName(host)]), False
    return make.issue("hub", issuer, extensions=[names], **options)  # type: ignore[arg-type]


class Parts:
    """An echo server with a certificate in files."""

    def __init__(self, directory: DataDirectory) -> None:
        self.directory = directory
        self.ambient = VirtualAmbient(now=time.time())
        self.make = Maker(self.ambient.now())
        self.files = CertificateFiles(directory.path / "mine.pem", directory.path / "mine.key")
        self.root = self.make.root()
        self.first = self.make_one()
        self.certificate: OwnCertificate
        self.server: Server

    def make_one(self, **options: object) -> Pair:
        return for_hub(self.make, self.root, "localhost", **options)

    def put(self, pair: Pair, *, key: Pair | None = None) -> None:
        self.files.certificate.write_bytes(pair.pem + self.root.pem)
        self.files.key.write_bytes((key or pair).key_pem)

    async def shown(self) -> bytes:
        """What a new connection sees."""
        context = ssl.create_default_context(cafile=str(self.directory.ca_file))
        _, writer = await asyncio.open_connection("localhost", self.server.port, ssl=context)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return bytes(der)

    async def looks(self, count: int = 2) -> None:
        """Let the hub look at the files."""
        for _ in range(count):
            self.ambient.advance(LOOK_SECONDS)
            await until(lambda: not self.certificate._watch._tasks)

    async def shows(self, pair: Pair) -> None:
        async with asyncio.timeout(20):
            while await self.shown() != pair.der:
                await asyncio.sleep(0.01)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    directory = DataDirectory(tmp_path / "data")
    parts = Parts(directory)
    parts.put(parts.first)
    parts.certificate = await OwnCertificate.open(parts.files, lambda: ["localhost"], directory, parts.ambient)
    async with echo_server(tmp_path, parts.certificate.context) as parts.server:
        parts.server.client.load_verify_locations(str(directory.ca_file))
        yield parts
    await parts.certificate.close()
    directory.release()


async def test_1_a_changed_file_is_noticed_and_connections_go_on(parts: Parts) -> None:
    assert await parts.shown() == parts.first.der
    reader, writer = await parts.server.connect()
    second = parts.make_one()
    parts.put(second)
    await parts.looks()
    await parts.shows(second)
    writer.write(b"still here")
    assert await reader.readexactly(10) == b"still here"
    writer.close()


async def test_2_what_is_half_written_is_waited_for_and_a_bad_one_is_told_once(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    second = parts.make_one()
    parts.put(second, key=parts.first)
    await parts.looks(1)
    assert "not taken" not in caplog.text
    await parts.looks(3)
    assert caplog.text.count("is not taken, the one of before goes on") == 1
    assert "is not that of the certificate" in parts.certificate.own().trouble
    assert await parts.shown() == parts.first.der
    parts.put(second)
    await parts.looks()
    await parts.shows(second)
    assert parts.certificate.own().trouble == ""
    parts.files.key.unlink()
    await parts.looks()
    assert "No such file" in parts.certificate.own().trouble
    assert await parts.shown() == second.der


async def test_3_a_signal_takes_it_at_once(parts: Parts) -> None:
    second = parts.make_one()
    parts.put(second)
    parts.certificate.reload()
    await parts.shows(second)


async def test_4_another_root_is_told_to_clients(parts: Parts) -> None:
    parts.root = parts.make.root("Another")
    second = parts.make_one()
    parts.put(second)
    parts.certificate.reload()
    await until(lambda: parts.root.pem in parts.directory.bundle_file.read_bytes())
    assert await parts.shown() == second.der
    assert x509.load_pem_x509_certificate(parts.directory.ca_file.read_bytes()) == parts.root.certificate


async def test_5_none_is_no_start(parts: Parts) -> None:
    parts.files.certificate.unlink()
    with pytest.raises(CertificateFileError, match="No such file"):
        await OwnCertificate.open(parts.files, lambda: ["localhost"], parts.directory, parts.ambient)


# --- a hub in a process of its own


PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")


def muster(hub: HubProcess, *arguments: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "muster", *arguments, "--data", str(hub.directory / "data")]
    done = subprocess.run(command, cwd=hub.directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def put(directory: Path, pair: Pair, *issuers: Pair) -> None:
    (directory / "hub.pem").write_bytes(b"".join(one.pem for one in (pair, *issuers)))
    (directory / "hub.key").write_bytes(pair.key_pem)


def seen_by(hub: HubProcess) -> bytes:
    pem = ssl.get_server_certificate((hub.address, hub.port("mqtt")), ca_certs=hub.facts["HUB_CA_FILE"])
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("rooted", [True, False])
def test_6_a_hub_with_a_certificate_of_ones_own(
    make_hub: Callable[..., HubProcess], tmp_path: Path, rooted: bool
) -> None:
    make = Maker(time.time())
    root = make.root()
    middle = make.intermediate("Middle", root)
    options = ("--certificate", str(tmp_path / "hub.pem"), "--key", str(tmp_path / "hub.key"))
    hub = make_hub(*PORTS, *options)
    first, second = (for_hub(make, middle, hub.address) for _ in range(2))
    issuers = (middle, root) if rooted else (middle,)
    put(tmp_path, first, *issuers)
    with hub:
        told = "append it there" in hub.log_file.read_text()
        assert told is not rooted
        anchor = x509.load_pem_x509_certificate(Path(hub.facts["HUB_CA_FILE"]).read_bytes())
        assert anchor == issuers[-1].certificate
        assert issuers[-1].pem.strip() in Path(hub.facts["HUB_CA_BUNDLE"]).read_bytes()
        assert f"HUB_CA_FILE={hub.facts['HUB_CA_FILE']}" in muster(hub, "env", "--format", "dotenv").replace('"', "")
        assert "DeviceId=dev" in muster(hub, "device", "add", "dev")
        if rooted:
            assert hub.request("GET", "/devices/dev")[0] == 200
            assert seen_by(hub) == first.der
            put(tmp_path, second, *issuers)
            hub.signal(signal.SIGHUP)
            deadline = time.monotonic() + 20
            while seen_by(hub) != second.der:
                assert time.monotonic() < deadline
            (tmp_path / "hub.key").write_bytes(first.key_pem)
            hub.signal(signal.SIGHUP)
            while "is not taken" not in hub.log_file.read_text():
                assert time.monotonic() < deadline
            found = [json.loads(line) for line in muster(hub, "doctor", "--json", status=1).splitlines()]
            assert "hub-certificate-not-taken" in [one["name"] for one in found]
            assert seen_by(hub) == second.der


def test_7_a_certificate_that_will_not_do_is_told_at_the_start(
    make_hub: Callable[..., HubProcess], tmp_path: Path
) -> None:
    make = Maker(time.time())
    options = ("--certificate", str(tmp_path / "hub.pem"), "--key", str(tmp_path / "hub.key"))
    put(tmp_path, for_hub(make, None, "elsewhere.example"))
    with pytest.raises(RuntimeError, match=r"is for elsewhere\.example; start with --hostname"):
        make_hub(*PORTS, *options).start()
    with pytest.raises(RuntimeError, match="go together"):
        make_hub(*PORTS, *options[:2]).start()
