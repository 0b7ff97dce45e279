"""The code in README.md and docs/connect.md, run as it stands there against a real hub."""

from __future__ import annotations

import operator
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from azure.eventhub import EventHubConsumerClient
from azure.iot.device import IoTHubDeviceClient, Message

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import clustered, hub_process

pytestmark = pytest.mark.sdk

ROOT = Path(__file__).resolve().parents[2]
NODE_HOME = ROOT / "tests" / "node"
FENCE = re.compile(r"^```(python|js|sh)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def recipes() -> Iterator[object]:
    for page in ("README.md", "docs/connect.md"):
        for number, (language, code) in enumerate(FENCE.findall((ROOT / page).read_text())):
            yield pytest.param(language, code, id=f"{page}-{number}-{language}")


@pytest.fixture(scope="module")
def own_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub of this module's own: the recipes print the first event there is, which must be ours."""
    with hub_process(tmp_path_factory.mktemp("recipes"), loopback()) as hub:
        yield hub


@pytest.fixture(scope="module")
def surroundings(own_hub: HubProcess) -> dict[str, str]:
    """The environment that `muster env` gives, with a device that has sent something already."""
    key = own_hub.add_device("recipe-device")
    names = {name: str(value) for name, value in own_hub.facts.items() if name.isupper()}
    commands = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MUSTER_DATA": str(own_hub.directory / "data"),
    }
    device = own_hub.device_connection_string("recipe-device", key)
    return {**os.environ, **names, **commands, "DEVICE": device}


def ends(hub: HubProcess) -> list[int]:
    """The last sequence numbers of all partitions. A question costs the client a third of a second: ask together."""
    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"], "$Default", connection_verify=hub.facts["HUB_CA_FILE"]
    )
    with client, ThreadPoolExecutor() as together:
        properties = together.map(client.get_partition_properties, client.get_partition_ids())
        return [one["last_enqueued_sequence_number"] for one in properties]


def send_something(surroundings: dict[str, str]) -> None:
    device = IoTHubDeviceClient.create_from_connection_string(
        surroundings["DEVICE"], server_verification_cert=Path(surroundings["HUB_CA_FILE"]).read_text()
    )
    device.connect()
    device.send_message(Message('{"temperature": 1}', content_encoding="utf-8", content_type="application/json"))
    device.shutdown()


@pytest.mark.parametrize(("language", "code"), list(recipes()))
def test_recipe(surroundings: dict[str, str], own_hub: HubProcess, language: str, code: str) -> None:
    reads = "receive" in code or "subscribe" in code
    uploads, commands = "upload_blob" in code, "send_c2d_message" in code
    sends = "-d " in code or not (reads or uploads or commands or "curl" in code or "get_devices" in code)
    if uploads and own_hub.port("https") != 443:
        pytest.skip("port 443 may not be bound here, and the device client knows no other for files")
    if uploads and clustered():
        pytest.skip("several nodes have no endpoint for files of their own")
    before = ends(own_hub) if sends else []
    endless = "reader.receive(" in code and "reader.close()" not in code
    if language == "sh":
        program = code.partition(" ")[0]
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on this machine")
        command = ["sh", "-c", code.replace("my-device", "recipe-device")]
    elif language == "python":
        command = [sys.executable, "-c", code.replace("my-device", "recipe-device")]
        if endless:  # the README's reader runs until Ctrl-C: have it end with the first event
            command[-1] = code.replace("event: print(", "event: reader.close() or print(")
    else:
        command = ["node", "-e", code]
    if reads:
        send_something(surroundings)
    done = subprocess.run(
        command, env=surroundings, cwd=NODE_HOME, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    if reads:
        assert "temperature" in done.stdout
    elif sends:
        now = ends(own_hub)
        assert sum(map(operator.gt, now, before)) == 1, "the recipe's message must have arrived"
    elif uploads:
        assert "sent recipe-device/log.txt" in done.stdout
    elif commands:
        _, device = own_hub.request("GET", "/devices/recipe-device")
        assert device["cloudToDeviceMessageCount"] == 1
    elif "curl" in code:
        assert '"deviceId":"recipe-device"' in done.stdout
    else:
        assert "recipe-device enabled" in done.stdout
