"""Run the AMQP benchmark: telemetry in beside RabbitMQ, events delivered, and a gateway with a thousand devices.

usage: python -m bench.amqp [--quick] [--again] [--part telemetry|events|gateway ...]

The hub and RabbitMQ are up together on one core, the load on the other, each measurement visiting both in turn and
waiting first until the other has come to rest. Both take the same transfers over TLS 1.3, unsettled, and accept each
once it is on disk. A run that was stopped goes on where it was as long as the sources are the same. The full run takes
twelve minutes and writes docs/results/DATE-amqp.{json,md}; --quick takes two and writes below bench/build.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import uvloop

from bench import machine, rabbitmq, report
from bench.journal import ROOT, Journal, source_digest
from bench.machine import LOAD_CORE, on_core
from bench.measure import CALL_SECONDS, LoadError, Result, check_messages
from bench.peers import PeerError, SenderPeer
from bench.rabbitmq import RabbitMQ
from bench.report import Figure
from bench.run import FILES_BESIDE_CONNECTIONS, build_programs, running, say
from bench.servers import BUILD, HOST, Accounts, Device, Muster

BAR = 0.4
PARTS = ("telemetry", "events", "gateway")
AT_REST = 0.05
REST_SECONDS = 60.0
BODY = b"x" * 256


@dataclass(frozen=True)
class Scale:
    """How much of everything; seconds for each measurement, devices of the gateway, messages of each."""

    rounds: int
    seconds: float
    warm_up: float
    links: int
    devices: int
    messages: int
    payload: int = 256


FULL = Scale(rounds=5, seconds=3, warm_up=1.5, links=500, devices=1000, messages=20)
QUICK = Scale(rounds=1, seconds=1, warm_up=0.5, links=100, devices=100, messages=10)


@dataclass(frozen=True)
class Load:
    """A closed loop of unsettled transfers: on how many connections, with how many links each and in all in flight."""

    name: str
    one_link: bool
    one_connection: bool
    window: int

    def options(self, scale: Scale) -> tuple[int, list[str]]:
        """Links of a connection, and the options of amqpload."""
        links = 1 if self.one_link else scale.links
        connections, each = (1, links) if self.one_connection else (links, 1)
        return each, ["-n", str(connections), "-l", str(each), "-w", str(self.window)]


LOADS = (
    *(Load(f"one link, {window} in flight", True, True, window) for window in (1, 20, 100)),
    *(Load(f"500 links of one connection, {window} in flight each", False, True, window) for window in (1, 20)),
    *(Load(f"500 connections, {window} in flight each", False, False, window) for window in (1, 20)),
)


PROFILED = dict(
    zip(("link1", "link20", "link100", "links1", "links20", "connections1", "connections20"), LOADS, strict=True)
)
"""The loads by short names, for ``bench.profile``."""


class Hub(Muster):
    """The hub with its devices on AMQP."""

    @property
    def identities(self) -> Path:
        return self.directory / "amqp.tsv"

    def start(self) -> None:
        super().start()
        lines = (
            f"{device.name}\t{device.name}@sas.{HOST}\t{device.token(self.accounts.expiry)}\n"
            for device in self.accounts.devices
        )
        self.identities.write_text("".join(lines))

    def load_options(self, links: int) -> list[str]:
        """See ``RabbitMQ.load_options``: a device alone says PLAIN, many on one connection put a token each."""
        return [
            "-p", str(self.hub.port("amqp")), "-P", str(self.pid), "-I", str(self.identities),
            "-t", "/devices/{id}/messages/events/", *(["-C"] if links > 1 else []),
        ]  # fmt: skip


def rest(server: Hub | RabbitMQ) -> None:
    """Wait until a server has nothing more to do: closing connections takes RabbitMQ seconds.

    Raises:
        LoadError: it does not come to rest.
    """
    end = time.monotonic() + REST_SECONDS
    before = machine.tree_cpu_seconds(server.pid)
    while True:
        time.sleep(0.5)
        now = machine.tree_cpu_seconds(server.pid)
        if (now - before) / 0.5 < AT_REST:
            return
        if time.monotonic() > end:
            raise LoadError(f"{server.name} is still at work {REST_SECONDS:.0f} s after the load")
        before = now


def amqpload(server: Hub | RabbitMQ, scale: Scale, label: str, mode: str, links: int, *options: str) -> list[str]:
    """The command that runs the load generator against a server."""
    timing = ["-d", str(scale.seconds), "-W", str(scale.warm_up), "-s", str(scale.payload)]
    return [str(BUILD / "amqpload"), "-m", mode, "-L", label, *server.load_options(links), *timing, *options]


def judged(line: str, errors: str, label: str) -> Result:
    """A line of the load generator as figures. Raises ``LoadError`` when it says that something went wrong."""
    try:
        result: Result = json.loads(line)
    except ValueError:
        raise LoadError(f"{label}: amqpload said: {line}{errors}") from None
    if "error" in result:
        raise LoadError(f"{label}: {result['error']} ({result['ready']} ready, {result['failed']} failed)")
    return result


def publish(server: Hub | RabbitMQ, scale: Scale, load: Load, *, along: bool = False) -> Result:
    """One closed loop, and what of it was stored: nothing may be missing or there twice.

    `along`: a receiver reads along, as part of what is measured; else nobody reads before the loop has ended.
    """
    rest(server)
    if isinstance(server, RabbitMQ):
        server.empty()
    began = int(time.time() * 1000) - 1
    links, options = load.options(scale)
    if along and isinstance(server, Hub):
        options += server.publish_options()
    command = amqpload(server, scale, load.name, "pub", links, *options)
    with on_core(LOAD_CORE):
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS, check=False)
    result = judged(outcome.stdout, outcome.stderr, f"{server.name}, {load.name}")
    check_messages(load.name, result, read_along=along)
    if isinstance(server, RabbitMQ):
        held = server.empty()
        if held != result["acked_total"]:
            raise LoadError(f"{load.name}: {result['acked_total']} messages accepted, {held} in the queue")
    elif not along:
        read_all(server, f"enqueued-time > '{began}'", result["acked_total"])
    return result


# -- events delivered ------------------------------------------------------------------------------------------------


def read_all(hub: Hub, behind: str, events: int) -> Result:
    """A receiver reads what is `behind`, which must be `events` events; CPU for each, connecting included."""
    counters = hub.directory / "read-all"
    counters.unlink(missing_ok=True)
    before, start = machine.cpu_seconds(hub.pid), time.perf_counter()
    reader = hub.read(counters, behind)
    seen = 0
    try:
        while seen < events:
            time.sleep(0.002)
            if time.perf_counter() - start > REST_SECONDS or reader.poll() is not None:
                raise LoadError(f"{events} messages were accepted, {seen} can be read")
            seen = struct.unpack("QQ", counters.read_bytes())[0]
        used, taken = machine.cpu_seconds(hub.pid) - before, time.perf_counter() - start
        time.sleep(0.3)
        seen = struct.unpack("QQ", counters.read_bytes())[0]
    finally:
        reader.kill()
        reader.wait()
    if seen != events:
        raise LoadError(f"{events} messages were accepted, {seen} can be read")
    return {"us": used / events * 1e6, "per_s": events / taken, "busy": used / taken}


def live(hub: Hub, scale: Scale) -> tuple[Result, int]:
    """What a receiver adds to a message while it comes in; and how many messages came in for that."""
    load = LOADS[-1]
    alone = publish(hub, scale, load)
    along = publish(hub, scale, load, along=True)
    hub.stop_reader()
    figures = {"us": along["server_us_per_message"] - alone["server_us_per_message"]}
    return figures, alone["acked_total"] + along["acked_total"]


def events(journal: Journal, directory: Path, accounts: Accounts, scale: Scale) -> None:
    """Both on a hub of their own, so that it is known what it holds."""
    hub = Hub(directory / "events", accounts)
    if journal.holds("replay", hub.name, scale.rounds):
        return
    shutil.rmtree(hub.directory, ignore_errors=True)  # of a run that was stopped: it holds nobody knows how many
    hub.directory.mkdir()
    stored = 0
    with running([hub]):
        for number in range(1, scale.rounds + 1):
            found, more = live(hub, scale)
            stored += more
            result = journal.once("live", hub.name, number, lambda found=found: found)  # type: ignore[misc]
            rest(hub)
            again = journal.once("replay", hub.name, number, partial(read_all, hub, "offset > '-1'", stored))
            say(f"round {number}  event read along {result['us']:.2f} µs, event replayed {again['us']:.2f} µs")


# -- the gateway -----------------------------------------------------------------------------------------------------


async def send_to_all(hub: Hub, devices: list[Device]) -> None:
    """One message to each device, on one link of a service."""
    sender = await SenderPeer.open(hub.hub.port("amqp"), hub.hub.trust(), "iothubowner", hub.hub.owner_token())
    await asyncio.gather(*(sender.send(device.name, BODY) for device in devices))


def gateway(hub: Hub, scale: Scale) -> Result:
    """All devices log in on one connection, a session each; send; and get one message each."""
    rest(hub)
    options = [
        "-l", str(scale.devices), "-k", "1", "-w", "5", "-N", str(scale.messages),
        "-r", "/devices/{id}/messages/devicebound", *hub.publish_options(),
    ]  # fmt: skip
    command = amqpload(hub, scale, "gateway", "gateway", scale.devices, *options)
    result: Result = {}
    with on_core(LOAD_CORE), subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdout is not None
        for phase in PHASES:
            if phase == "devicebound":
                before, start = machine.cpu_seconds(hub.pid), time.perf_counter()
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(send_to_all(hub, hub.accounts.devices[: scale.devices]))
            figures = judged(load.stdout.readline(), "", f"gateway, {phase}")
            if phase == "devicebound":
                figures["seconds"] = time.perf_counter() - start
                time.sleep(0.3)  # what the devices accepted is settled in the queues
                figures["server_us_per_message"] = (machine.cpu_seconds(hub.pid) - before) / scale.devices * 1e6
            result[f"{phase}_us"], result[f"{phase}_s"] = figures["server_us_per_message"], figures["seconds"]
        rest_of_it = load.stdout.read()
    if load.returncode:
        judged(rest_of_it, "", "gateway")
        raise LoadError("gateway: the load generator failed at its end")
    result["rss_mib"] = figures["rss_mib"]
    return result


# -- the run ---------------------------------------------------------------------------------------------------------


class Bench:
    """One run of the benchmark."""

    def __init__(self, directory: Path, scale: Scale) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.scale = directory, scale
        self.journal = Journal(directory / "journal.jsonl")
        self.accounts = Accounts(directory, [Device(f"device-{number:05d}") for number in range(scale.devices)])

    def telemetry(self) -> None:
        """Every load on both servers, interleaved round by round."""
        servers: list[Hub | RabbitMQ] = [Hub(self.directory, self.accounts), RabbitMQ(self.directory, self.accounts)]
        with running([*servers]):
            for number in range(1, self.scale.rounds + 1):
                for load in LOADS:
                    for server in servers:
                        call = partial(publish, server, self.scale, load)
                        result = self.journal.once(load.name, server.name, number, call)
                        say(f"round {number}  {load.name}: {server.name} {result['server_us_per_message']:.1f} µs")

    def events(self) -> None:
        """See ``events``."""
        events(self.journal, self.directory, self.accounts, self.scale)

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
    Figure("an event delivered as it comes in: CPU, µs", "live", "us", 2),
    Figure("an event delivered from the log: CPU, µs", "replay", "us", 2),
    Figure("events/s from the log", "replay", "per_s", 0),
    *(Figure(f"gateway, {title}: CPU, µs", "gateway", f"{phase}_us", 1) for phase, title in PHASES.items()),
    *(Figure(f"gateway, {title}: seconds for all", "gateway", f"{phase}_s", 2) for phase, title in PHASES.items()),
)

CONDITIONS = """Medians of {rounds} interleaved rounds (least-most); ratios are medians of the ratios of each round.
Server on one core, load on another; TLS 1.3, SASL PLAIN or put-token, transfers unsettled, {payload_bytes}-byte
payloads with two standard and two application properties; accepted once on disk. RabbitMQ has a quorum queue of one
node, emptied before each measurement, and schedulers that do not wait busily. Nobody reads meanwhile; then all that was
accepted is counted where it is stored, each once. "500 links" are {links}; those of one connection are devices with a
token each at Muster, one user's at RabbitMQ. An event delivered as it comes in is what a receiver adds to a message
(500 connections, 20 in flight each). The gateway has {devices:,} devices on one connection, a session each: they send
{messages} messages each with 5 in flight, and then get one each, which a service sends on one link.
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.amqp", description="Measure the hub's AMQP beside RabbitMQ's.")
    parser.add_argument("--quick", action="store_true", help="two minutes' look; figures are not for quoting")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run that was stopped measured")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    return parser.parse_args()


