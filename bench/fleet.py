"""Measure a big fleet on two nodes: what an idle connection costs, and what becomes of a herd when a node dies.

usage: python -m bench.fleet [--quick]

Two `muster serve` share a PostgreSQL and a NATS server; two processes have 9,000 devices each (a process may open
20,000 files here), over MQTT and TLS with a SAS token, silent but for a PINGREQ each minute. One node is killed, and
its devices come back as `fleet_devices` says, the next address of their list being the other node; meanwhile those of
the other node send telemetry. Then the node is started again, its devices go home, and it is the other's turn.

A run ends with an error unless all came back, nobody was told that he is not who he says, no device of the other node
lost its connection, all telemetry was acknowledged, and then each of the 18,000 sends a message that is. CPU is user
and system time of the nodes, of PostgreSQL and of NATS. A full run takes six minutes and writes
docs/results/DATE-fleet.{json,md}; --quick takes one, has 1,000 devices and writes below bench/build.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench import machine
from bench.fleet_devices import KEEP_ALIVE
from bench.journal import ROOT
from bench.keeping import Shared, versions
from bench.measure import Result
from bench.peers import PeerError
from bench.run import say
from bench.servers import BUILD, Device, register
from muster.testing.hub import HubProcess
from tests.addresses import loopback

NODES = 2
BESIDE_CONNECTIONS = 500
LOOK_SECONDS = 0.25
PROOF_RATE = 1000
"""Messages a second by which a group shows that each of its devices is connected."""
AUTHENTICATION = ("refused with 4", "refused with 5", "hub not trusted")
"""A device was told that it is not who it says (return codes of MQTT 3.1.1, section 3.2.2.3), or doubted the hub."""


class Size(NamedTuple):
    """Devices of each node, how often each node dies, telemetry a second meanwhile, how many connect at a time when no
    node has died, seconds that are looked at in silence, and within which everybody must be back."""

    devices: int
    rounds: int
    rate: float
    at_once: int
    idle: float
    patience: float


FULL = Size(9_000, 1, 200, 64, KEEP_ALIVE, 400)
QUICK = Size(500, 1, 50, 64, 10, 120)


def all_there(told: dict[str, Any]) -> bool:
    """Whether all devices of a group are connected, by what it tells."""
    return bool(told["connected"] == told["devices"])


class Group:
    """Devices in a process of their own: a call of ``fleet_devices.Devices`` by its name."""

    def __init__(self, names: Sequence[str], home: int, nodes: Sequence[HubProcess], hostname: str) -> None:
        self.size = len(names)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.fleet_devices"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT,
        )  # fmt: skip
        self._say({
            "names": names, "home": home, "addresses": [node.address for node in nodes], "hostname": hostname,
            "port": nodes[0].port("mqtt"), "trust": nodes[0].facts["HUB_CA_FILE"], "source": loopback(), "seed": home,
        })  # fmt: skip

    def call(self, name: str, *values: float) -> Any:
        """What it answers."""
        return self._say([name, *values])

    def tell(self) -> dict[str, Any]:
        """See ``Devices.tell``."""
        told: dict[str, Any] = self.call("tell")
        return told

    def close(self) -> None:
        """End it, and with it its connections."""
        self._process.kill()
        self._process.communicate()

    def _say(self, line: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise PeerError("a process of devices has ended; see its message above")
        return json.loads(answer)


class Fleet:
    """The deployment and its devices. ``close`` it."""

    def __init__(
        self, directory: Path, size: Size, options: Sequence[str], cpu: Callable[[], dict[str, float]]
    ) -> None:
        """``options`` say where the nodes keep what they keep, ``cpu`` what that has cost so far."""
        self.size, self._cpu_of_stores = size, cpu
        hostname = loopback()
        self.nodes: list[HubProcess] = []
        self.groups: list[Group] = []
        self._ended = 0.0
        """Seconds of CPU of nodes that were killed."""
        self._dead: HubProcess | None = None
        try:
            for number in range(NODES):
                home = directory / f"node{number}"
                home.mkdir(parents=True)
                address = loopback()
                node = HubProcess(home, address, "--hostname", address, *options, hostname=hostname)
                self.nodes.append(node.start())
            devices = [Device(f"device-{number:05d}") for number in range(NODES * size.devices)]
            register(self.nodes[0], devices)
            for number in range(NODES):
                names = [device.name for device in devices[number::NODES]]
                self.groups.append(Group(names, number, self.nodes, hostname))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all processes."""
        for group in self.groups:
            group.close()
        for node in self.nodes:
            node.kill()

    def cpu(self) -> dict[str, float]:
        """Seconds so far, by component."""
        nodes = sum(machine.cpu_seconds(node.pid) for node in self.nodes if node is not self._dead)
        return {"nodes": self._ended + nodes, **self._cpu_of_stores()}

    @contextmanager
    def measured(self, result: Result, name: str) -> Iterator[None]:
        """Seconds of CPU of what happens inside, and how long it took."""
        before, begun = self.cpu(), time.perf_counter()
        yield
        result["seconds"] = time.perf_counter() - begun
        result[name] = {part: after - before[part] for part, after in self.cpu().items()}

    # --- what happens

    def arrive(self) -> Result:
        """All connect, some at a time; before, the nodes are looked at without them."""
        result: Result = {"before": [machine.resident_bytes(node.pid) for node in self.nodes]}
        with self.measured(result, "alone"):
            time.sleep(self.size.idle / 2)
        result["alone_seconds"] = result["seconds"]
        with self.measured(result, "cpu"):
            for group in self.groups:
                group.call("connect", self.size.at_once)
            self._wait("connected", self.groups, all_there)
        self._check(self.groups, lost=False)
        return result

    def rest(self) -> Result:
        """Nobody says anything but that he is there."""
        for group in self.groups:
            group.call("mark")
        result: Result = {}
        with self.measured(result, "cpu"):
            time.sleep(self.size.idle)
        told = [group.tell() for group in self.groups]
        self._check(self.groups, lost=False)
        result["pings"] = sum(one["counts"].get("pings", 0) for one in told)
        result["after"] = [machine.resident_bytes(node.pid) for node in self.nodes]
        return result

    def herd(self, victim: int) -> Result:
        """A node dies; its devices come back at the other, whose own send telemetry."""
        node, gone, others = self.nodes[victim], self.groups[victim], self.groups[1 - victim]
        for group in self.groups:
            group.call("mark")
        others.call("send", self.size.rate)
        time.sleep(1)
        result: Result = {}
        with self.measured(result, "cpu"):
            self._ended += machine.cpu_seconds(node.pid)
            node.kill()
            self._dead = node
            self._wait("back", [gone], lambda told: told["counts"].get("lost", 0) >= gone.size and all_there(told))
        result["counts"], result["back"] = gone.tell()["counts"], gone.call("times")["back"]
        result["acknowledged"] = self._end_of_sending(others)
        self._check([gone], lost=True)
        self._check([others], lost=False)
        self._prove(self.nodes[1 - victim])
        return result

    def go_home(self, victim: int) -> Result:
        """The node is there again, and its devices go there, some at a time."""
        self.nodes[victim].start()
        self._dead = None
        self.groups[victim].call("mark")
        result: Result = {}
        with self.measured(result, "cpu"):
            self.groups[victim].call("go_home", self.size.at_once)
            self._wait(
                "at home", [self.groups[victim]], lambda told: told["counts"].get("connects", 0) >= told["devices"]
            )
        self._check(self.groups, lost=False)
        return result

    # --- checks

    def _wait(self, what: str, groups: Sequence[Group], done: Callable[[dict[str, Any]], bool]) -> None:
        end = time.monotonic() + self.size.patience
        while not all(done(group.tell()) for group in groups):
            if time.monotonic() > end:
                seen = [(told["connected"], told["counts"]) for told in (group.tell() for group in self.groups)]
                raise PeerError(f"after {self.size.patience:.0f} s not all are {what}: {seen}")
            time.sleep(LOOK_SECONDS)

    def _end_of_sending(self, group: Group) -> list[float]:
        """How long the PUBACKs took."""
        group.call("send", 0)
        self._wait("acknowledged", [group], lambda told: told["waiting"] == 0)
        taken: list[float] = group.call("times")["acknowledged"]
        if not taken:
            raise PeerError("nobody sent anything while the others came back")
        return taken

    def _check(self, groups: Sequence[Group], *, lost: bool) -> None:
        """Nobody was told that he is not who he says; nobody lost his connection, unless his node died."""
        counts = sum((Counter(group.tell()["counts"]) for group in groups), Counter[str]())
        if any(counts[how] for how in AUTHENTICATION) or (counts["lost"] and not lost):
            raise PeerError(f"devices were refused, or lost their connection: {dict(counts)}")

    def _prove(self, node: HubProcess) -> None:
        """Every device has a connection that works, and the hub knows it."""
        for group in self.groups:
            group.call("mark")
            group.call("send", PROOF_RATE, group.size)
        self._wait("heard", self.groups, lambda told: told["counts"].get("acknowledged", 0) >= told["devices"])
        self._check(self.groups, lost=False)
        everybody, end = NODES * self.size.devices, time.monotonic() + 10
        while (seen := node.request("GET", "/statistics/service")[1]["connectedDeviceCount"]) != everybody:
            if time.monotonic() > end:
                raise PeerError(f"the hub says that {seen} of {everybody} devices are connected")
            time.sleep(LOOK_SECONDS)


