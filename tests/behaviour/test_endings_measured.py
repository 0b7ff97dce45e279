"""How long a session lives on when its ground is gone: the hub in a process of its own, real sockets, real time.

`python -m pytest -s -m soak tests/behaviour/test_endings_measured.py` prints the table of docs/results.
"""

from __future__ import annotations

import base64
import random
import secrets
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from amqp_device import Device

from muster.core.certificate_limits import REVOCATION_REFRESH
from muster.testing.hub import HubProcess
from muster.testing.mqtt import connect
from muster.wire.amqp.performatives import Accepted
from muster.wire.amqp.sasl import SaslInit
from tests.behaviour.revocation_place import Place, serving
from tests.certificate_maker import Maker, Pair

pytestmark = pytest.mark.soak
ROUNDS, PROMISED, PATIENCE = 5, 5.0, 30.0
"""``PROMISED``: seconds within which a session ends."""


@pytest.fixture
def place() -> Iterator[Place]:
    with serving() as made:
        yield made


class Scene:
    """A hub. Each round has an authority of its own and two devices that connect: one by MQTT, one by AMQP."""

    def __init__(self, hub: HubProcess, place: Place) -> None:
        self.hub, self.place = hub, place
        self.make = place.make = Maker(time.time())
        self.round = 0
        self.root: Pair
        self.leaves: list[Pair] = []

    @property
    def authority(self) -> str:
        return f"ca{self.round}"

    @property
    def names(self) -> tuple[str, str]:
        return f"mqtt{self.round}", f"amqp{self.round}"

    def begin(self, kind: str) -> dict[str, socket.socket]:
        """Their connections by protocol; ``kind`` is their authentication's."""
        self.round += 1
        self.root = self.make.root(f"Root {self.round}")
        self.command("ca", "add", self.authority, self.write("root.pem", self.root.pem), "--set-verified")
        self.leaves = [self.make.issue(name, self.root) for name in self.names]
        keys = [self.put_device(name, kind, leaf) for name, leaf in zip(self.names, self.leaves, strict=True)]
        return {"MQTT": self.mqtt(kind, keys[0]), "AMQP": self.amqp(kind, keys[1])}

    def put_device(self, name: str, kind: str, leaf: Pair, status: str = "enabled", **headers: str) -> str:
        """Make a device, or change it with ``If-Match``; its primary key, empty without."""
        authentication: dict[str, Any] = {"type": kind}
        if kind == "selfSigned":
            authentication["x509Thumbprint"] = {"primaryThumbprint": leaf.sha256}
        if headers and kind == "sas":
            primary, secondary = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
            authentication["symmetricKey"] = {"primaryKey": primary, "secondaryKey": secondary}
        body = {"deviceId": name, "status": status, "authentication": authentication}
        code, answer = self.hub.request("PUT", f"/devices/{name}", body, **headers)
        assert code == 200, answer
        return str(answer["authentication"]["symmetricKey"]["primaryKey"] or "")

    def change_devices(self, kind: str, status: str = "enabled") -> None:
        """Disabled, or new keys or thumbprints: of the MQTT device first."""
        for name, number in zip(self.names, (0, 1), strict=True):
            leaf = self.leaves[number] if status == "disabled" else self.make.issue("new", None)
            self.put_device(name, kind, leaf, status, **{"If-Match": "*"})

    def delete_devices(self) -> None:
        for name in self.names:
            assert self.hub.request("DELETE", f"/devices/{name}", **{"If-Match": "*"})[0] == 204

    # --- connections

    def context(self, kind: str, leaf: Pair) -> ssl.SSLContext:
        context = self.hub.trust()
        if kind != "sas":
            context.load_cert_chain(self.write("device.pem", leaf.pem + leaf.key_pem))
        return context

    def mqtt(self, kind: str, key: str) -> socket.socket:
        name = self.names[0]
        token = self.hub.token(f"devices/{name}", key) if kind == "sas" else None
        plain = socket.create_connection((self.hub.address, self.hub.port("mqtt")), PATIENCE)
        client = self.context(kind, self.leaves[0]).wrap_socket(plain, server_hostname=self.hub.address)
        client.sendall(connect(name, f"{self.hub.address}/{name}/?api-version=2021-04-12", token))
        assert client.recv(4) == b"\x20\x02\x00\x00"
        return client

    def amqp(self, kind: str, key: str) -> socket.socket:
        name = self.names[1]
        device = Device(
            self.hub.port("amqp"), host=self.hub.address, context=self.context(kind, self.leaves[1]),
            sasl=SaslInit("ANONYMOUS" if kind == "sas" else "EXTERNAL"),
        )  # fmt: skip
        if kind == "sas":
            resource = f"devices/{name}"
            assert device.put(self.hub.token(resource, key), f"{self.hub.address}/{resource}")[0] == 200
        assert isinstance(device.telemetry(device.link(name, "messages/events"), b"x"), Accepted)
        return device.socket

    # --- the authority

    def command(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "muster", *arguments, "--data", str(self.hub.directory / "data")]
        done = subprocess.run(command, cwd=self.hub.directory, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def write(self, name: str, content: bytes) -> str:
        (self.hub.directory / name).write_bytes(content)
        return str(self.hub.directory / name)

    def load_list(self) -> None:
        self.command("ca", "crl", self.authority, self.write("ca.crl", self.make.revoked(self.root, *self.leaves)))

    def ask_for_news(self, option: str) -> None:
        """Have the hub look at the place, and wait for a moment that its rounds do not choose."""
        self.place.list = self.make.revoked(self.root)
        self.place.issuers, self.place.statuses = [self.root], []
        self.command("ca", "revocation", self.authority, option, self.place.url)
        deadline = time.monotonic() + PATIENCE
        while not self.place.statuses:
            assert time.monotonic() < deadline, "the hub does not look"
            time.sleep(0.05)
        time.sleep(random.uniform(0, REVOCATION_REFRESH.open))

    def publish_list(self) -> None:
        self.place.list = self.make.revoked(self.root, *self.leaves)

    def revoke_at_responder(self) -> None:
        self.place.revoked |= {leaf.certificate.serial_number for leaf in self.leaves}


def ended(client: socket.socket) -> float:
    """When the hub has closed the connection."""
    client.settimeout(PATIENCE)
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    return time.monotonic()


def nothing(_: Scene) -> None:
    """Nothing has to be prepared."""


Step = Callable[[Scene], None]
WAYS: dict[str, tuple[str, Step, Step]] = {
    "`muster ca crl`, the whole command": ("certificateAuthority", nothing, Scene.load_list),
    "`muster ca delete`, the whole command": (
        "certificateAuthority", nothing, lambda scene: scene.command("ca", "delete", scene.authority),
    ),
    "the list behind a URL changes": (
        "certificateAuthority", lambda scene: scene.ask_for_news("--list-url"), Scene.publish_list,
    ),
    "the OCSP responder says revoked": (
        "certificateAuthority", lambda scene: scene.ask_for_news("--responder-url"), Scene.revoke_at_responder,
    ),
    "disabled (REST)": (
        "certificateAuthority", nothing, lambda scene: scene.change_devices("certificateAuthority", "disabled"),
    ),
    "deleted (REST)": ("certificateAuthority", nothing, Scene.delete_devices),
    "another thumbprint (REST)": ("selfSigned", nothing, lambda scene: scene.change_devices("selfSigned")),
    "another key, of a SAS device (REST)": ("sas", nothing, lambda scene: scene.change_devices("sas")),
}  # fmt: skip
"""What takes a session's ground away: the devices' authentication, what is prepared, and the deed."""


def test_sessions_end_in_time(make_hub: Callable[..., HubProcess], place: Place) -> None:
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    with (
        make_hub("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0") as hub,
        ThreadPoolExecutor(2) as watchers,
    ):
        scene = Scene(hub, place)
        for way, (kind, prepare, deed) in list(WAYS.items()) * ROUNDS:
            clients = scene.begin(kind)
            prepare(scene)
            ends = {protocol: watchers.submit(ended, client) for protocol, client in clients.items()}
            begun = time.monotonic()
            deed(scene)
            for protocol, end in ends.items():
                took[way, protocol].append(end.result() - begun)
                clients[protocol].close()
    print("\n| what happens | protocol | median | longest |\n| --- | --- | ---: | ---: |")
    for (way, protocol), seconds in took.items():
        print(f"| {way} | {protocol} | {statistics.median(seconds):.2f} s | {max(seconds):.2f} s |")
    assert min(map(min, took.values())) > 0
    assert max(map(max, took.values())) < PROMISED
