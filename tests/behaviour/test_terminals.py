"""Commands on terminals that cannot show everything: they print escapes, and none ends in a traceback."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish

PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
USER = "{}/d/?api-version=2021-04-12"
TERMINALS = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
    "C": {"LC_ALL": "C"},
    "strictly C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture
def hub(make_hub: Callable[..., HubProcess]) -> HubProcess:
    hub = make_hub(*PORTS).start()
    asyncio.run(talk(hub, hub.add_device("d")))
    return hub


async def talk(hub: HubProcess, key: str) -> None:
    """One message and one wrong login, both with characters of everywhere."""
    for name, password in (("d", hub.token("devices/d", key)), ("d", "snowman \N{SNOWMAN}")):
        client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust(), hub.address)
        _, code = await client.connect(name, USER.format(hub.address), password)
        if code == 0:
            topic = "devices/d/messages/events/"
            await client.send(publish(topic, "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN}".encode()))
            await client.expect("PUBACK")
        client.abort()


def test_whatever_the_terminal_is_commands_print(hub: HubProcess) -> None:
    printed: dict[str, str] = {}
    for terminal, variables in TERMINALS.items():
        for command in (("monitor", "--from", "start", "--count", "1"), ("why",)):
            done = subprocess.run(
                [sys.executable, "-m", "muster", *command, "--data", str(hub.directory / "data")],
                capture_output=True, timeout=30, check=False, env={**os.environ, **variables},
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, b""), (terminal, command)
            printed[f"{command[0]} {terminal}"] = done.stdout.decode("latin-1")
    assert "caf\xe9 \\u2603" in printed["monitor latin-1"]
    assert "caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN}" in printed["monitor utf-8"].encode("latin-1").decode()