# -- the report ------------------------------------------------------------------------------------------------------


def figures(fleet: Fleet, written: Callable[[], dict[str, int]]) -> dict[str, Any]:
    """Everything, in its order; ``written`` is what PostgreSQL has done."""
    size, before = fleet.size, written()
    arrived = fleet.arrive()
    time.sleep(2)  # PostgreSQL counts late
    arrived["written"] = {what: (count - before[what]) / NODES / size.devices for what, count in written().items()}
    say(f"{NODES * size.devices:,} devices connected in {arrived['seconds']:.0f} s")
    rest = fleet.rest()
    grown = [after - before for before, after in zip(arrived["before"], rest["after"], strict=True)]
    say(f"an idle connection takes {statistics.mean(grown) / size.devices / 1024:.1f} KiB")
    herds, homes = [], []
    for number in range(NODES * size.rounds):
        herds.append(herd := fleet.herd(number % NODES))
        say(f"node {number % NODES} died: all back in {herd['seconds']:.0f} s, {herd['counts']}")
        homes.append(fleet.go_home(number % NODES))
    return {"arrived": arrived, "rest": rest, "herds": herds, "homes": homes, "kib": [one / 1024 for one in grown]}


def make_report(found: dict[str, Any], size: Size) -> dict[str, Any]:
    """What a reader, and ``bench.capacity``, wants to know of it."""
    herds, counts = found["herds"], Counter[str]()
    rest, alone = found["rest"], found["arrived"]["alone"]
    unused = {part: spent / found["arrived"]["alone_seconds"] * 6e4 for part, spent in alone.items()}
    for herd in herds:
        counts.update(herd["counts"])
    acknowledged = [seconds for herd in herds for seconds in herd["acknowledged"]]
    return {
        "devices": NODES * size.devices, "herds": len(herds), "keep_alive": KEEP_ALIVE,
        "kib_per_connection": sum(found["kib"]) / NODES / size.devices,
        "pings": rest["pings"], "written_a_connect": found["arrived"]["written"],
        "unused_ms_a_minute": unused,
        "cpu_ms": {
            "connect": each([found["arrived"]["cpu"]], NODES * size.devices),
            "connect in a herd": each([herd["cpu"] for herd in herds], size.devices),
            "connect anew at another node": each([home["cpu"] for home in found["homes"]], size.devices),
            "minute of an idle connection": {
                part: (spent / rest["seconds"] * 6e4 - unused[part]) / NODES / size.devices
                for part, spent in rest["cpu"].items()
            },
        },
        "back": spread([seconds for herd in herds for seconds in herd["back"]]),
        "all_back_seconds": [herd["seconds"] for herd in herds],
        "counts": dict(counts),
        "telemetry": {"acknowledged": len(acknowledged), "seconds": spread(acknowledged)},
    }  # fmt: skip


