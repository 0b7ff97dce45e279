"""What a deployment for many connected devices takes, computed from what was measured: writes docs/capacity.md.

usage: python -m bench.capacity [--devices 1000000] [--print]

Takes the newest results of `bench.fleet`, `bench.cluster`, `bench.certificates` and `bench.identities` in docs/results.
Run it again after any of these. Everything that is not measured is one of ``Assumed``, and stands on the page.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.journal import ROOT
from bench.measure import median_of

RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "capacity.md"
KINDS = ("fleet", "cluster-cpu", "certificates", "identities-postgres", "identities")
"""The ends of the names of the results; of identities the first that there is."""
LONE, MANY, BATCHED = (
    "one connection, 1 in flight",
    "many connections, 1 in flight each",
    "many connections, 20 in flight each",
)


class Assumed(NamedTuple):
    """What the page assumes. Seconds, messages, cores, bytes."""

    devices: int = 1_000_000
    seconds_between_messages: float = 60.0
    partitions: int = 16
    reconnects_an_hour: float = 1.0
    storm_minutes: float = 10.0
    busy: float = 0.6
    cores_a_node: int = 8
    connections_a_process: int = 25_000
    nats_cores: int = 8
    syncs_a_second: float = 10_000.0
    syncs_a_stream_message: float = 2.0
    kernel_kib: float = 8.0
    process_mib: float = 120.0
    retention_days: float = 1.0


class Measured(NamedTuple):
    """Costs in microseconds of CPU, memory in KiB, sizes in bytes; of a deployment with three NATS servers."""

    connect: Mapping[str, float]
    herd: Mapping[str, float]
    idle_minute: Mapping[str, float]
    kib: float
    transactions: float
    wal_bytes: float
    hub_message: float
    hub_stream_message: float
    nats_message: float
    nats_stream_message: float
    commit_seconds: float
    stored_bytes: float
    certificate: float
    certificate_again: float
    identity_bytes: float


class Sized(NamedTuple):
    """What comes out."""

    messages: float
    hub_cores: float
    storm_cores: float
    nodes: int
    processes: int
    memory_gib: float
    postgres_cores: float
    postgres_storm_cores: float
    postgres_connections: int
    transactions: float
    wal_mib: float
    database_gib: float
    nats_cores: float
    stream_messages: float
    gathered: float
    commit_ms: float
    telemetry_gib: float


def newest(directory: Path = RESULTS) -> dict[str, Path]:
    """The newest result of each kind."""
    found = {kind: sorted(directory.glob(f"????-??-??-{kind}.json")) for kind in KINDS}
    newest = {kind: paths[-1] for kind, paths in found.items() if paths}
    if "identities-postgres" in newest:
        newest.pop("identities", None)
    return newest


def measured(files: Mapping[str, Path]) -> Measured:
    """The figures that count, out of the results."""
    read = {kind: json.loads(path.read_text()) for kind, path in files.items()}
    fleet, loads = read["fleet"], read["cluster-cpu"]["settings"]["three"]["loads"]
    lone, many, batched = (loads[name]["Muster"]["parts"] for name in (LONE, MANY, BATCHED))
    # To be careful: a message costs a node what one of many with 1 in flight does, and alone what it has more then.
    storms = {
        name: median_of(rounds["Muster"], "server_ms_per_connect") for name, rounds in read["certificates"].items()
    }
    identities = read.get("identities-postgres") or read["identities"]
    return Measured(
        connect=_us(fleet["cpu_ms"]["connect"]), herd=_us(fleet["cpu_ms"]["connect in a herd"]),
        idle_minute=_us(fleet["cpu_ms"]["minute of an idle connection"]), kib=fleet["kib_per_connection"],
        transactions=fleet["written_a_connect"]["transactions"], wal_bytes=fleet["written_a_connect"]["wal_bytes"],
        hub_message=many["hub"], hub_stream_message=lone["hub"] - many["hub"],
        nats_message=batched["NATS"], nats_stream_message=lone["NATS"] - batched["NATS"],
        commit_seconds=loads[LONE]["Muster"]["p50_ms"][0] / 1e3, stored_bytes=loads[MANY]["Muster"]["stored_bytes"][0],
        certificate=(storms["certificate, first time"] - storms["token"]) * 1e3,
        certificate_again=(storms["certificate, again"] - storms["token"]) * 1e3,
        identity_bytes=identities["figures"][-1]["bytes"],
    )  # fmt: skip


def sized(cost: Measured, so: Assumed) -> Sized:
    """The deployment that does it: equal processes, one for each core, three NATS servers, one PostgreSQL."""
    messages = so.devices / so.seconds_between_messages
    connects = so.devices * so.reconnects_an_hour / 3600
    storm = so.devices / (so.storm_minutes * 60)
    idle = {part: us * so.devices / 60 for part, us in cost.idle_minute.items()}

    # NATS takes as many messages of streams as its cores and disks allow; what waits meanwhile shares the next one.
    room = min(
        3 * so.nats_cores * so.busy * 1e6 / cost.nats_stream_message,
        so.syncs_a_second * so.busy / so.syncs_a_stream_message,
    )
    stream_messages = min(messages, room)
    gathered = messages / stream_messages

    steady = messages * cost.hub_message + stream_messages * cost.hub_stream_message
    steady = (steady + connects * cost.connect["nodes"] + idle["nodes"]) / 1e6
    rush = steady + storm * cost.herd["nodes"] / 1e6
    least = max(steady / so.busy, rush, so.devices / so.connections_a_process)
    processes = so.cores_a_node * math.ceil(least / so.cores_a_node)
    nodes = processes // so.cores_a_node + 1  # one may be away
    processes = nodes * so.cores_a_node
    under_way = processes * so.partitions if messages > room else 0  # a message of each stream by each process
    commit = max(cost.commit_seconds, under_way / room)
    memory = so.devices * (cost.kib + so.kernel_kib) / 2**20 + processes * so.process_mib / 2**10
    nats = (messages * cost.nats_message + stream_messages * cost.nats_stream_message + idle["NATS"]) / 1e6
    return Sized(
        messages=messages, hub_cores=steady, storm_cores=rush, nodes=nodes, processes=processes, memory_gib=memory,
        postgres_cores=(connects * cost.connect["PostgreSQL"] + idle["PostgreSQL"]) / 1e6,
        postgres_storm_cores=storm * cost.herd["PostgreSQL"] / 1e6, postgres_connections=processes * 9,
        transactions=storm * cost.transactions, wal_mib=storm * cost.wal_bytes / 2**20,
        database_gib=so.devices * cost.identity_bytes / 2**30, nats_cores=nats, stream_messages=stream_messages,
        gathered=gathered, commit_ms=commit * 1e3,
        telemetry_gib=messages * 86_400 * so.retention_days * cost.stored_bytes / 2**30,
    )  # fmt: skip


def page(files: Mapping[str, Path], devices: int = Assumed().devices) -> str:
    """docs/capacity.md."""
    cost = measured(files)
    scenarios = {
        "a message a minute": Assumed(devices=devices),
        "a message each 10 s": Assumed(devices=devices, seconds_between_messages=10),
        "a message an hour": Assumed(devices=devices, seconds_between_messages=3600),
    }
    so = scenarios["a message a minute"]
    results = [sized(cost, assumed) for assumed in scenarios.values()]
    sources = ",\n".join(f"[{path.stem}](results/{path.with_suffix('.md').name})" for path in files.values())
    table = [f"| {name} | " + " | ".join(cells) + " |" for name, *cells in _sizes(results, so)]
    return TEXT.format(
        devices=devices, so=so, cost=cost, sources=sources, costs="\n".join(_costs(cost)), table="\n".join(table),
        columns=" | ".join(scenarios), rule=" --- |" * len(results),
    )  # fmt: skip


def _costs(cost: Measured) -> Iterator[str]:
    """The rows of the table of what things cost."""
    connect, herd, idle = (sum(part.values()) / 1e3 for part in (cost.connect, cost.herd, cost.idle_minute))
    node, postgres = cost.connect["nodes"] / 1e3, cost.connect["PostgreSQL"] / 1e3
    stream_message = cost.hub_stream_message + cost.nats_stream_message
    bare = cost.hub_message + cost.nats_message
    parts = f"node {cost.hub_stream_message:.0f}, NATS {cost.nats_stream_message:.0f}"
    again = cost.certificate_again / 1e3
    rows = (
        ("a connect, MQTT over TLS, SAS", f"{connect:.2f} ms of CPU: node {node:.2f}, PostgreSQL {postgres:.2f}"),
        ("... in a herd, thousands at once whose node died", f"{herd:.2f} ms"),
        ("... with a certificate, in addition", f"{cost.certificate / 1e3:.2f} ms, {again:.2f} where it is known"),
        ("PostgreSQL for it", f"{cost.transactions:.2f} transactions, {cost.wal_bytes:,.0f} bytes of write-ahead log"),
        ("an idle connection", f"{cost.kib:.1f} KiB of the node"),
        ("a minute of it, with a PINGREQ", f"{idle:.2f} ms of CPU"),
        ("a message alone in a commit, three replicas", f"{bare + stream_message:,.0f} µs of CPU"),
        ("... of that for the message of a stream that it becomes", parts),
        ("a message that shares one with a dozen", f"{bare + stream_message / 12.5:.0f} µs"),
        ("256 bytes stored", f"{cost.stored_bytes:.0f} bytes on each NATS server"),
        ("an identity with its twin", f"{cost.identity_bytes:.0f} bytes of the database"),
    )
    return (f"| {name} | {value} |" for name, value in rows)


def _sizes(results: Sequence[Sized], so: Assumed) -> Iterator[tuple[str, ...]]:
    """The rows of the table of what is needed, a cell for each of ``results``."""
    rows: tuple[tuple[str, str], ...] = (
        ("messages/s", "{0.messages:,.0f}"),
        ("cores of nodes that this keeps busy", "{0.hub_cores:.1f}"),
        (f"... while all come back within {so.storm_minutes:.0f} minutes", "{0.storm_cores:.1f}"),
        (f"nodes of {so.cores_a_node} cores, one of which may be away", "{0.nodes}"),
        ("memory of all nodes together, GiB", "{0.memory_gib:.0f}"),
        ("cores of PostgreSQL; while all come back", "{0.postgres_cores:.1f}; {0.postgres_storm_cores:.1f}"),
        ("its connections", "{0.postgres_connections}"),
        ("its transactions/s while all come back", "{0.transactions:,.0f}"),
        ("MiB/s of its write-ahead log meanwhile", "{0.wal_mib:.1f}"),
        ("its size, GiB", "{0.database_gib:.1f}"),
        ("cores of three NATS servers together", "{0.nats_cores:.1f}"),
        ("messages of streams/s; device messages in each", "{0.stream_messages:,.0f}; {0.gathered:.1f}"),
        ("a commit then takes at least, ms", "{0.commit_ms:.0f}"),
        (f"telemetry of {so.retention_days * 24:.0f} hours on each NATS server, GiB", "{0.telemetry_gib:,.0f}"),
    )
    return ((name, *(cell.format(one) for one in results)) for name, cell in rows)


def _us(milliseconds: Mapping[str, float]) -> dict[str, float]:
    return {part: max(0.0, value) * 1e3 for part, value in milliseconds.items()}


TEXT = """# Capacity: {devices:,} connected devices

