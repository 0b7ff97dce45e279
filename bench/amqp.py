"""Run the AMQP benchmark: telemetry in beside RabbitMQ, events delivered, a gateway of a thousand devices.

usage: python -m bench.amqp [--quick] [--again] [--part telemetry|gateway ...] [--load link1|link20|... ...]

The hub and RabbitMQ are up together on one core, the load on the other, each measurement visiting both in turn and
waiting first until the server has come to rest. Both take the same transfers over TLS 1.3, unsettled, and accept each
once it is on disk. Beside them the least C server shows what the machine asks for one connection (over MQTT): TLS,
system calls and fdatasync. A run that was stopped goes on where it was as long as the sources are the same. The full
run takes twelve minutes and writes docs/results/DATE-amqp.{json,md}; --quick takes two and writes below bench/build.
With --load only these loads of the telemetry are measured, for DATE-amqp-LOAD.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from bench import machine, rabbitmq, report
from bench.amqp_loads import FULL, LOADS, PROFILED, QUICK, Hub, Load, Scale, floor, gateway, publish
from bench.journal import ROOT, Journal, source_digest
from bench.measure import LoadError, Result
from bench.peers import PeerError
from bench.rabbitmq import RabbitMQ
from bench.report import Figure
from bench.run import FILES_BESIDE_CONNECTIONS, build_programs, running, say
from bench.servers import BUILD, Accounts, Device, Minimal, Muster, Server

BAR = 0.4
ALONG = "read along"
PEER_TRIES = 3
PARTS = ("telemetry", "gateway")


class Bench:
    """One run of the benchmark."""

    def __init__(self, directory: Path, scale: Scale) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.scale = directory, scale
        self.journal = Journal(directory / "journal.jsonl")
        self.accounts = Accounts(directory, [Device(f"device-{number:05d}") for number in range(scale.devices)])

    def telemetry(self, loads: Sequence[Load]) -> None:
        """``loads`` on both servers, interleaved round by round."""
        self.accounts.write()
        hub, rabbit = Hub(self.directory, self.accounts), RabbitMQ(self.directory, self.accounts)
        least = Minimal(self.directory, self.accounts)
        with running([hub, rabbit, least]):
            for number in range(1, self.scale.rounds + 1):
                for load in loads:
                    self.take(load, hub, number, partial(publish, hub, self.scale, load))
                    self.take(load, rabbit, number, partial(publish, rabbit, self.scale, load))
                    if load.one_link:
                        self.take(load, least, number, partial(floor, least, self.scale, load))
                if LOADS[-1] in loads:
                    self.journal.once(ALONG, hub.name, number, partial(self.along, hub, number))
                    hub.stop_reader()

    def along(self, hub: Hub, number: int) -> Result:
        """What a receiver that reads along adds to a message of the last load, just measured without one."""
        alone = self.journal.of(LOADS[-1].name, hub.name)[number - 1]["server_us_per_message"]
        added: float = publish(hub, self.scale, LOADS[-1], along=True)["server_us_per_message"] - alone
        say(f"round {number}  an event read along: {added:.1f} µs")
        return {"us": added}

    def take(self, load: Load, server: Server, number: int, call: Callable[[], Result]) -> None:
        """Measure once, and say what came out. A peer that was starved, or does not come to rest, starts anew."""
        for left in reversed(range(1 if server.name == Muster.name else PEER_TRIES)):
            try:
                result = self.journal.once(load.name, server.name, number, call)
                break
            except LoadError as failed:
                if not left:
                    raise
                say(f"again, with a fresh {server.name}: {failed}")
                server.stop()
                server.start()
        say(f"round {number}  {load.name}: {server.name} {result['server_us_per_message']:.1f} µs")

    def gateway(self) -> None:
        """One hub, the devices coming back each round."""
        hub = Hub(self.directory / "gateway", self.accounts)
        with running([hub]):
            for number in range(1, self.scale.rounds + 1):
                result = self.journal.once("gateway", hub.name, number, partial(gateway, hub, self.scale))
                say(f"round {number}  gateway: " + ", ".join(f"{name} {value:.3g}" for name, value in result.items()))


PHASES = {
    "login": "a token put and two links attached",
    "telemetry": "a message in",
    "devicebound": "a message to a device, sent, taken and settled",
}
FIGURES = (
    *(Figure(f"{load.name}: CPU a message, µs", load.name, "server_us_per_message", 1, BAR) for load in LOADS),
    *(Figure(f"{load.name}: messages/s on one core", load.name, "acks_per_s", 0) for load in LOADS),
    *(Figure(f"{load.name}: p50, ms", load.name, "p50_ms", 2) for load in LOADS),
    Figure("an event delivered as it comes in: CPU, µs", ALONG, "us", 2),
    Figure("an event delivered later, from the log: CPU, µs", LOADS[-1].name, "read_us", 2),
    Figure("events/s from the log", LOADS[-1].name, "reads_per_s", 0),
    *(Figure(f"gateway, {title}: CPU, µs", "gateway", f"{phase}_us", 1) for phase, title in PHASES.items()),
    *(Figure(f"gateway, {title}: seconds for all", "gateway", f"{phase}_s", 2) for phase, title in PHASES.items()),
)

CONDITIONS = """Medians of {rounds} interleaved rounds (least-most); ratios are medians of the ratios of each round.
Server on one core, load on another; TLS 1.3, SASL PLAIN or put-token, transfers unsettled, {payload_bytes}-byte
payloads with two standard and two application properties; accepted once on disk. RabbitMQ has a quorum queue of one
node, emptied before each measurement, and schedulers that do not wait busily. Nobody reads meanwhile; then all that was
accepted is counted where it is stored, each once: at Muster by a receiver, an event delivered from the log. "500 links"
are {links}; those of one connection are devices with a token each at Muster, one user's at RabbitMQ. An event delivered
as it comes in is what a receiver adds to a message (500 connections, 20 in flight each). The gateway has {devices:,}
devices on one connection, a session each: they send {messages} messages each with 5 in flight, and then get one each,
which a service sends on one link. What the least C
server does is MQTT: one connection, TLS, a log, fdatasync, nothing checked.
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.amqp", description="Measure the hub's AMQP beside RabbitMQ's.")
    parser.add_argument("--quick", action="store_true", help="two minutes' look; figures are not for quoting")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run that was stopped measured")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    parser.add_argument(
        "--load", action="append", choices=list(PROFILED), default=[], help="only this load of telemetry; repeatable"
    )
    return parser.parse_args()


