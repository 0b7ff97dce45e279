"""Servers and hubs of tests end with the process that has started them, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import signal, sys
from pathlib import Path
from tests import engines
from tests.addresses import loopback
from tests.nats_servers import shared_nats
from tests.postgres import shared_server
engines.use(engines.EngineKind.CLUSTERED)
hub = engines.hub_process(Path(sys.argv[1]), loopback(), "--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
hub.start()
print(hub.pid, shared_server().pid, shared_nats().servers[0].pid, flush=True)
signal.pause()
"""
PATIENCE = 20.0


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_server_outlives_the_tests(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, tmp_path], stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        pids = [int(pid) for pid in tests.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(running, pids))
        os.kill(tests.pid, signal.SIGKILL)
    until = time.monotonic() + PATIENCE
    while any(map(running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(running, pids))
