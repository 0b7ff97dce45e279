"""uamqp, the C library that the Azure CLI and older Python programs read events with, over TLS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from azure.iot.device import IoTHubDeviceClient

from muster.testing.hub import HubProcess

pytest.importorskip("uamqp", reason="uamqp has no build for this Python")
pytestmark = pytest.mark.sdk

HERE = Path(__file__).parent
COUNT = 20
DEVICE = "u1"  # in partition 1: before it comes an empty one, and the monitor waits for seconds at each of these


def run(hub: HubProcess, script: str, *arguments: str) -> str:
    """What a script prints; in a process of its own, for uamqp reads SSL_CERT_FILE when it is loaded."""
    names = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
    done = subprocess.run(
        [sys.executable, str(HERE / script), *arguments], env={**os.environ, **names}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_uamqp_reads(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub("--consumer-group", "second").start()
    connection = hub.device_connection_string(DEVICE, hub.add_device(DEVICE))
    device = IoTHubDeviceClient.create_from_connection_string(
        connection, server_verification_cert=Path(hub.facts["HUB_CA_FILE"]).read_text()
    )
    for number in range(COUNT):
        device.send_message(str(number))
    device.shutdown()
    sent = [str(number) for number in range(COUNT)]

    parts = dict(item.split("=", 1) for item in hub.facts["SERVICE_CONNECTION_STRING"].split(";"))
    token = hub.token("", parts["SharedAccessKey"], "service")
    with ThreadPoolExecutor() as together:  # both spend their time waiting
        consumer = together.submit(run, hub, "uamqp_consumer.py", str(COUNT))
        monitor = together.submit(run, hub, "uamqp_monitor.py", token, str(COUNT))
    assert json.loads(consumer.result()) == sent
    events = [json.loads(line) for line in monitor.result().splitlines()]
    assert [event["body"] for event in events] == sent
    assert {event["device"] for event in events} == {DEVICE}
