"""The disk fills up under a hub: devices are turned away, nothing acknowledged is lost, it goes on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import resource
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish
from tests.addresses import loopback

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
BODY_BYTES = 20_000
TMPFS_BYTES = 4 * 1024 * 1024

Full = Callable[[HubProcess], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def no_longer_files(hub: HubProcess) -> Iterator[None]:
    """The hub's files may not become longer than its write-ahead log is now."""
    soft, hard = resource.prlimit(hub.pid, resource.RLIMIT_FSIZE)
    longest = (hub.directory / "data" / "telemetry.db-wal").stat().st_size
    resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (longest, hard))
    yield
    resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def no_room(hub: HubProcess) -> Iterator[None]:
    """Somebody else takes what room there is on the file system."""
    glutton = hub.directory / "data" / "glutton"
    with contextlib.suppress(OSError), glutton.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    glutton.unlink()


@pytest.fixture(params=[no_longer_files, no_room])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Full]:
    """How the disk of ``tmp_path/data`` is filled: by a limit, or for real where we may mount a small one."""
    if request.param is no_longer_files:
        yield request.param
        return
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    (tmp_path / "data").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(tmp_path / "data")]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system may be mounted here")
    yield request.param
    subprocess.run(["umount", "--lazy", str(tmp_path / "data")], check=True)


class Device:
    """Sends numbered messages one by one; connects again whenever it was turned away."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub, self.key, self.next = hub, hub.add_device("d"), 0
        self.acknowledged: list[int] = []

    async def send(self, count: int) -> bool:
        """Send ``count`` messages on a connection of their own; whether all were acknowledged."""
        hub = self.hub
        client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
        try:
            token = hub.token("devices/d", self.key)
            assert await client.connect("d", f"{hub.address}/d/?api-version=2021-04-12", token) == (False, 0)
            for _ in range(count):
                number, self.next = self.next, self.next + 1
                await client.send(publish(f"devices/d/messages/events/n={number}", b"x" * BODY_BYTES))
                await client.expect("PUBACK")
                self.acknowledged.append(number)
        except (ConnectionError, EOFError):
            return False
        finally:
            client.abort()
        return True


def is_ready(hub: HubProcess) -> bool:
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/health/ready")
        status = connection.getresponse().status
    assert status in {200, 503}
    return status == 200


def stored(hub: HubProcess, last: int) -> list[int]:
    """The numbers that the hub has, in its order, up to ``last``."""
    url = f"https://{hub.address}:{hub.port('https')}/$muster/monitor?api-version=2021-04-12&from=start"
    request = urllib.request.Request(url, headers={"Authorization": hub.owner_token()})
    numbers: list[int] = []
    with urllib.request.urlopen(request, context=hub.trust(), timeout=20) as lines:
        while last not in numbers:
            line = lines.readline()
            assert line, "the hub ended"
            if line.strip():
                numbers.append(int(json.loads(line)["properties"]["n"]))
    return numbers


async def test_a_full_disk_turns_devices_away_until_there_is_room_again(disk: Full, tmp_path: Path) -> None:
    with HubProcess(tmp_path, loopback(), *ANY_PORTS) as hub:
        device = Device(hub)
        assert await device.send(20)
        with disk(hub):
            while await device.send(5):
                assert device.next < 2 * TMPFS_BYTES // BODY_BYTES
            assert not is_ready(hub)
            for _ in range(3):
                assert not await device.send(5)
            assert not is_ready(hub)
        async with asyncio.timeout(20):
            while not is_ready(hub):  # without any message
                await asyncio.sleep(0.1)
        assert await device.send(20)
        assert stored(hub, device.acknowledged[-1]) == device.acknowledged
        log = hub.log_file.read_text()
        assert log.count("telemetry cannot be stored") == log.count("telemetry is stored again") == 1
        assert "Traceback" not in log
