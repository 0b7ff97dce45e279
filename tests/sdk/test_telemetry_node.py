"""azure-iot-device sends on each of its transports, @azure/event-hubs reads: the main job with Node.js's clients."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
DEVICES, EACH = 10, 10


def node(hub: HubProcess, script: str, *arguments: str, given: str = "") -> str:
    """Run a script under tests/node; what it printed."""
    names = {name: str(value) for name, value in hub.facts.items() if name.isupper()}
    done = subprocess.run(
        ["node", script, *arguments], cwd=NODE_HOME, env={**os.environ, **names}, input=given, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def send(hub: HubProcess, transport: str, run: str) -> None:
    names = [f"{run}-{number}" for number in range(DEVICES)]
    devices = {name: hub.device_connection_string(name, hub.add_device(name)) for name in names}
    node(hub, "send.js", transport, str(EACH), run, given=json.dumps(devices))


def check(lines: str, run: str) -> None:
    """Every message once, in order per device, with its properties."""
    events = [json.loads(line) for line in lines.splitlines()]
    assert len(events) == DEVICES * EACH
    numbers: dict[str, list[int]] = defaultdict(list)
    for event in events:
        number = event["body"]["n"]
        numbers[event["device"]].append(number)
        assert event["properties"] == {"run": run, "n": str(number), "odd key &=": "odd value +/%é"}
        assert event["messageId"] == f"{run}-{number}"
        assert event["correlationId"] == f"c/{number}&="
        assert event["contentType"] == "application/json"
        assert event["source"] == "Telemetry"
        assert event["offset"] == str(event["sequence"])
    assert set(numbers) == {f"{run}-{number}" for number in range(DEVICES)}
    assert all(seen == list(range(EACH)) for seen in numbers.values())


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
def test_sent_on_a_port_of_its_own_and_read_over_amqp(hub: HubProcess, transport: str) -> None:
    send(hub, transport, f"node-{transport}")
    check(node(hub, "receive.js", "amqp", str(DEVICES * EACH), f"node-{transport}"), f"node-{transport}")


@pytest.mark.parametrize("transport", ["mqtt-ws", "amqp-ws"])
def test_sent_and_read_over_websocket(https_443: HubProcess, transport: str) -> None:
    run = f"node-{transport}"
    send(https_443, transport, run)
    check(node(https_443, "receive.js", "amqp-ws", str(DEVICES * EACH), run), run)
