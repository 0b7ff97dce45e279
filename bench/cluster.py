"""Measure what a durable message costs a deployment of several parts, beside RabbitMQ's MQTT.

usage: python -m bench.cluster [--quick] [--again] [--setting one|three|workers ...] [--connections 100]

Muster is one node with a PostgreSQL and NATS, RabbitMQ a quorum queue that the topic exchange fills; both take the same
PUBLISH packets at QoS 1 over TLS 1.3, and their PUBACK says that the message is on disk. *one*: a NATS server, a
RabbitMQ node. *three*: three NATS servers with three replicas, three RabbitMQ nodes with three members of the queue.
*workers*: `--workers 2` beside one worker, on a NATS server each. CPU is user and system time of everything that
belongs to a server, also by part. All servers are on one core, the load on the other; they are up together, and each
measurement visits them in turn, waiting first until the server has come to rest. The workers have both cores, for what
they may share; so rates are information only. Latency is that of an open loop at half of a server's own rate.

A run that was stopped goes on where it was as long as the sources are the same. The full run takes a quarter of an hour
and writes docs/results/DATE-cluster-cpu.{json,md}; --quick takes three minutes and writes below bench/build.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine, measure, rabbitmq
from bench.journal import ROOT, Journal, source_digest
from bench.keeping import Shared, versions
from bench.measure import LoadError, Result
from bench.rabbitmq import MqttRabbitMQ
from bench.run import build_programs, say
from bench.servers import BUILD, Accounts, Device, Muster, Server

BAR = 0.4
REST, REST_SECONDS, START_SECONDS = 0.1, 60.0, 120.0
HUB, BROKER = "Muster", "RabbitMQ"


HALF = "half"


class Size(NamedTuple):
    """Rounds, seconds of a measurement and before it, connections."""

    rounds: int
    seconds: float
    warm_up: float
    connections: int


FULL = Size(5, 2.5, 1, 100)
QUICK = Size(1, 1, 0.5, 50)


class Load(NamedTuple):
    """A closed loop; ``connections`` 0 stands for those of the size. A bar is for many connections."""

    name: str
    connections: int
    window: int


LOADS = (
    Load("many connections, 1 in flight each", 0, 1),
    Load("many connections, 20 in flight each", 0, 20),
    Load("one connection, 1 in flight", 1, 1),
)
MOST = LOADS[1]
"""Whose rate is a server's own."""


class Node(Muster):
    """A hub of one node, with PostgreSQL and NATS."""

    def __init__(self, directory: Path, accounts: Accounts, servers: int, workers: int = 1) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._stores = Shared(directory / "stores", servers)
        super().__init__(directory, accounts, *self._stores.options, *(["--workers", str(workers)] * (workers > 1)))
        self.hub.patience = START_SECONDS

    def stop(self) -> None:
        super().stop()
        self._stores.close()

    @property
    def pids(self) -> list[int]:
        return [self.pid, *self._stores.pids]

    def parts(self, by_root: Sequence[float]) -> dict[str, float]:
        """By the names of the parts."""
        hub, postgres, *nats = by_root
        return {"hub": hub, "NATS": sum(nats), "PostgreSQL": postgres}

    def load_options(self) -> dict[str, Any]:
        """What else ``mqload`` wants to know."""
        return {}

    def empty(self) -> int | None:
        """It need not be emptied; how much it holds is not asked."""
        return None

    def stored_bytes(self) -> int:
        """See ``Shared.stream_bytes``."""
        return self._stores.stream_bytes()


class Brokers(Server):
    """RabbitMQ nodes that are a cluster if there are several; the load goes to the first."""

    name = BROKER

    def __init__(self, directory: Path, accounts: Accounts, members: int) -> None:
        super().__init__(directory, accounts)
        first = MqttRabbitMQ(directory, accounts, 0, None, members)
        self._nodes = [first, *(MqttRabbitMQ(directory, accounts, one, first, members) for one in range(1, members))]

    def start(self) -> None:
        for node in self._nodes:
            node.start()
        if len(self._nodes) > 1:
            self._nodes[0].define()

    def stop(self) -> None:
        for node in reversed(self._nodes):
            node.stop()

    @property
    def pid(self) -> int:
        return self._nodes[0].pid

    @property
    def pids(self) -> list[int]:
        return [pid for node in self._nodes for pid in node.pids]

    @property
    def port(self) -> int:
        return self._nodes[0].port

    def parts(self, by_root: Sequence[float]) -> dict[str, float]:
        """All of it is one."""
        return {"RabbitMQ": sum(by_root)}

    def load_options(self) -> dict[str, Any]:
        """It has accounts of its own."""
        return {"identities": self._nodes[0].identities}

    def empty(self) -> int | None:
        """Purge the queue, whose cost grows with its length; how many messages it held."""
        return self._nodes[0].empty()

    def stored_bytes(self) -> int:
        """Not looked at."""
        return 0


Subject = Node | Brokers


