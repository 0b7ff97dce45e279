"""The machine under the benchmark: cores, ports, its disk's fdatasync, and what to say of it in a report."""

from __future__ import annotations

import os
import platform
import resource
import socket
import ssl
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER_CORE = 0
LOAD_CORE = 1
SYNCS = 300
SYNC_BYTES = 4096
_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes started inside run on one core, with all their threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, by its CPU clock (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | 2)


def tree_cpu_seconds(pid: int) -> float:
    """The same of a process and all that descends from it, those included that have ended and were waited for."""
    total, waiting = 0.0, [pid]
    while waiting:
        one = waiting.pop()
        ended = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[13:15]
        total += cpu_seconds(one) + sum(map(int, ended)) / _TICKS
        for children in Path(f"/proc/{one}/task").glob("*/children"):
            waiting.extend(int(child) for child in children.read_text().split())
    return total


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def raise_file_limit(wanted: int) -> None:
    """Let this process and those it starts open `wanted` files.

    Raises:
        SystemExit: the hard limit is lower; the message says what to do.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SystemExit(f"the limit on open files is {hard} and {wanted} are needed; raise it: ulimit -Hn {wanted}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fdatasync_p50_ms(directory: Path) -> float:
    """Milliseconds that appending 4 KiB and fdatasync take in `directory`, the median of 300."""
    path = directory / "fdatasync.probe"
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    block = bytes(SYNC_BYTES)
    taken = []
    try:
        for _ in range(SYNCS):
            start = time.perf_counter()
            os.write(file, block)
            os.fdatasync(file)
            taken.append(time.perf_counter() - start)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(taken) * 1e3


def processor() -> str:
    """The processor's name as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def system() -> str:
    """The distribution's name."""
    return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())


def mosquitto_version() -> str:
    """The version of the Mosquitto that is installed."""
    shown = subprocess.run(["mosquitto", "-h"], capture_output=True, text=True, check=False).stdout
    return shown.splitlines()[0].removeprefix("mosquitto version").strip() if shown else "?"


def describe(directory: Path, **more: str) -> dict[str, str | int | float]:
    """What a reader of the figures has to know of the machine; `more` are versions of peers."""
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 0,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "system": system(),
        "python": platform.python_version(),
        "openssl_of_python": ssl.OPENSSL_VERSION,
        **(more or {"mosquitto": mosquitto_version()}),
        "fdatasync_p50_ms": round(fdatasync_p50_ms(directory), 3),
    }
