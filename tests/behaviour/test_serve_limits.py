"""`muster serve` and the limits of its process: open files."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from muster.testing.hub import HubProcess
from muster.testing.mqtt import PINGREQ, MqttClient
from tests.coming_from import coming_from

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
FEW = "files may be open"


def under_limits(soft: int, hard: int) -> tuple[str, ...]:
    """A shell that starts a command with these limits of open files."""
    return "sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh"


def test_1_the_soft_limit_of_open_files_is_raised_to_the_hard_one(make_hub: Callable[..., HubProcess]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hub = make_hub(*ANY_PORTS, prefix=under_limits(256, hard)).start()
    assert resource.prlimit(hub.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert (FEW in hub.log_file.read_text()) is (hard != resource.RLIM_INFINITY and hard < 8192)


def test_2_a_low_limit_is_said_in_the_log(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub(*ANY_PORTS, prefix=under_limits(256, 512)).start()
    assert resource.prlimit(hub.pid, resource.RLIMIT_NOFILE) == (512, 512)
    assert f"only 512 {FEW}" in hub.log_file.read_text()


async def test_3_silent_connections_give_way_when_files_run_out(
    make_hub: Callable[..., HubProcess],
) -> None:
    """A flood of them keeps nobody out, and takes nobody away who is there: not at another address, nor at its own."""
    hub = await asyncio.to_thread(make_hub(*ANY_PORTS, prefix=under_limits(256, 256)).start)
    devices = []
    for name, address in (("elsewhere", "127.0.0.1"), ("same", "127.9.9.9")):
        token = hub.token(f"devices/{name}", hub.add_device(name))
        with coming_from(address):
            device = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
        assert await device.connect(name, f"{hub.address}/{name}/?api-version=2021-04-12", token) == (False, 0)
        devices.append(device)
    with ExitStack() as stack:
        for protocol in ("mqtt", "https", "amqp"):
            for _ in range(200):
                silent = socket.socket()
                stack.callback(silent.close)
                silent.setblocking(False)
                silent.bind(("127.9.9.9", 0))
                with suppress(BlockingIOError):
                    silent.connect((hub.address, hub.port(protocol)))
            assert (await asyncio.to_thread(hub.request, "GET", "/devices/same"))[0] == 200
        with coming_from("127.9.9.9"):
            assert (await asyncio.to_thread(hub.request, "GET", "/devices/same"))[0] == 200
    for device in devices:
        await device.send(PINGREQ)
        await device.expect("PINGRESP")
        await device.close()
    log = hub.log_file.read_text()
    assert "silent connections of 127.9.9.9 gave way" in log
    assert "cannot accept" not in log, "nobody had to wait"