class Setting(NamedTuple):
    """Two servers to be held against each other, the first against the second; ``bar`` is what is asked."""

    name: str
    title: str
    make: tuple[Callable[[Path, Accounts], Subject], Callable[[Path, Accounts], Subject]]
    names: tuple[str, str]
    bar: float | None = None
    pinned: bool = True


SETTINGS = (
    Setting(
        "one", "one NATS server; one RabbitMQ node",
        (lambda place, who: Node(place, who, 1), lambda place, who: Brokers(place, who, 1)), (HUB, BROKER), BAR,
    ),
    Setting(
        "three", "three replicas on three NATS servers; three members on three RabbitMQ nodes",
        (lambda place, who: Node(place, who, 3), lambda place, who: Brokers(place, who, 3)), (HUB, BROKER), BAR,
    ),
    Setting(
        "workers", "two workers beside one, one NATS server each",
        (lambda place, who: Node(place, who, 1, 2), lambda place, who: Node(place, who, 1)),
        ("two workers", "one worker"), pinned=False,
    ),
)  # fmt: skip


class Bench:
    """One run of the benchmark."""

    def __init__(self, directory: Path, size: Size) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory, self.size = directory, size
        self.journal = Journal(directory / "journal.jsonl")
        self.accounts = Accounts(directory, [Device(f"device-{number:05d}") for number in range(size.connections)])
        self.accounts.write()

    def run(self, setting: Setting) -> None:
        """All of one setting that is not in the journal yet."""
        rounds = range(1, self.size.rounds + 1)
        if all(len(self.of(setting, HALF, name)) == self.size.rounds for name in setting.names):
            return
        with self._up(setting) as servers:
            for number in rounds:
                for load in LOADS:
                    for name, server in servers.items():
                        self._take(setting, load.name, name, number, partial(self.publish, server, load))
            for number in rounds:
                for name, server in servers.items():
                    most = measure.median_of(self.of(setting, MOST.name, name), "acks_per_s")
                    self._take(setting, HALF, name, number, partial(self.publish, server, MOST, most / 2))

    def of(self, setting: Setting, load: str, name: str) -> list[Result]:
        """What was measured of it, by round."""
        return self.journal.of(f"{setting.name}, {load}", name)

    @contextmanager
    def _up(self, setting: Setting) -> Iterator[dict[str, Subject]]:
        servers: dict[str, Subject] = {}
        try:
            with machine.on_core(machine.SERVER_CORE) if setting.pinned else nullcontext():
                for name, make in zip(setting.names, setting.make, strict=True):
                    place = self.directory / setting.name / name.replace(" ", "-")
                    shutil.rmtree(place, ignore_errors=True)
                    servers[name] = make(place, self.accounts)
                    servers[name].start()
            yield servers
        finally:
            for server in servers.values():
                server.stop()

    def _take(self, setting: Setting, load: str, name: str, number: int, call: Callable[[], Result]) -> None:
        result = self.journal.once(f"{setting.name}, {load}", name, number, call)
        parts = ", ".join(f"{part} {us:.1f}" for part, us in result["parts"].items())
        say(
            f"round {number}  {setting.name}, {load}: {name} {result['server_us_per_message']:.1f} µs ({parts}), "
            f"{result['acks_per_s']:,.0f}/s"
        )

    def publish(self, server: Subject, load: Load, rate: float = 0.0) -> Result:
        """A closed loop, or an open one at ``rate``; what RabbitMQ says is stored must be in its queue."""
        rest(server)
        server.empty()
        size, connections = self.size, load.connections or self.size.connections
        scale = measure.Scale(size.rounds, size.seconds, size.warm_up, connections, 0, 0)
        options = ["-n", str(connections), "-d", str(size.seconds), "-W", str(size.warm_up), "-w", str(load.window)]
        options += ["-r", f"{rate:.0f}"] if rate else []
        stored = server.stored_bytes()
        result = measure.mqload(server, scale, load.name, "pub", *options, **server.load_options())
        if (held := server.empty()) not in (None, result["acked_total"]):
            raise LoadError(f"{result['acked_total']} messages acknowledged, {held} in the queue")
        result["parts"] = server.parts(result["us_by_root"])
        result["stored_bytes"] = (server.stored_bytes() - stored) / result["acked_total"]
        return result


def rest(server: Subject) -> None:
    """Wait until a server has nothing more to do. Raises ``LoadError`` when it does not come to rest."""
    end = time.monotonic() + REST_SECONDS
    before = sum(map(machine.tree_cpu_seconds, server.pids))
    while True:
        time.sleep(0.5)
        now = sum(map(machine.tree_cpu_seconds, server.pids))
        if (now - before) / 0.5 < REST:
            return
        if time.monotonic() > end:
            raise LoadError(f"{server.name} is still at work {REST_SECONDS:.0f} s after the load")
        before = now


# -- the report ------------------------------------------------------------------------------------------------------