def write_report(bench: Bench, loads: Sequence[str], *, quick: bool) -> None:
    """Print the report and write it as JSON and Markdown; ``loads`` if it is of these alone."""
    scale = bench.scale
    facts = {
        "rounds": scale.rounds, "links": scale.links, "devices": scale.devices, "messages": scale.messages,
        "payload_bytes": scale.payload,
    }  # fmt: skip
    described = machine.describe(bench.directory, rabbitmq=rabbitmq.version())
    command = shlex.join(["python", "-m", "bench.amqp", *sys.argv[1:]])
    servers = (Muster.name, RabbitMQ.name, Minimal.name)
    made = report.make_report(bench.journal, facts, described, command, figures=FIGURES, servers=servers)
    text = report.to_markdown(made, "AMQP benchmark", CONDITIONS)
    where = BUILD if quick else ROOT / "docs" / "results"
    stem = "-".join(["amqp" if quick else f"{datetime.now(UTC):%Y-%m-%d}-amqp", *loads])
    (where / f"{stem}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    (where / f"{stem}.md").write_text(text)
    say(f"\n{text}\nwritten to {where / stem}.md and .json")


def main() -> int:
    chosen = arguments()
    scale = QUICK if chosen.quick else FULL
    parts: list[str] = ["telemetry"] if chosen.load else chosen.part or list(PARTS)
    loads = [PROFILED[name] for name in chosen.load] or list(LOADS)
    machine.raise_file_limit(2 * scale.devices + FILES_BESIDE_CONNECTIONS)
    build_programs()
    directory = BUILD / f"amqp-{'quick' if chosen.quick else 'full'}-{source_digest()}"
    for other in BUILD.glob("amqp-*-*"):
        if other != directory or chosen.again or chosen.quick:
            shutil.rmtree(other)
    bench = Bench(directory, scale)
    work: dict[str, Callable[[], None]] = {"telemetry": partial(bench.telemetry, loads), "gateway": bench.gateway}
    try:
        for part in parts:
            work[part]()
    except (LoadError, PeerError, RuntimeError) as failed:
        say(f"stopped: {failed}\nwhat was measured is kept; the same command goes on from there")
        return 1
    write_report(bench, chosen.load, quick=chosen.quick)
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
