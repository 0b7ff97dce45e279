"""The servers under test, each started on the server core and stopped again, and the accounts they share.

Every server is sent the same bytes: the same client ids, user names, passwords (SAS tokens) and topics.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import create_connection

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.machine import LOAD_CORE, SERVER_CORE, free_port, on_core
from muster.identity.sas import make
from muster.testing.hub import HubProcess, HubUser

BUILD = Path(__file__).resolve().parent / "build"
HOST = "127.0.0.1"
TOKEN_SECONDS = 7 * 86_400
BULK = 100
SUBSCRIBER = ("bench-reader", "bench-reader", "bench-reader-password")


@dataclass(frozen=True)
class Device:
    """A registered device: 32 bytes of key, made from its id so that every server and run knows them."""

    name: str

    @property
    def key(self) -> bytes:
        return hashlib.sha256(f"bench {self.name}".encode()).digest()

    @property
    def key_text(self) -> str:
        return base64.b64encode(self.key).decode()

    @property
    def user(self) -> str:
        return f"{HOST}/{self.name}/?api-version=2021-04-12"

    def token(self, expiry: int, host: str = HOST) -> str:
        """The SAS token it logs in with at the hub `host`, good until `expiry` (seconds since 1970)."""
        return make(f"{host}/devices/{self.name}", expiry, self.key)


@dataclass
class Accounts:
    """The devices of a run and the files that tell the load generator and Mosquitto of them."""

    directory: Path
    devices: list[Device]
    expiry: int = field(default_factory=lambda: int(time.time()) + TOKEN_SECONDS)

    @property
    def identities(self) -> Path:
        return self.directory / "identities.tsv"

    @property
    def subscriber(self) -> Path:
        return self.directory / "subscriber.tsv"

    @property
    def mosquitto_passwords(self) -> Path:
        return self.directory / "mosquitto.passwords"

    def write(self) -> None:
        """Write the three files."""
        logins = [(device.name, device.user, device.token(self.expiry)) for device in self.devices]
        self.identities.write_text("".join("\t".join(login) + "\n" for login in logins))
        self.subscriber.write_text("\t".join(SUBSCRIBER) + "\n")
        lines = [mosquitto_line(user, password) for _, user, password in [*logins, SUBSCRIBER]]
        self.mosquitto_passwords.write_text("".join(lines))


def mosquitto_line(user: str, password: str, iterations: int = 101) -> str:
    """A line as mosquitto_passwd writes it, with its default number of iterations."""
    salt = hashlib.sha256(f"salt {user}".encode()).digest()[:12]
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)
    return f"{user}:$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def write_certificate(directory: Path) -> tuple[Path, Path]:
    """A self-signed ECDSA P-256 certificate and its key, for the servers that make none themselves."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    paths = directory / "server.crt", directory / "server.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


def register(hub: HubUser, devices: Sequence[Device]) -> None:
    """Create the devices at the hub, unless it has the last of them."""
    status, _ = hub.request("GET", f"/devices/{devices[-1].name}")
    if status == 200:
        return
    for start in range(0, len(devices), BULK):
        body = [
            {
                "id": device.name,
                "importMode": "create",
                "status": "enabled",
                "authentication": {
                    "type": "sas",
                    "symmetricKey": {"primaryKey": device.key_text, "secondaryKey": device.key_text},
                },
            }
            for device in devices[start : start + BULK]
        ]
        status, answer = hub.request("POST", "/devices", body)
        if status != 200 or not answer["isSuccessful"]:
            raise RuntimeError(f"the devices could not be registered: {status} {answer}")


class Server(ABC):
    """One server under test. `load_options` are what mqload needs to know of it besides its port and process."""

    name: str

    def __init__(self, directory: Path, accounts: Accounts) -> None:
        self.directory = directory / self.name
        self.directory.mkdir(parents=True, exist_ok=True)
        self.accounts = accounts

    @abstractmethod
    def start(self) -> None:
        """Start it on the server core and return when it accepts connections."""

    @abstractmethod
    def stop(self) -> None:
        """End it; harmless when it does not run."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """The root of its process tree."""

    @property
    def pids(self) -> list[int]:
        """The roots of all process trees that it is made of."""
        return [self.pid]

    @property
    @abstractmethod
    def port(self) -> int:
        """Where it takes MQTT over TLS."""

    def publish_options(self) -> list[str]:
        """Options of mqload for measurements with messages: how what is sent is also read."""
        return []


class Program(Server):
    """A server that is a plain command listening on one port, after `patience` seconds at most."""

    patience = 20.0

    def __init__(self, directory: Path, accounts: Accounts) -> None:
        super().__init__(directory, accounts)
        self.certificate, self.key = write_certificate(self.directory)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command that runs it in the foreground."""

    def environment(self) -> dict[str, str] | None:
        """Its environment variables; ``None``: ours."""
        return None

    def start(self) -> None:
        with on_core(SERVER_CORE), (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment()
            )
        deadline = time.monotonic() + self.patience
        while True:
            try:
                create_connection((HOST, self.port), 1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self.directory / "log").read_text()[-2000:]
                    raise RuntimeError(f"{self.name} did not start: {said}") from None
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def port(self) -> int:
        return self._port