def summed_up(bench: Bench, setting: Setting) -> dict[str, Any]:
    """Medians of the rounds, and the medians of their ratios, by load."""
    loads: dict[str, Any] = {}
    for load in [*(load.name for load in LOADS), HALF]:
        found = {name: bench.of(setting, load, name) for name in setting.names}
        if not all(found.values()):
            continue
        pairs = zip(*([one["server_us_per_message"] for one in found[name]] for name in setting.names), strict=False)
        loads[load] = {
            "ratio": statistics.median(own / other for own, other in pairs),
            **{name: {
                **{figure: [measure.median_of(rounds, figure), min(one[figure] for one in rounds),
                            max(one[figure] for one in rounds)]
                   for figure in ("server_us_per_message", "acks_per_s", "p50_ms", "p99_ms", "stored_bytes")},
                "parts": {part: statistics.median(one["parts"][part] for one in rounds) for part in rounds[0]["parts"]},
            } for name, rounds in found.items()},
        }  # fmt: skip
    return {"title": setting.title, "names": list(setting.names), "bar": setting.bar, "loads": loads}


def to_markdown(made: dict[str, Any]) -> str:
    """The report."""
    described = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in made["machine"].items())
    lines = [
        f"# CPU of a durable message, {made['date']}", "", f"`{made['command']}` on {described}.", "",
        f"Medians of {made['rounds']} interleaved rounds (least-most); ratios are medians of the ratios of each round.",
        f"*Many* are {made['connections']} connections over TLS 1.3, QoS 1, payloads of 256 bytes, nobody reads. A",
        "PUBACK says that the message is on disk. CPU of everything that belongs to a server, and of its parts. Rates",
        "and latencies are information only: all is on two cores. *half*: an open loop at half of what a server took",
        "with 20 in flight, latency from the moment when a message was due.",
    ]  # fmt: skip
    for setting in made["settings"].values():
        one, other = setting["names"]
        lines += [
            "", f"## {setting['title'][0].upper()}{setting['title'][1:]}", "",
            f"| | {one}, µs | {other}, µs | ratio | parts: {one} | {one}, messages/s | {other} |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]  # fmt: skip
        for load, found in setting["loads"].items():
            parts = ", ".join(f"{part} {us:.1f}" for part, us in found[one]["parts"].items())
            rates = " | ".join(f"{found[name]['acks_per_s'][0]:,.0f}" for name in (one, other))
            costs = " | ".join(
                "{:.1f} ({:.1f}-{:.1f})".format(*found[name]["server_us_per_message"]) for name in (one, other)
            )
            asked = ""
            if setting["bar"] is not None and load.startswith("many"):
                verdict = "met" if found["ratio"] <= setting["bar"] else "**missed**"
                asked = f" (≤ {setting['bar']:g}: {verdict})"
            lines.append(f"| {load} | {costs} | {found['ratio']:.2f}{asked} | {parts} | {rates} |")
        if (half := setting["loads"].get(HALF)) is not None:
            said = (
                f"{name} {half[name]['p50_ms'][0]:.1f} (p99 {half[name]['p99_ms'][0]:.1f})" for name in (one, other)
            )
            lines += ["", f"Latency at half, ms p50: {', '.join(said)}."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.cluster", description="CPU of a durable message beside RabbitMQ's.")
    parser.add_argument("--quick", action="store_true", help="three minutes' look; figures are not for quoting")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run that was stopped measured")
    names = [setting.name for setting in SETTINGS]
    parser.add_argument("--setting", action="append", choices=names, help="only this one; repeatable")
    parser.add_argument("--connections", type=int, help="of the loads with many")
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else FULL
    size = size._replace(connections=chosen.connections or size.connections)
    settings = [setting for setting in SETTINGS if not chosen.setting or setting.name in chosen.setting]
    build_programs()
    directory = BUILD / f"cluster-{'quick' if chosen.quick else 'full'}-{size.connections}-{source_digest()}"
    for other in BUILD.glob("cluster-*-*"):
        if other != directory or chosen.again or chosen.quick:
            shutil.rmtree(other)
    bench = Bench(directory, size)
    try:
        for setting in settings:
            bench.run(setting)
    except (LoadError, RuntimeError) as failed:
        say(f"stopped: {failed}\nwhat was measured is kept; the same command goes on from there")
        return 1
    made = {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "command": shlex.join(["python", "-m", "bench.cluster", *sys.argv[1:]]),
        "machine": machine.describe(directory, **versions(), rabbitmq=rabbitmq.version()),
        "rounds": size.rounds, "connections": size.connections,
        "settings": {setting.name: summed_up(bench, setting) for setting in settings},
    }  # fmt: skip
    text = to_markdown(made)
    where, stem = BUILD, "cluster-cpu"
    if not chosen.quick:
        where, stem = ROOT / "docs" / "results", f"{datetime.now(UTC):%Y-%m-%d}-cluster-cpu"
        stem += f"-{size.connections}" if chosen.connections else ""
    (where / f"{stem}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    (where / f"{stem}.md").write_text(text)
    shutil.rmtree(directory)
    say(f"\n{text}\nwritten to {where / stem}.md and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
