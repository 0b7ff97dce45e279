"""File upload with npm azure-iot-device and @azure/storage-blob."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
SIZE = 5_000_000
"""More than the four MiB that the client puts in a block."""


def names_of(hub: HubProcess) -> dict[str, str]:
    return {**os.environ, **{name: str(value) for name, value in hub.facts.items() if name.isupper()}}


def test_a_node_device_uploads_files(https_443: HubProcess) -> None:
    hub = https_443
    connection = hub.device_connection_string("f-node", hub.add_device("f-node"))
    done = subprocess.run(
        ["node", "upload.js", str(SIZE)], cwd=NODE_HOME, env={**names_of(hub), "CONNECTION": connection},
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "hostName": hub.address, "blobName": "f-node/by hand/a+b.bin", "same": True, "contentType": "text/plain",
        "etag": True, "refusal": "Bad Request",
    }  # fmt: skip
    status, _ = hub.request("HEAD", "/muster-uploads/f-node/by%20itself")
    assert status == 200
