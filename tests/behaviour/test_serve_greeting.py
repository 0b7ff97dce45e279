"""What `muster serve` says when it is ready: the next steps work as printed, and public keys are no secret."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess
from tests.engines import hub_process

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
PUBLIC = "Whoever reaches this hub owns it"


def steps(hub: HubProcess) -> list[list[str]]:
    """The commands that were printed, split as a shell does."""
    text = hub.log_file.read_text()
    lines = text.partition("Next, in another terminal:\n")[2].partition("\nready: ")[0].splitlines()
    return [shlex.split(line.strip().split("  ")[0]) for line in lines]


@pytest.mark.parametrize("ephemeral", [False, True])
def test_1_the_next_steps_work_as_they_are_printed(make_hub: Callable[..., HubProcess], ephemeral: bool) -> None:
    hub = make_hub(*ANY_PORTS, ephemeral=ephemeral).start()
    commands = {step[1]: step[1:] for step in steps(hub) if step[0] == "muster"}
    assert list(commands) == ["env", "device", "monitor"]
    for name, said in (("env", hub.facts["HUB_CONNECTION_STRING"]), ("device", "DeviceId=my-device;")):
        done = subprocess.run(
            [sys.executable, "-m", "muster", *commands[name]],
            capture_output=True, text=True, timeout=30, check=True, cwd=hub.directory,
        )  # fmt: skip
        assert said in done.stdout
    assert PUBLIC not in hub.log_file.read_text()


@pytest.mark.parametrize("activated", [False, True])
def test_2_a_shell_that_does_not_know_muster_is_told_how_to(
    make_hub: Callable[..., HubProcess], monkeypatch: pytest.MonkeyPatch, activated: bool
) -> None:
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    if activated:
        monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    told = steps(make_hub(*ANY_PORTS).start())[0]
    script = os.path.join(sys.prefix, "bin", "activate")
    wanted = not activated and os.path.exists(script)
    assert (told == [".", script]) is wanted


def test_3_public_keys_beyond_loopback_are_warned_of(tmp_path: Path) -> None:
    with hub_process(tmp_path, "0.0.0.0", *ANY_PORTS, ephemeral=True) as hub:
        assert PUBLIC in hub.log_file.read_text()
