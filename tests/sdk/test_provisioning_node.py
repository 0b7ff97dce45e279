"""The provisioning clients of Node.js: devices register over every transport and send to the hub that they were given;
a service enrolls them."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muster.provisioning.attestation.symmetric_key import derive
from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker
from tests.provisioning_client import Provisioning
from tests.tpm import ENDORSEMENT_KEY

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"


def node(hub: HubProcess, script: str, argument: str, given: Any) -> str:
    """What a script under tests/node printed."""
    names = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
    done = subprocess.run(
        ["node", script, argument], cwd=NODE_HOME, env={**os.environ, **names}, input=json.dumps(given),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def dps(https_443: HubProcess) -> Provisioning:
    return Provisioning(https_443)


def connected(hub: HubProcess, device: str) -> bool:
    """Whether the device has ever been connected."""
    _, found = hub.request("GET", f"/devices/{device}")
    return str(found["lastActivityTime"]) > "0001-01-02"


TRANSPORTS = ["http", "mqtt", "mqttws", "amqp", "amqpws"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_device_with_a_key_of_its_own(dps: Provisioning, transport: str) -> None:
    name = f"node-{os.getpid()}-own-{transport}"
    key = dps.enroll(name)["attestation"]["symmetricKey"]["secondaryKey"]
    state = json.loads(
        node(dps.hub, "provision.js", transport, {"registrationId": name, "key": key, "payload": {"a": 1}})
    )
    assert (state["status"], state["assignedHub"], state["deviceId"]) == ("assigned", dps.hub.address, name)
    assert connected(dps.hub, name)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_device_of_a_group_with_a_derived_key(dps: Provisioning, transport: str) -> None:
    name = f"node-{os.getpid()}-derived-{transport}"
    group = dps.group(f"node-{os.getpid()}-keys")
    key = derive(group["attestation"]["symmetricKey"]["primaryKey"], name)
    state = json.loads(node(dps.hub, "provision.js", transport, {"registrationId": name, "key": key}))
    assert state["symmetricKey"] == {"enrollmentGroupId": group["enrollmentGroupId"]}
    assert connected(dps.hub, name)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("grouped", [False, True])
def test_a_device_with_a_certificate(dps: Provisioning, transport: str, grouped: bool) -> None:
    make, name = Maker(time.time()), f"node-{os.getpid()}-x509-{transport}-{grouped}".lower()
    root = make.root(f"Root of {name}")
    leaf = make.issue(name, root if grouped else None)
    role, held = ("signingCertificates", root) if grouped else ("clientCertificates", leaf)
    attestation = {"type": "x509", "x509": {role: {"primary": {"certificate": held.pem.decode()}}}}
    (dps.group if grouped else dps.enroll)(name, attestation)
    given = {"registrationId": name, "cert": leaf.pem.decode(), "pem": leaf.key_pem.decode()}
    state = json.loads(node(dps.hub, "provision.js", transport, given))
    assert (state["status"], state["deviceId"]) == ("assigned", name)
    assert connected(dps.hub, name)


def test_the_service_client_drives_every_operation(dps: Provisioning) -> None:
    prefix = f"node-{os.getpid()}-service"
    group, name = dps.group(f"{prefix}-registered"), f"{prefix}-device"
    dps.provision(name, dps.derived_token(name, group))
    certificate = Maker(time.time()).root("Root of a group").pem.decode()
    key = base64.b64encode(ENDORSEMENT_KEY).decode()
    given = {"certificate": certificate, "registered": [group["enrollmentGroupId"], name], "endorsementKey": key}
    assert node(dps.hub, "provisioning_service.js", prefix, given) == "done\n"


def test_the_five_commands_of_the_page_as_they_stand_there(make_hub: Callable[..., HubProcess]) -> None:
    page = (NODE_HOME.parents[1] / "docs" / "provisioning.md").read_text()
    commands = re.findall(r"^    (.*?)\s+# \d", page, re.MULTILINE)
    assert len(commands) == 5
    with make_hub() as hub:
        if hub.port("https") != 443:
            pytest.skip("port 443 may not be bound here")
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MUSTER_DATA": str(hub.directory / "data"),
        }
        (script,) = re.findall(r"^```js\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        assert (commands[0], commands[4]) == ("muster serve", "node register.js")
        done = subprocess.run(
            ["sh", "-ec", "\n".join([*commands[1:4], 'node -e "$SCRIPT"'])], cwd=NODE_HOME,
            env={**environment, "SCRIPT": script}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert connected(hub, "my-device")
