"""`muster serve` as a process: ready line and file, ports, restarts, refusals to start, the end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient
from tests.addresses import loopback
from tests.engines import hub_process

NAMES = (
    "HUB_HOST", "HUB_CONNECTION_STRING", "SERVICE_CONNECTION_STRING", "EVENTHUB_CONNECTION_STRING", "DPS_HOST",
    "DPS_ID_SCOPE", "DPS_CONNECTION_STRING", "HUB_CA_FILE", "HUB_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")


def serve(*arguments: str, prefix: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """A start that is expected to end by itself."""
    return subprocess.run(
        [*prefix, sys.executable, "-m", "muster", "serve", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def health(hub: HubProcess, path: str) -> int:
    url = f"https://{hub.address}:{hub.port('https')}/health/{path}"
    with urllib.request.urlopen(url, context=hub.trust(), timeout=20) as answer:
        return int(answer.status)


def test_01_the_ready_line_is_the_last_and_the_ready_file_has_every_name(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub(*ANY_PORTS).start()
    last = hub.log_file.read_text().rstrip().splitlines()[-1]
    assert re.match(r"ready: MQTT \d+, AMQP \d+, HTTPS and WebSocket \d+$", last)
    assert hub.facts["pid"] == hub.pid
    assert set(NAMES) <= set(hub.facts)
    assert len({hub.port("mqtt"), hub.port("amqp"), hub.port("https")} - {0}) == 3
    assert (health(hub, "live"), health(hub, "ready")) == (200, 200)


def test_02_connection_strings_and_the_authority_stay_over_restarts(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub(*ANY_PORTS).start()
    before, authority = dict(hub.facts), Path(hub.facts["HUB_CA_FILE"]).read_bytes()
    key = hub.add_device("stays")
    assert hub.stop() == 0
    hub.start()
    for name in ("DPS_ID_SCOPE", "DPS_CONNECTION_STRING", "HUB_CONNECTION_STRING", "EVENTHUB_CONNECTION_STRING"):
        assert strip_port(hub.facts[name]) == strip_port(before[name])
    assert Path(hub.facts["HUB_CA_FILE"]).read_bytes() == authority
    status, device = hub.request("GET", "/devices/stays")
    assert (status, device["authentication"]["symmetricKey"]["primaryKey"]) == (200, key)


def strip_port(text: str) -> str:
    return re.sub(r":\d+", "", text)


def test_03_ephemeral_hubs_share_the_development_keys_and_keep_nothing(make_hub: Callable[..., HubProcess]) -> None:
    first, second = make_hub(*ANY_PORTS, ephemeral=True).start(), make_hub(*ANY_PORTS, ephemeral=True).start()
    key = re.compile("SharedAccessKey=([^;]+)")
    assert (
        key.search(first.facts["HUB_CONNECTION_STRING"])[1]  # type: ignore[index]
        == key.search(second.facts["HUB_CONNECTION_STRING"])[1]  # type: ignore[index]
    )
    directory = Path(first.facts["HUB_CA_FILE"]).parent
    assert directory.exists()
    assert first.stop() == 0
    assert not directory.exists()


async def test_04_new_host_names_get_a_new_certificate_of_the_same_authority(tmp_path: Path) -> None:
    address = loopback()
    for names in (("localhost",), ("hub.example", "localhost")):
        options = [option for name in names for option in ("--hostname", name)]
        with hub_process(tmp_path, address, *ANY_PORTS, *options) as hub:
            client = await MqttClient.open(address, hub.port("mqtt"), hub.trust(), server_name=names[0])
            await client.close()
            with pytest.raises(ssl.SSLCertVerificationError):
                await MqttClient.open(address, hub.port("mqtt"), hub.trust(), server_name="other.example")


def test_05_a_directory_has_one_hub(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub(*ANY_PORTS).start()
    done = serve("--data", str(hub.directory / "data"), *ANY_PORTS)
    assert done.returncode == 1
    assert "in use by another muster process" in done.stderr
    assert health(hub, "ready") == 200


def test_06_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    address = loopback()
    with socket.socket() as sock:
        sock.bind((address, 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        done = serve("--data", str(tmp_path), "--bind", address, "--mqtt-port", port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "--mqtt-port" in done.stderr
    assert not (tmp_path / "run.json").exists()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="drops a privilege, so it must have it")
def test_07_without_the_privilege_for_443_it_says_how_and_serves_8443(tmp_path: Path) -> None:
    address, ready = loopback(), tmp_path / "ready.json"
    command = ["setpriv", "--bounding-set=-net_bind_service", sys.executable, "-m", "muster", "serve",
               "--data", str(tmp_path / "data"), "--bind", address, "--ready-file", str(ready)]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            break
    while not ready.exists():
        assert process.poll() is None
    assert json.loads(ready.read_text())["ports"]["https"] == 8443
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert "ip_unprivileged_port_start=443" in errors
    assert process.returncode == 0


def test_08_public_keys_are_not_served_to_the_world_in_the_azure_profile() -> None:
    done = serve("--ephemeral", "--profile", "azure", "--bind", "0.0.0.0")
    assert done.returncode == 2
    assert "loopback" in done.stderr


def test_09_flags_come_from_the_environment_and_from_muster_toml(tmp_path: Path) -> None:
    address = loopback()
    (tmp_path / "muster.toml").write_text(f'bind = ["{address}"]\nmqtt_port = 0\namqp_port = 0\nhttps_port = 0\n')
    environment = {"MUSTER_DATA": str(tmp_path / "data"), "MUSTER_READY_FILE": str(tmp_path / "ready.json")}
    process = subprocess.Popen(
        [sys.executable, "-m", "muster", "serve"], cwd=tmp_path, env={**os.environ, **environment},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while not process.stdout.readline().startswith("ready"):
        assert process.poll() is None
    process.terminate()
    assert process.wait(20) == 0
    assert (tmp_path / "data" / "hub.db").exists()
    assert not (tmp_path / "ready.json").exists()


async def test_10_sigterm_ends_connections_and_the_hub(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub(*ANY_PORTS).start()
    key = hub.add_device("d")
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    user = f"{hub.address}/d/?api-version=2021-04-12"
    assert await client.connect("d", user, hub.token("devices/d", key)) == (False, 0)
    silent = socket.create_connection((hub.address, hub.port("mqtt")))
    assert hub.stop() == 0
    assert await client.expect_end() == b""
    silent.close()
    await client.close()
    assert not (hub.directory / "data" / "run.json").exists()


def test_11_another_number_of_partitions_is_refused_for_an_old_directory(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub(*ANY_PORTS).start()
    hub.stop()
    with pytest.raises(RuntimeError, match="--partitions 4"):
        hub_process(hub.directory, hub.address, *ANY_PORTS, "--partitions", "8").start()


def test_12_everything_in_the_data_directory_is_for_its_owner_only(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub(*ANY_PORTS).start()
    paths = [hub.directory / "data", *(hub.directory / "data").iterdir()]
    assert {path.name: path.stat().st_mode & 0o077 for path in paths} == {path.name: 0 for path in paths}


def test_13_a_second_hub_in_one_folder_is_told_of_the_directory_not_of_the_port(
    make_hub: Callable[..., HubProcess],
) -> None:
    hub = make_hub(*ANY_PORTS).start()
    done = serve("--data", str(hub.directory / "data"), "--bind", hub.address, "--mqtt-port", str(hub.port("mqtt")))
    assert done.returncode == 1
    assert "in use by another muster process" in done.stderr


def test_14_addresses_that_include_each_other_serve(tmp_path: Path) -> None:
    with hub_process(tmp_path, "127.0.0.1", "--bind", "0.0.0.0", "--bind", "127.0.0.1", *ANY_PORTS) as hub:
        assert health(hub, "ready") == 200
