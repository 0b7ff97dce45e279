"""Measure what storing telemetry costs, node and store together: in SQLite, on one NATS server, on three.

usage: python -m bench.jetstream [--seconds 2] [--rounds 3] [--directory DIR]

Messages of 300 bytes go through the hub's own telemetry service, in this process and without devices, whose share is
the same everywhere. As many are under way as said; all partitions get some. Every store syncs what it acknowledges. CPU
is that of this process and of all NATS servers, a message; *followed*: every partition has a receiver here. Stores take
turns, a figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop

from muster.core.ambient import SystemAmbient
from muster.messages.contract import TelemetryLog
from muster.messages.telemetry import Telemetry
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.streams import Place
from muster.stores.nats.telemetry import JetStreamLog
from muster.stores.sqlite.telemetry import SqliteTelemetryLog

PARTITIONS = 4
RECORD = bytes(300)
UNDER_WAY = (1, 20, 200, 2000)
TICK = os.sysconf("SC_CLK_TCK")
ADDRESSES = ("127.77.7.1", "127.77.7.2", "127.77.7.3")


class Cost(NamedTuple):
    """Microseconds of CPU a message, by whom; ``rate`` in messages/s."""

    node: float
    servers: float
    rate: float


@contextmanager
def servers(directory: Path, count: int) -> Iterator[list[int]]:
    """The process ids of so many NATS servers."""
    binary = shutil.which("nats-server")
    if binary is None:
        raise SystemExit("there is no nats-server; install the dependency group 'test'")
    routes = ", ".join(f"nats-route://{address}:6222" for address in ADDRESSES[:count])
    running = []
    for address in ADDRESSES[:count]:
        config = f'server_name: "{address}"\nlisten: "{address}:4222"\n'
        config += f'jetstream {{ store_dir: "{directory / address}", sync_interval: always }}\n'
        if count > 1:
            config += f'cluster {{ name: bench, listen: "{address}:6222", routes: [{routes}] }}\n'
        file = directory / f"{address}-{count}.conf"
        file.write_text(config)
        running.append(subprocess.Popen([binary, "-c", str(file)], stderr=subprocess.DEVNULL))
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.terminate()
            process.wait()


def cpu_of(pids: list[int]) -> float:
    """Seconds of CPU that these processes have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


async def measure(telemetry: Telemetry, pids: list[int], under_way: int, seconds: float) -> Cost:
    """Send for a while, ``under_way`` messages at a time."""
    loop = asyncio.get_running_loop()
    stored = 0

    async def send(share: int) -> None:
        nonlocal stored
        while loop.time() < end:
            await telemetry.store([(number % PARTITIONS, RECORD) for number in range(share)])
            stored += share

    started, end = time.perf_counter(), loop.time() + seconds
    node, others = time.process_time(), cpu_of(pids)
    await send(under_way)
    node, others = time.process_time() - node, cpu_of(pids) - others
    return Cost(node / stored * 1e6, others / stored * 1e6, stored / (time.perf_counter() - started))


async def open_jetstream(urls: list[str]) -> tuple[NatsConnection, JetStreamLog]:
    """A log with streams of its own."""
    connection = await NatsConnection.open(urls)
    place = Place("bench", SystemAmbient.uuid().hex)
    return connection, await JetStreamLog.open(connection, place, PARTITIONS, created_at=0.0)


@asynccontextmanager
async def service(directory: Path, pids: list[int]) -> AsyncIterator[Telemetry]:
    """The telemetry service on SQLite, or on as many NATS servers as there are."""
    loop, connection = asyncio.get_running_loop(), None
    log: TelemetryLog
    if pids:
        connection, log = await open_jetstream([f"nats://{address}:4222" for address in ADDRESSES[: len(pids)]])
    else:
        file = Path(tempfile.mkdtemp(dir=directory)) / "telemetry.db"
        log = SqliteTelemetryLog(file, PARTITIONS, loop, created_at=0.0)
    telemetry = Telemetry(log, SystemAmbient(loop), retention_seconds=1e6, retention_bytes=1 << 40)
    try:
        yield telemetry
    finally:
        await telemetry.close()
        if connection is not None:
            await connection.close()


def reading(telemetry: Telemetry) -> list[Callable[[], None]]:
    """A receiver of every partition that keeps up."""
    at = [telemetry.state(partition).next for partition in range(PARTITIONS)]

    def take(partition: int) -> None:
        while slices := telemetry.tail(partition, at[partition]):
            at[partition] = slices[-1].base + len(slices[-1].records)

    return [telemetry.subscribe(partition, partial(take, partition)) for partition in range(PARTITIONS)]


async def run(directory: Path, rounds: int, seconds: float) -> None:
    """All of it, and the table."""
    costs: dict[tuple[str, int], list[Cost]] = {}
    for _ in range(rounds):
        for count in (0, 1, 3):
            home = Path(tempfile.mkdtemp(dir=directory))
            with servers(home, count) as pids:
                async with service(home, pids) as telemetry:
                    name = {0: "SQLite", 1: "one server", 3: "three servers"}[count]
                    await measure(telemetry, pids, 20, seconds / 4)
                    for under_way in UNDER_WAY:
                        costs.setdefault((name, under_way), []).append(
                            await measure(telemetry, pids, under_way, seconds)
                        )
                    ends = reading(telemetry)
                    await asyncio.sleep(0.5)
                    for under_way in UNDER_WAY if count else ():
                        cost = await measure(telemetry, pids, under_way, seconds)
                        costs.setdefault((f"{name}, followed", under_way), []).append(cost)
                    for end in ends:
                        end()
            shutil.rmtree(home)
    print("| store | under way | node, µs | servers, µs | together, µs | messages/s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (name, under_way), found in costs.items():
        cost = Cost(*map(statistics.median, zip(*found, strict=True)))
        together = statistics.median(each.node + each.servers for each in found)
        print(f"| {name} | {under_way} | {cost.node:.1f} | {cost.servers:.1f} | {together:.1f} | {cost.rate:,.0f} |")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path.cwd() / "build", help="on the disk that is meant")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    uvloop.run(run(options.directory, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
