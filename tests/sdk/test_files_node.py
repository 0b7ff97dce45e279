"""File upload with npm azure-iot-device and @azure/storage-blob."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from muster.testing.hub import HubProcess

pytestmark = [pytest.mark.sdk, pytest.mark.embedded("several nodes have no endpoint for files of their own")]

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
SIZE = 5_000_000
"""More than the four MiB that the client puts in a block."""


def names_of(hub: HubProcess) -> dict[str, str]:
    return {**os.environ, **{name: str(value) for name, value in hub.facts.items() if name.isupper()}}


def run(hub: HubProcess, script: str, argument: int, **names: str) -> str:
    """What a script printed, which must end well."""
    done = subprocess.run(
        ["node", script, str(argument)], cwd=NODE_HOME, env={**names_of(hub), **names}, check=False,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_a_node_device_uploads_files(https_443: HubProcess, transport: str) -> None:
    hub, name = https_443, f"f-node-{transport}"
    connection = hub.device_connection_string(name, hub.add_device(name))
    told = run(hub, "upload.js", SIZE, CONNECTION=connection, TRANSPORT=transport)
    assert json.loads(told) == {
        "hostName": hub.address, "blobName": f"{name}/by hand/a+b.bin", "same": True, "contentType": "text/plain",
        "etag": True, "refusal": "Bad Request",
    }  # fmt: skip
    status, _ = hub.request("HEAD", f"/muster-uploads/{name}/by%20itself")
    assert status == 200


def test_a_node_service_is_told_of_files(https_443: HubProcess, make_hub: Callable[..., HubProcess]) -> None:
    """Also of those that came before a hub was killed."""
    hub = make_hub().start()
    connection = hub.device_connection_string("f-told", hub.add_device("f-told"))
    before = time.time()
    run(hub, "upload.js", SIZE, CONNECTION=connection)
    hub.kill()
    hub.start()
    notices = [json.loads(line) for line in run(hub, "filenotifications.js", 2).splitlines()]
    assert sum(notice.pop("again") for notice in notices) == 1, "what is given back comes again"
    for notice in notices:
        for name in ("lastUpdatedTime", "enqueuedTimeUtc"):
            moment = datetime.fromisoformat(notice.pop(name)).timestamp()
            assert before - 1 <= moment <= time.time()
    base = f"https://{hub.address}/muster-uploads/f-told"
    expected = [
        {
            "deviceId": "f-told", "blobName": f"f-told/{name}", "blobUri": f"{base}/{quote(name)}",
            "blobSizeInBytes": SIZE, "contentType": "application/vnd.microsoft.iothub.filenotification.json",
        }
        for name in ("by hand/a+b.bin", "by itself")
    ]  # fmt: skip
    assert sorted(notices, key=lambda notice: str(notice["blobName"])) == expected