def each(spent: Sequence[dict[str, float]], devices: int) -> dict[str, float]:
    """Milliseconds a device, by component; the median of several."""
    return {part: statistics.median(one[part] for one in spent) / devices * 1e3 for part in spent[0]}


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the most."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {"p50": ordered[last // 2], "p99": ordered[round(last * 0.99)], "most": ordered[-1]}


def to_markdown(made: dict[str, Any], facts: dict[str, str | int | float], command: str) -> str:
    """The report."""
    described = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    per_node, counts, back = made["devices"] // NODES, made["counts"], made["back"]
    refused = {how: count for how, count in counts.items() if how not in ("connects", "lost", "pings")}
    parts = list(made["unused_ms_a_minute"])
    sent, waited = made["telemetry"], made["telemetry"]["seconds"]
    lines = [
        f"# A fleet of {made['devices']:,} on two nodes, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "",
        f"`{command}` on {described}.", "",
        f"{per_node:,} devices on each of two nodes, MQTT over TLS with SAS tokens, PINGREQ each {KEEP_ALIVE} s; one",
        "PostgreSQL and one NATS server, all on this machine together with the devices: seconds are information only.",
        "", f"An idle connection takes {made['kib_per_connection']:.1f} KiB of a node. A node was killed",
        f"{made['herds']} times: each time all {per_node:,} came back, none was told that he is not who he says, none",
        f"of the other node lost his connection, and {sent['acknowledged']:,} messages sent meanwhile were all",
        f"acknowledged (p50 {waited['p50'] * 1e3:.0f} ms, p99 {waited['p99'] * 1e3:.0f} ms, the slowest",
        f"{waited['most'] * 1e3:.0f} ms). After each herd every one of the {made['devices']:,} sent a message that was",
        "acknowledged.", "",
        f"A device was back after {back['p50']:.1f} s (p50), {back['p99']:.1f} s (p99), the last one after",
        f"{back['most']:.1f} s. Beside {counts['connects']:,} attempts that succeeded: "
        + (", ".join(f"{how} {count:,}" for how, count in sorted(refused.items())) or "none") + ".",
        "", "| CPU, ms | " + " | ".join(parts) + " | together |", "| --- |" + " --- |" * (len(parts) + 1),
    ]  # fmt: skip
    for name, cost in made["cpu_ms"].items():
        cells = [f"{cost[part]:.3f}" for part in parts]
        lines.append(f"| a {name} | {' | '.join(cells)} | {sum(cost.values()):.3f} |")
    wrote = made["written_a_connect"]
    lines += [
        "", f"A connect takes {wrote['transactions']:.2f} transactions of PostgreSQL, and its write-ahead log grows by",
        f"{wrote['wal_bytes']:,.0f} bytes.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.fleet", description="Measure a big fleet on two nodes.")
    parser.add_argument("--quick", action="store_true", help="1,000 devices; figures are not for quoting")
    quick = parser.parse_args().quick
    size = QUICK if quick else FULL
    machine.raise_file_limit(NODES * size.devices + BESIDE_CONNECTIONS)
    directory = BUILD / "fleet"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    stores = Shared(directory / "stores")
    try:
        fleet = Fleet(directory, size, stores.options, stores.cpu)
        try:
            made = make_report(figures(fleet, stores.written), size)
        finally:
            fleet.close()
    except PeerError as failed:
        say(f"failed: {failed}; the nodes' logs are in {directory}")
        return 1
    finally:
        stores.close()
    command = shlex.join(["python", "-m", "bench.fleet", *sys.argv[1:]])
    text = to_markdown(made, machine.describe(directory, **versions()), command)
    where, stem = (BUILD, "fleet") if quick else (ROOT / "docs" / "results", f"{datetime.now(UTC):%Y-%m-%d}-fleet")
    (where / f"{stem}.json").write_text(json.dumps(made, indent=1) + "\n")
    (where / f"{stem}.md").write_text(text)
    shutil.rmtree(directory)
    say(f"\n{text}\nwritten to {where / stem}.md and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
