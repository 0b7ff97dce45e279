"""packaging/systemd: the unit is one that systemd takes, that shuts the process in, and that says the truth of it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from packaging_commands import PACKAGING, settings_from

from muster.node.node import DRAIN_SECONDS, GOODBYE_SECONDS
from muster.testing.hub import STOP_SECONDS, HubProcess
from tests.addresses import loopback

UNIT = PACKAGING / "systemd" / "muster.service"
MOST_EXPOSED = 20
"""Tenths: 0 is shut in, 100 is open; what systemd calls OK begins at 15."""
PORTS = [option for name in ("mqtt", "amqp", "https") for option in (f"--{name}-port", "0")]

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")


def said(name: str) -> list[str]:
    """The values of a directive."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)


@needs_systemd
def test_systemd_takes_it(tmp_path: Path) -> None:
    text = UNIT.read_text()
    assert text.count("/opt/muster/bin/muster") >= 1
    unit = tmp_path / "muster.service"
    unit.write_text(text.replace("/opt/muster/bin/muster", str(Path(sys.executable).with_name("muster"))))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("[Service]", "[Service]\nRestrictEverything=yes"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "RestrictEverything" in done.stderr, "it looks"


@needs_systemd
def test_the_process_is_shut_in() -> None:
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_the_program_takes_its_command_line(tmp_path: Path) -> None:
    """Its flags and those of the file that it names; the environment is the one that its head tells of."""
    program, *arguments = shlex.split(said("ExecStart")[0])
    assert Path(program).name == "muster"
    config = tmp_path / "muster.toml"
    config.write_text('hostname = ["hub.example.com"]\nbind = ["0.0.0.0"]\n')
    told = dict(re.findall(r"^#\s+(MUSTER_\w+)=(\S+)$", UNIT.read_text(), re.MULTILINE))
    assert set(told) == {"MUSTER_DATABASE", "MUSTER_BUS"}
    settings = settings_from([one.replace("/etc/muster/muster.toml", str(config)) for one in arguments], told)
    assert settings.hostnames == ("hub.example.com",)
    assert settings.data == Path("/var/lib") / said("StateDirectory")[0]
    assert settings.clustered


def test_it_waits_for_the_drain() -> None:
    assert int(said("TimeoutStopSec")[0]) > max(DRAIN_SECONDS + GOODBYE_SECONDS, STOP_SECONDS)
    assert said("KillSignal") == [], "SIGTERM"


def test_the_hub_tells_systemd_when_it_serves_and_outlives_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Type=notify`` is true, and ``ExecReload`` ends no hub that has no files to take anew."""
    assert (said("Type"), said("ExecReload")) == (["notify"], ["/bin/kill -HUP $MAINPID"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(STOP_SECONDS)
        hub = HubProcess(tmp_path, loopback(), *PORTS)
        with monkeypatch.context() as changed:
            changed.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
            hub.start()
        with contextlib.ExitStack() as undo:
            undo.callback(hub.kill)
            assert manager.recv(100) == b"READY=1"
            assert hub.request("GET", "/health/ready")[0] == 200
            hub.signal(signal.SIGHUP)
            assert hub.request("GET", "/health/ready")[0] == 200
            assert hub.stop() == 0
            assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="capabilities are root's to take away")
def test_the_hub_needs_no_other_capability_than_the_unit_leaves_it(tmp_path: Path) -> None:
    """On its own ports, 443 among them, with what ``CapabilityBoundingSet`` names; and it can do nothing else."""
    assert said("CapabilityBoundingSet") == said("AmbientCapabilities") == ["CAP_NET_BIND_SERVICE"]
    names = [name.removeprefix("CAP_").lower() for name in said("CapabilityBoundingSet")]
    left = "-all" + "".join(f",+{name}" for name in names)
    prefix = ["setpriv", f"--inh-caps={left}", f"--ambient-caps={left}", f"--bounding-set={left}", "--no-new-privs"]
    with HubProcess(tmp_path, loopback(), prefix=prefix) as hub:
        assert hub.port("https") == 443
        assert hub.request("GET", "/health/ready")[0] == 200
        status = Path(f"/proc/{hub.pid}/status").read_text()
        assert re.search(r"^CapEff:\s+0*400$", status, re.MULTILINE), status
        assert hub.stop() == 0