class Minimal(Program):
    """bench/c/minsrv.c: the floor. On disk before the PUBACK; nothing checked, nobody reading."""

    name = "minimal C"

    def command(self) -> list[str]:
        return [
            str(BUILD / "minsrv"),
            str(self.port),
            str(self.certificate),
            str(self.key),
            f"{self.directory}/log.bin",
        ]


class Mosquitto(Program):
    """Debian's Mosquitto with TLS and a password file; one QoS 1 subscriber, nothing stored."""

    name = "Mosquitto"

    def settings(self) -> dict[str, object]:
        """The lines of its configuration."""
        return {
            "listener": f"{self.port} {HOST}",
            "certfile": self.certificate,
            "keyfile": self.key,
            "allow_anonymous": "false",
            "password_file": self.accounts.mosquitto_passwords,
            "persistence": "false",
            "set_tcp_nodelay": "true",
            "max_inflight_messages": "0",
            "max_queued_messages": "100000",
            "log_type": "error",
            "user": "root",
        }

    def command(self) -> list[str]:
        file = self.directory / "mosquitto.conf"
        file.write_text("".join(f"{name} {value}\n" for name, value in self.settings().items()))
        return ["mosquitto", "-c", str(file)]

    def publish_options(self) -> list[str]:
        return ["-S", str(self.accounts.subscriber)]


class Muster(Server):
    """The hub: durable, every device with a token of its own, one receiver on all partitions reading along."""

    name = "Muster"

    def __init__(self, directory: Path, accounts: Accounts, *options: str) -> None:
        super().__init__(directory, accounts)
        ports = [option for name in ("mqtt", "amqp", "https") for option in (f"--{name}-port", "0")]
        self.hub = HubProcess(self.directory, HOST, *ports, *options)
        self.counters = self.directory / "counters"
        self._reader: subprocess.Popen[str] | None = None

    def start(self) -> None:
        with on_core(SERVER_CORE):
            self.hub.start()
        self._register()

    def stop(self) -> None:
        self.stop_reader()
        if self.hub.facts:
            self.hub.stop()
            self.hub.facts = {}

    @property
    def pid(self) -> int:
        return self.hub.pid

    @property
    def port(self) -> int:
        return self.hub.port("mqtt")

    def publish_options(self) -> list[str]:
        self.start_reader()
        return ["-R", str(self.counters)]

    def start_reader(self) -> None:
        """Have a receiver on all partitions read from now on, unless one does."""
        if self._reader is None:
            self._reader = self.read(self.counters)

    def stop_reader(self) -> None:
        """End the receiver, if there is one."""
        if self._reader is not None:
            self._reader.kill()
            self._reader.wait()
            self._reader = None

    def _register(self) -> None:
        """Create the devices, once for the data directory."""
        register(self.hub, self.accounts.devices)

    def read(self, counters: Path, behind: str = "offset > '@latest'") -> subprocess.Popen[str]:
        """A receiver on all partitions, its links open, that reads what is behind an `offset` or `enqueued-time`."""
        parts = dict(part.split("=", 1) for part in self.hub.facts["EVENTHUB_CONNECTION_STRING"].split(";"))
        entity, policy = parts["EntityPath"], parts["SharedAccessKeyName"]
        # Event Hubs clients sign with the key's text, not with the bytes it stands for.
        token = make(f"sb://{HOST}/{entity}", self.accounts.expiry, parts["SharedAccessKey"].encode(), policy)
        arguments = [str(self.hub.port("amqp")), HOST, entity, "4", token, str(counters)]
        command = [str(BUILD / "ehrecv"), *arguments, f"amqp.annotation.x-opt-{behind}"]
        with on_core(LOAD_CORE):
            reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert reader.stdout is not None
        if reader.stdout.readline().strip() != "reading":
            raise RuntimeError("the receiver could not open its links; see its message above")
        return reader
