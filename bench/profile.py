"""Profile the hub under load: where the CPU time of a message, a connect or a talk back goes.

usage: python -m bench.profile [--load window1|window20|connects|method|property|message|amqp...] [--seconds 6]

Starts the hub on one core and the load on the other, as bench.run does, samples the hub and prints three tables: by
layer (kernel, OpenSSL, SQLite, interpreter, ...), by module of muster, and by function. Uses `perf` for the layers
(Debian: linux-perf; needs root or a low kernel.perf_event_paranoid) and `py-spy` for the Python side (PyPI).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import uvloop

from bench import amqp_loads, machine, measure
from bench.measure import FULL, Result, Scale
from bench.run import FILES_BESIDE_CONNECTIONS, build_programs
from bench.servers import BUILD, Accounts, Device, Muster
from bench.talking import AT_ONCE, Pairs

SAMPLES_A_SECOND = 250
LAYERS = (
    ("kernel", r"\[kernel|\[unknown\] ffffffff|vdso"),
    ("OpenSSL", r"libssl|libcrypto|_rust\.abi3|_openssl"),
    ("SQLite (apsw)", r"apsw"),
    ("event loop", r"uvloop|libuv"),
    ("cffi", r"_cffi_backend|libffi"),
    ("interpreter", r"python|libpython"),
    ("allocator and C library", r"libc\.so|libc-"),
)


def talk(server: Muster, scale: Scale, name: str) -> Result:
    """One of the exchanges of ``bench.talking``, from a loop of its own on the load's core."""

    async def run() -> Result:
        pairs = Pairs(server, server.accounts.devices[:AT_ONCE])
        await pairs.open()
        return await pairs.run(getattr(pairs, name), scale.seconds, scale.warm_up)

    os.sched_setaffinity(0, {machine.LOAD_CORE})
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def amqp_load(server: amqp_loads.Hub, scale: Scale, load: amqp_loads.Load) -> Result:
    """One of the closed loops of ``bench.amqp``; nobody reads."""
    return amqp_loads.publish(server, replace(amqp_loads.FULL, seconds=scale.seconds, warm_up=scale.warm_up), load)


LOADS: dict[str, Callable[[amqp_loads.Hub, Scale], Result]] = {
    "window1": partial(measure.window, size=1),
    "window20": partial(measure.window, size=20),
    "connects": measure.connects,
    "method": partial(talk, name="method"),
    "property": partial(talk, name="twin"),
    "message": partial(talk, name="message"),
    **{f"amqp-{name}": partial(amqp_load, load=load) for name, load in amqp_loads.PROFILED.items()},
}


def layer_of(shared_object: str) -> str:
    """The layer that a shared object belongs to."""
    return next((name for name, pattern in LAYERS if re.search(pattern, shared_object)), "other")


def sample_layers(pid: int, seconds: float, folder: Path) -> Counter[str]:
    """Samples of the hub by layer, from perf; empty where perf is missing or not allowed."""
    counts: Counter[str] = Counter()
    data = folder / "perf.data"
    record = ["perf", "record", "-q", "-F", "999", "-p", str(pid), "-o", str(data), "--", "sleep", str(seconds)]
    if shutil.which("perf") is None or subprocess.run(record, capture_output=True, check=False).returncode:
        return counts
    script = ["perf", "script", "-i", str(data), "-F", "ip,dso"]
    for line in subprocess.run(script, capture_output=True, text=True, check=False).stdout.splitlines():
        counts[layer_of(line)] += 1
    return counts


def sample_python(pid: int, seconds: float, folder: Path) -> list[tuple[list[str], int]]:
    """Stacks of the hub's Python threads and how often each was seen, from py-spy."""
    raw = folder / "stacks.txt"
    spy = shutil.which("py-spy")
    if spy is None:
        return []
    command = [spy, "record", "--nonblocking", "--function", "-r", str(SAMPLES_A_SECOND), "-d", str(int(seconds))]
    command += ["-f", "raw", "-o", str(raw), "-p", str(pid)]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if not raw.exists():
        raise SystemExit(f"py-spy could not sample: {outcome.stderr}")
    lines = (line.rsplit(" ", 1) for line in raw.read_text().splitlines())
    return [(stack.split(";"), int(count)) for stack, count in lines]


def module_of(stack: list[str]) -> str:
    """The innermost module of muster on a stack: what the time is spent for."""
    for entry in reversed(stack):
        found = re.search(r"\(.*?muster/([\w/]+)\.py", entry)
        if found:
            return found.group(1).replace("/", ".")
    return "outside muster"


def table(title: str, counts: Counter[str], top: int) -> str:
    """The largest entries as shares of the whole."""
    total = sum(counts.values()) or 1
    rows = [f"{100 * count / total:6.1f} %  {name}" for name, count in counts.most_common(top)]
    return "\n".join([f"\n{title} ({total} samples)", *rows])


def profile(load: str, seconds: float, top: int) -> str:
    """Run the load, sample the hub meanwhile, and return the tables."""
    scale = replace(FULL, seconds=2 * seconds + 2, warm_up=1.5, idle_connections=0)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        folder = Path(name)
        accounts = Accounts(folder, [Device(f"device-{number:05d}") for number in range(scale.devices)])
        accounts.write()
        server = amqp_loads.Hub(folder, accounts)
        server.start()
        try:
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(LOADS[load], server, scale)
                subprocess.run(["sleep", "3.5"], check=True)  # connecting and warming up
                layers = sample_layers(server.pid, seconds, folder)
                stacks = sample_python(server.pid, seconds, folder)
                result = running.result()
        finally:
            server.stop()
    modules: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for stack, count in stacks:
        modules[module_of(stack)] += count
        functions[stack[-1]] += count
    shown = re.compile("server_.*|.*per_s|us|busy")
    figures = {name: value for name, value in result.items() if shown.fullmatch(name)}
    tables = [("by layer, perf", layers), ("by module, py-spy", modules), ("by function, py-spy", functions)]
    return f"{load}: {figures}" + "".join(table(title, counts, top) for title, counts in tables if counts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.profile", description="Profile the hub under load.")
    parser.add_argument("--load", choices=list(LOADS), default="window1")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--top", type=int, default=25)
    chosen = parser.parse_args()
    machine.raise_file_limit(FULL.connections + FILES_BESIDE_CONNECTIONS)
    build_programs()
    print(profile(chosen.load, chosen.seconds, chosen.top))
    return 0


if __name__ == "__main__":
    sys.exit(main())
