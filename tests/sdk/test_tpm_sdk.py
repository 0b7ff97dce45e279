"""Devices with a TPM: a chip is challenged over HTTPS and AMQP, by tpm2-tools and by the client of Node.js, and then
signs for the hub that it was given."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure.iot.device import IoTHubDeviceClient, Message

from muster.testing.hub import HubProcess
from tests.provisioning_client import Provisioning
from tests.tpm import PORT, Simulator, Tpm, enroll, needs_tpm, provision, tpm

pytestmark = [pytest.mark.sdk, needs_tpm]

NODE_HOME = Path(__file__).resolve().parents[1] / "node"


@pytest.fixture
def dps(https_443: HubProcess) -> Provisioning:
    return Provisioning(https_443)


@pytest.fixture
def chip(tmp_path: Path) -> Iterator[Tpm]:
    with tpm(tmp_path) as made:
        yield made


def send(dps: Provisioning, chip: Tpm, device: str) -> None:
    """Send to the hub by the Azure SDK, with a token that the chip signed."""
    client = IoTHubDeviceClient.create_from_sastoken(
        chip.token(f"{dps.hub.address}/devices/{device}"),
        server_verification_cert=Path(dps.hub.facts["HUB_CA_FILE"]).read_text(),
    )
    client.connect()
    client.send_message(Message("signed by a chip"))
    client.shutdown()


def test_a_chip_is_challenged_over_https_and_signs_for_its_hub(dps: Provisioning, chip: Tpm) -> None:
    name = chip.registration_id
    enroll(dps, chip, name, deviceId=f"tpm-{os.getpid()}-https", initialTwin={"tags": {"a": 1}})
    state = provision(dps, chip, name)
    assert (state["assignedHub"], state["substatus"]) == (dps.hub.address, "initialAssignment")
    send(dps, chip, state["deviceId"])


def test_a_chip_that_was_cleared_gets_another_key_and_one_that_comes_again_the_same(
    dps: Provisioning, chip: Tpm
) -> None:
    name = f"tpm-{os.getpid()}-cleared"
    enroll(dps, chip, name)
    keys = []
    for again in range(3):
        provision(dps, chip, name)
        send(dps, chip, name)
        _, held = dps.hub.request("GET", f"/devices/{name}")
        keys.append(held["authentication"]["symmetricKey"]["primaryKey"])
        if again == 1:
            chip.clear_owner()
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("transport", ["http", "amqp", "amqpws"])
def test_the_client_of_node_with_its_tpm_package(dps: Provisioning, chip: Tpm, transport: str) -> None:
    name = f"tpm-{os.getpid()}-node-{transport}"
    enroll(dps, chip, name)
    simulator = Simulator(chip)
    try:
        given = {"registrationId": name, "tpm": {"host": simulator.address, "port": PORT}}
        done = subprocess.run(
            ["node", "provision_tpm.js", transport], cwd=NODE_HOME, input=json.dumps(given), capture_output=True,
            env={**os.environ, **{fact: str(value) for fact, value in dps.hub.facts.items() if fact.isupper()}},
            text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        simulator.close()
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert (state["status"], state["assignedHub"], state["deviceId"]) == ("assigned", dps.hub.address, name)
    _, found = dps.hub.request("GET", f"/devices/{name}")
    assert found["lastActivityTime"] > "0001-01-02"
