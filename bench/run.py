"""Run the benchmark: the hub, Mosquitto and the least C server, interleaved round by round.

usage: python -m bench.run [--quick] [--again] [--only SERVER ...]     (`make bench`)

All servers are up on one core; each measurement visits them in turn, so that a drifting machine meets all alike. A run
that was stopped goes on where it was as long as the sources are the same. The full run takes about ten minutes and
writes docs/results/DATE.{json,md}; --quick takes one and writes below bench/build.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench import machine, measure, report
from bench.journal import ROOT, Journal, source_digest
from bench.measure import FULL, QUICK, LoadError, Result, Scale
from bench.servers import BUILD, Accounts, Device, Minimal, Mosquitto, Muster, Server

KINDS: tuple[type[Server], ...] = (Muster, Mosquitto, Minimal)
SAME_RATE = 10_000
SETTLE_SECONDS = 1.0
FILES_BESIDE_CONNECTIONS = 2000


def say(text: str) -> None:
    print(text, flush=True)


def build_programs() -> None:
    """Compile the C programs where they are older than their sources."""
    subprocess.run(["make", "--silent", "-C", str(BUILD.parent)], check=True)


@contextmanager
def running(servers: list[Server]) -> Iterator[None]:
    """All servers up inside, and ended after."""
    try:
        for server in servers:
            server.start()
        time.sleep(SETTLE_SECONDS)
        yield
    finally:
        for server in servers:
            server.stop()


class Bench:
    """One run of the benchmark over its servers."""

    def __init__(self, directory: Path, scale: Scale, kinds: list[type[Server]]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.scale = scale
        self.journal = Journal(directory / "journal.jsonl")
        accounts = Accounts(directory, [Device(f"device-{number:05d}") for number in range(scale.devices)])
        accounts.write()
        self.servers = [kind(directory, accounts) for kind in kinds]

    def take(self, measurement: str, server: Server, round_number: int, call: Callable[[], Result]) -> None:
        """Measure once, and say what came out."""
        if self.journal.holds(measurement, server.name, round_number):
            return
        result = self.journal.once(measurement, server.name, round_number, call)
        figure = next(f for f in report.COSTS + report.OTHERS if f.measurement == measurement)
        value = f"{result[figure.name]:.{figure.digits}f}"
        say(f"round {round_number}  {measurement:16} {server.name:10} {figure.title}: {value}")

    def idle_memory(self) -> None:
        """Each server alone and fresh: memory freed by earlier load would hide what connections take."""
        for server in self.servers:
            if self.journal.holds("idle", server.name, 1):
                continue
            with running([server]):
                self.take("idle", server, 1, partial(measure.idle, server, self.scale))

    def rounds(self) -> None:
        """Messages and connects, all servers up."""
        for number in range(1, self.scale.rounds + 1):
            for size in (1, 20):
                for server in self.servers:
                    self.take(f"window {size}", server, number, partial(measure.window, server, self.scale, size))
            for server in self.servers:
                self.take("connects", server, number, partial(measure.connects, server, self.scale))

    def latencies(self) -> None:
        """At half of what each server reached with window 1, and at the same rate for all."""
        for number in range(1, self.scale.latency_rounds + 1):
            for server in self.servers:
                half = measure.median_of(self.journal.of("window 1", server.name), "acks_per_s") / 2
                for name, rate in (("half", half), (str(SAME_RATE), SAME_RATE)):
                    call = partial(measure.latency, server, self.scale, rate)
                    self.take(f"latency, {name}", server, number, call)

    def run(self) -> None:
        """Everything that is not in the journal yet."""
        self.idle_memory()
        with running(self.servers):
            self.rounds()
            self.latencies()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.run", description="Measure the hub beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a minute's look; figures are not for quoting")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run that was stopped measured")
    names = [kind.name for kind in KINDS]
    parser.add_argument("--only", action="append", choices=names, help="only this server; repeatable")
    return parser.parse_args()


def write_report(bench: Bench, directory: Path, *, quick: bool) -> None:
    """Print the report and write it as JSON and Markdown."""
    command = shlex.join(["python", "-m", "bench.run", *sys.argv[1:]])
    scale = {
        "rounds": bench.scale.rounds,
        "connections": bench.scale.connections,
        "payload_bytes": bench.scale.payload,
        "idle_connections": bench.scale.idle_connections,
    }
    made = report.make_report(bench.journal, scale, machine.describe(directory), command)
    text = report.to_markdown(made)
    where = BUILD if quick else ROOT / "docs" / "results"
    where.mkdir(parents=True, exist_ok=True)
    stem = "quick" if quick else datetime.now(UTC).strftime("%Y-%m-%d")
    (where / f"{stem}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    (where / f"{stem}.md").write_text(text)
    say(f"\n{text}\nwritten to {where / stem}.md and .json")


def main() -> int:
    chosen = arguments()
    if (os.cpu_count() or 1) <= machine.LOAD_CORE:
        raise SystemExit("the benchmark needs two cores: one for the server, one for the load")
    scale = QUICK if chosen.quick else FULL
    machine.raise_file_limit(scale.devices + FILES_BESIDE_CONNECTIONS)
    build_programs()
    directory = BUILD / f"{'quick' if chosen.quick else 'full'}-{source_digest()}"
    for other in [*BUILD.glob("full-*"), *BUILD.glob("quick-*")]:
        if other != directory or chosen.again or chosen.quick:
            shutil.rmtree(other)
    kinds = [kind for kind in KINDS if not chosen.only or kind.name in chosen.only]
    bench = Bench(directory, scale, kinds)
    try:
        bench.run()
    except (LoadError, RuntimeError) as failed:
        say(f"stopped: {failed}\nwhat was measured is kept; the same command goes on from there")
        return 1
    write_report(bench, directory, quick=chosen.quick)
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
