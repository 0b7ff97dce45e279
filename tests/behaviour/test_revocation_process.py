"""A hub in a process of its own, a revocation list behind a URL, and commands: what ends a session in real time."""

from __future__ import annotations

import http.client
import http.server
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from amqp_device import Device

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient
from muster.wire.amqp.performatives import Accepted, Close, Detach
from muster.wire.amqp.sasl import SaslInit
from tests.behaviour.mqtt_hub import alive, ends_silently
from tests.certificate_maker import Maker, Pair


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory, and the URL under which a server of the standard library serves it."""
    directory = tmp_path / "served"
    directory.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=directory)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Scene:
    """A hub that trusts ``root``, and what a device needs to be let in."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.make = Maker(time.time())
        self.root = self.make.root("Acme")
        self.command("ca", "add", "acme", self.write("root.pem", self.root.pem), "--set-verified")

    def write(self, name: str, content: bytes) -> str:
        (self.hub.directory / name).write_bytes(content)
        return str(self.hub.directory / name)

    def command(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "muster", *arguments, "--data", str(self.hub.directory / "data")]
        done = subprocess.run(command, cwd=self.hub.directory, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr

    def register(self, name: str) -> tuple[ssl.SSLContext, Pair]:
        """A device's certificate, and the context of a client that shows it."""
        status, _ = self.hub.request(
            "PUT", f"/devices/{name}", {"deviceId": name, "authentication": {"type": "certificateAuthority"}}
        )
        assert status == 200
        leaf = self.make.issue(name, self.root)
        context = ssl.create_default_context(cafile=self.hub.facts["HUB_CA_FILE"])
        context.load_cert_chain(self.write("device.pem", leaf.pem + leaf.key_pem))
        return context, leaf

    def last_cause(self, name: str) -> str:
        """Of the newest refusal of the device."""
        return str(self.hub.request("GET", f"/$muster/why?device={name}")[1]["refusals"][0]["cause"])

    async def device(self, name: str) -> tuple[MqttClient, Pair]:
        """A device that is connected, and its certificate."""
        context, leaf = self.register(name)
        client = await MqttClient.open(self.hub.address, self.hub.port("mqtt"), context)
        user = f"{self.hub.address}/{name}/?api-version=2021-04-12"
        assert (await client.connect(name, user))[1] == 0
        return client, leaf


async def test_sessions_end_when_a_list_behind_a_url_changes_and_at_once_by_command(
    make_hub: Callable[..., HubProcess], files: tuple[Path, str]
) -> None:
    directory, url = files
    with make_hub("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0") as hub:
        scene = Scene(hub)
        (first, gone), (second, lost), (third, _) = [await scene.device(name) for name in ("one", "two", "three")]

        def publish(*revoked: Pair) -> None:
            (directory / "new").write_bytes(scene.make.revoked(scene.root, *revoked))
            os.replace(directory / "new", directory / "acme.crl")

        publish()
        scene.command("ca", "revocation", "acme", "--list-url", f"{url}/acme.crl", "--refresh", "1")
        await alive(first)
        publish(gone)
        await ends_silently(first)
        await alive(second)
        scene.command("ca", "crl", "acme", scene.write("acme.crl", scene.make.revoked(scene.root, gone, lost)))
        await ends_silently(second)
        await alive(third)
        publish(gone, lost)
        scene.command("ca", "delete", "acme")
        await ends_silently(third)


def test_a_revoked_certificate_ends_its_link_on_amqp_and_is_refused_on_https(
    make_hub: Callable[..., HubProcess],
) -> None:
    with make_hub("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0") as hub:
        scene = Scene(hub)
        (gone, lost), (stays, _) = scene.register("gone"), scene.register("stays")
        devices = {}
        for name, context in (("gone", gone), ("stays", stays)):
            sasl = SaslInit("EXTERNAL")
            device = devices[name] = Device(hub.port("amqp"), host=hub.address, context=context, sasl=sasl)
            link = device.link(name, "messages/events")
            assert isinstance(device.telemetry(link, b"by certificate"), Accepted)

        def post(name: str, context: ssl.SSLContext) -> int:
            connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=context, timeout=30)
            path = f"/devices/{name}/messages/events?api-version=2021-04-12"
            connection.request("POST", path, b"x")
            status = connection.getresponse().status
            connection.close()
            return status

        assert (post("gone", gone), post("stays", stays)) == (204, 204)
        scene.command("ca", "crl", "acme", scene.write("acme.crl", scene.make.revoked(scene.root, lost)))
        assert devices["gone"].wait_for((Detach, Close)).body.error.condition == "amqp:unauthorized-access"
        assert scene.last_cause("gone") == "certificate-revoked"
        assert (post("gone", gone), post("stays", stays)) == (401, 204)
        assert scene.last_cause("gone") == "certificate-revoked"
        assert isinstance(devices["stays"].telemetry(0, b"still here"), Accepted)
        for device in devices.values():
            device.socket.close()