Written by `python -m bench.capacity` from
{sources}.
Everything was measured on a machine of two cores that the devices shared, so the costs are CPU and not rates, and the
rest is arithmetic: nobody has run this fleet.

## What things cost

| | |
| --- | --- |
{costs}

Telemetry costs PostgreSQL nothing. A message costs NATS little, and a message of a stream much: three servers sync it.
A commit of a node makes one for each partition that it touches. So the cost of a message falls with the load: while
NATS is busy messages wait, and share the next one. What grows instead is the time to the PUBACK, with the number of
processes and of partitions: have no more partitions than readers need.

## What they take

| | {columns} |
| --- |{rule}
{table}

One process for each core (`--workers`). Memory is that of connections and processes; the page caches of PostgreSQL and
NATS come on top. PostgreSQL needs the identities in its memory for connects to cost what they do here.

## Assumed

- Every device is connected and sends 256 bytes at QoS 1 as often as the column says. {so.partitions} partitions, three
  replicas. Nobody reads: a receiver costs about as much again for each message (docs/performance.md).
- Connects of each an hour: {so.reconnects_an_hour:g}, as azure-iot-device renews its token by that. Each sends a
  PINGREQ a minute, as only that SDK does by default: others take three minutes and more.
- A process has {so.connections_a_process:,} connections at most; 18,000 were measured.
- Cores are {so.busy:.0%} busy at most, and all of them while all devices come back at the same time. They are cores
  such as those of the machine that was measured.
- NATS: three servers of {so.nats_cores} cores, whose disks do {so.syncs_a_second:,.0f} syncs a second; a message of a
  stream takes {so.syncs_a_stream_message:.0f} of them (the replicas' log, the stream).
- The kernel takes {so.kernel_kib:.0f} KiB for a connection, and a process {so.process_mib:.0f} MiB before it has any.
- The balancer spreads connections evenly, also when a node is away.

## Not measured

- More than 18,000 connections, more than two nodes on one PostgreSQL, networks slower than loopback.
- Twins, methods, commands and readers at this scale; devices on AMQP.
- PostgreSQL with more than some hundred connections: where the table has more, spread the hubs over deployments.
- More than three NATS servers: there streams are spread, each still on three.
"""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="bench.capacity", description="What many connected devices take.")
    parser.add_argument("--devices", type=int, default=Assumed().devices)
    parser.add_argument("--print", action="store_true", help="to standard output, not into docs/capacity.md")
    chosen = parser.parse_args()
    files = newest()
    text = page(files, chosen.devices)
    if chosen.print:
        print(text)
    else:
        PAGE.write_text(text)
        print(f"written to {PAGE}, from {', '.join(path.name for path in files.values())}")


if __name__ == "__main__":
    main()