def write_report(bench: Bench, *, quick: bool) -> None:
    """Print the report and write it as JSON and Markdown."""
    scale = bench.scale
    facts = {
        "rounds": scale.rounds, "links": scale.links, "devices": scale.devices, "messages": scale.messages,
        "payload_bytes": scale.payload,
    }  # fmt: skip
    described = machine.describe(bench.directory, rabbitmq=rabbitmq.version())
    command = shlex.join(["python", "-m", "bench.amqp", *sys.argv[1:]])
    servers = (Muster.name, RabbitMQ.name)
    made = report.make_report(bench.journal, facts, described, command, figures=FIGURES, servers=servers)
    text = report.to_markdown(made, "AMQP benchmark", CONDITIONS)
    where = BUILD if quick else ROOT / "docs" / "results"
    stem = "amqp" if quick else f"{datetime.now(UTC):%Y-%m-%d}-amqp"
    (where / f"{stem}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    (where / f"{stem}.md").write_text(text)
    say(f"\n{text}\nwritten to {where / stem}.md and .json")


def main() -> int:
    chosen = arguments()
    scale = QUICK if chosen.quick else FULL
    parts: list[str] = chosen.part or list(PARTS)
    machine.raise_file_limit(2 * scale.devices + FILES_BESIDE_CONNECTIONS)
    build_programs()
    directory = BUILD / f"amqp-{'quick' if chosen.quick else 'full'}-{source_digest()}"
    for other in BUILD.glob("amqp-*-*"):
        if other != directory or chosen.again or chosen.quick:
            shutil.rmtree(other)
    bench = Bench(directory, scale)
    work: dict[str, Callable[[], None]] = {
        "telemetry": bench.telemetry, "events": bench.events, "gateway": bench.gateway,
    }  # fmt: skip
    try:
        for part in parts:
            work[part]()
    except (LoadError, PeerError, RuntimeError) as failed:
        say(f"stopped: {failed}\nwhat was measured is kept; the same command goes on from there")
        return 1
    write_report(bench, quick=chosen.quick)
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
