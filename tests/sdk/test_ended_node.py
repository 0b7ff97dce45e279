"""What Node.js's device client makes of the end of its session: it hears of it at once, on each transport."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
AT_ONCE = 30
"""Less than the 45 seconds after which the client gives up what does not end in the order that it wants."""


@pytest.mark.parametrize("transport", ["mqtt", "amqp"])
@pytest.mark.parametrize("why", ["disabled", "taken over"])
def test_a_device_hears_at_once_that_it_was_ended(hub: HubProcess, transport: str, why: str) -> None:
    name = f"ended-{transport}-{why[:5]}"
    connection = hub.device_connection_string(name, hub.add_device(name))
    names = {key: str(value) for key, value in hub.facts.items() if key.isupper()}

    def device() -> subprocess.Popen[str]:
        made = subprocess.Popen(
            ["node", "ended.js", transport], cwd=NODE_HOME, env={**os.environ, **names, "CONNECTION": connection},
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert made.stdout is not None
        assert made.stdout.readline() == "open\n"
        return made

    running = [device()]
    try:
        if why == "disabled":
            path = f"/devices/{name}?api-version=2021-04-12"
            _, identity = hub.request("GET", path)
            status, _ = hub.request("PUT", path, {**identity, "status": "disabled"}, **{"If-Match": "*"})
            assert status == 200
        else:
            running.append(device())
        assert running[0].communicate(timeout=AT_ONCE)[0] == "disconnect\n"
    finally:
        for one in running:
            one.kill()
