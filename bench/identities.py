"""Measure a hub with many identities: how fast they are loaded, what they take, and whether the hub feels their number.

usage: python -m bench.identities [--quick] [--again] [--directory DIR] [--store postgres]

A hub in a process of its own is loaded by `muster import`, as anybody would, up to 10^4, 10^5, 10^6 and 5 * 10^6
devices, in the order of their ids as exports have them, each with two keys, two tags, a desired and a reported
property; `tags.building` has an index. At each size: what a line costs the hub, also of a file in no order; bytes of
the database for each; a device read over REST, one that was not read before and one that was; a connect over MQTT with
TLS and a SAS token; a query by the indexed property that finds twenty. Devices are chosen at random and only once, so
that neither the hub's memory of devices nor SQLite's pages help.

A second hub has 10^4 all the time, and each round of a measurement visits both, so that a machine that drifts, or that
others use, meets both alike: the ratio is the median of the rounds' ratios. CPU is user and system time of the hub's
process. The bar is issue 8's: a point read and a connect at 5 * 10^6 cost at most 1.5 times what they cost at 10^4.

A full run takes under an hour and up to 8 GB in DIR (default bench/build), and writes two plots and
docs/results/DATE-identities.{json,md}. One that was stopped goes on where it was, as long as hub and benchmark are the
same; `--again` forgets it. With `--store postgres` both hubs keep all in a PostgreSQL and a NATS server of their own,
whose CPU is counted as the hub's, and above 10^5 devices are put into the tables by SQL, as the import puts them; that
run begins anew, and the name of its results ends in -postgres.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import random
import shutil
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from bench import machine
from bench.journal import ROOT, Journal, source_digest
from bench.keeping import Embedded, Keeping, Shared
from bench.measure import Result
from bench.peers import LightDevice, PeerError
from bench.plot import svg
from bench.run import say
from bench.servers import BUILD, HOST
from muster.identity.sas import make
from muster.testing.hub import HubProcess

BAR = 1.5
FOUND = 20
FILLED_FROM = 100_000
"""More devices than that are put into a PostgreSQL by SQL."""
STEP = 250_000
"""Lines of an import that is measured by itself, and repeated when a run was stopped in its midst."""
BASE = 10_000
HELD_TO = ("read, first time", "connect")
SHOWN = ("read, first time", "read, again", "connect", "query by index")


class Size(NamedTuple):
    """The sizes, and how often what is asked in each of so many rounds."""

    sizes: tuple[int, ...]
    rounds: int
    reads: int
    connects: int
    queries: int
    strangers: int


FULL = Size((10_000, 100_000, 1_000_000, 5_000_000), 8, 300, 100, 60, 5_000)
QUICK = Size((10_000, 50_000), 2, 100, 30, 20, 500)


def key_of(name: str) -> bytes:
    """A device's key, made from its id."""
    return hashlib.sha256(f"bench {name}".encode()).digest()


def name_of(number: int) -> str:
    """A device's id; they are loaded in this order."""
    return f"device-{number:08d}"


def line_of(name: str, group: int) -> bytes:
    """The device as Azure exports one."""
    keys = [base64.b64encode(key).decode() for key in (key_of(name), key_of(name)[::-1])]
    stamp = '{"$lastUpdated":"2026-11-29T09:00:00.0000000Z"}'
    versioned = '"$lastUpdated":"2026-11-29T09:00:00.0000000Z","$lastUpdatedVersion":2'
    return (
        f'{{"id":"{name}","eTag":"MQ==","status":"enabled","statusReason":null,"authentication":{{"symmetricKey":'
        f'{{"primaryKey":"{keys[0]}","secondaryKey":"{keys[1]}"}},"x509Thumbprint":{{"primaryThumbprint":null,'
        f'"secondaryThumbprint":null}},"type":"sas"}},"capabilities":{{"iotEdge":false}},"tags":{{"building":"b{group}",'
        f'"floor":{group % 20}}},"properties":{{"desired":{{"interval":60,"$metadata":{{{versioned},"interval":'
        f'{{{versioned}}}}},"$version":2}},"reported":{{"firmware":"1.{group % 9}","$metadata":'
        f'{{{stamp[1:-1]},"firmware":{stamp}}},"$version":2}}}}}}\n'
    ).encode()


class Served:
    """A hub that is loaded and asked."""

    def __init__(self, directory: Path, seed: int, keeping: Keeping) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.keeping = keeping
        ports = [option for name in ("mqtt", "amqp", "https") for option in (f"--{name}-port", "0")]
        self.hub = HubProcess(directory, HOST, *ports, "--index", "tags.building", *keeping.options)
        with machine.on_core(machine.SERVER_CORE):
            self.hub.start()
        self.pid = int(self.hub.facts["pid"])
        self.count = self._counted()
        self._seed = seed
        self._fresh: Iterator[int] = iter(())
        self._warm: list[int] = []

    def cpu_seconds(self) -> float:
        """What it has used, with all that keeps for it."""
        return self.keeping.cpu_seconds(self.hub)

    def _counted(self) -> int:
        status, counts = self.hub.request("GET", "/statistics/devices")
        if status != 200:
            raise PeerError(f"the hub answered {status}")
        return int(counts["totalDeviceCount"])

    def load(self, lines: Iterator[bytes], count: int) -> Result:
        """Import ``lines``; what one costs."""
        data = str(self.hub.directory / "data")
        before, begun = self.cpu_seconds(), time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "muster", "import", "-", "--data", data, "--no-progress"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            for line in lines:
                process.stdin.write(line)
            process.stdin.close()
            said = process.stdout.read().decode()
        if process.returncode != 0:
            raise PeerError(f"the import ended with {process.returncode}: {said}")
        seconds, used = time.perf_counter() - begun, self.cpu_seconds() - before
        self.count = self._counted()
        return {"us": used / count * 1e6, "per_s": count / seconds, "said": said.strip()}

    def grow(self, first: int, last: int) -> Result:
        """Load the devices from ``first`` to before ``last``."""
        return self.load((line_of(name_of(number), number // FOUND) for number in range(first, last)), last - first)

    def fill(self, first: int, last: int) -> bool:
        """Put devices there without asking the hub, if that can be done."""
        filled = self.keeping.fill(first, last, FOUND)
        if filled:
            self.count = self._counted()
            say(f"{last:>9,} are there")
        return filled

    def strangers(self, size: int, count: int) -> Result:
        """Load devices whose ids lie anywhere between the others."""
        chance = random.Random(size)
        names = [f"{name_of(chance.randrange(size))}-{number}" for number in range(count)]
        return self.load((line_of(name, -size) for name in names), count)

    def export(self) -> Result:
        """Write all of them out; what one costs."""
        data = str(self.hub.directory / "data")
        before, begun, lines = self.cpu_seconds(), time.perf_counter(), 0
        command = [sys.executable, "-m", "muster", "export", "--data", data]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            while piece := process.stdout.read(1 << 20):
                lines += piece.count(b"\n")
        if process.returncode != 0 or lines != self.count:
            raise PeerError(f"the export of {self.count} ended with {process.returncode} and {lines} lines")
        used, seconds = self.cpu_seconds() - before, time.perf_counter() - begun
        return {"us": used / lines * 1e6, "per_s": lines / seconds}

    def choose(self, size: int) -> None:
        """From now on ask for devices of these, each once."""
        chance = random.Random(self._seed + size)
        self._fresh = iter(chance.sample(range(size), min(size, 10_000)))
        self._warm = chance.sample(range(size), 200)

    def next(self, count: int) -> list[int]:
        """Devices that were not asked for before; when all were, they come again behind many others."""
        found = [number for number, _ in zip(self._fresh, range(count), strict=False)]
        return found if len(found) == count else found + random.sample(range(BASE), count - len(found))

    # --- what is measured: each takes the hub's CPU for what it did, in µs

    async def reads(self, numbers: Sequence[int]) -> float:
        """Devices over REST, one after the other on one connection."""
        wire = await Wire.open(self.hub)
        before = self.cpu_seconds()
        for number in numbers:
            body = await wire.ask("GET", f"/devices/{name_of(number)}")
            if name_of(number).encode() not in body:
                raise PeerError(f"{number} was answered {body!r}")
        used = self.cpu_seconds() - before
        wire.close()
        return used / len(numbers) * 1e6

    async def warm_reads(self, count: int) -> float:
        """The same of two hundred devices that have just been read."""
        await self.reads(self._warm)
        return await self.reads([self._warm[number % len(self._warm)] for number in range(count)])

    async def connects(self, numbers: Sequence[int], taken: list[float]) -> float:
        """TLS, CONNECT, CONNACK and the end of it, one after the other."""
        trust, port = self.hub.trust(), self.hub.port("mqtt")
        expiry = int(time.time()) + 3600
        logins = [
            (name_of(one), make(f"{HOST}/devices/{name_of(one)}", expiry, key_of(name_of(one)))) for one in numbers
        ]
        before = self.cpu_seconds()
        for name, token in logins:
            begun = time.perf_counter()
            device = await LightDevice.open(port, trust, name, f"{HOST}/{name}/?api-version=2021-04-12", token)
            taken.append((time.perf_counter() - begun) * 1e3)
            device.close()
        return (self.cpu_seconds() - before) / len(logins) * 1e6

    async def queries(self, numbers: Sequence[int]) -> float:
        """Twenty twins by the indexed property."""
        wire = await Wire.open(self.hub)
        before = self.cpu_seconds()
        for number in numbers:
            text = f"SELECT * FROM devices WHERE tags.building = 'b{number // FOUND}'"
            found = json.loads(await wire.ask("POST", "/devices/query", json.dumps({"query": text}).encode()))
            if len(found) != FOUND:
                raise PeerError(f"{text} found {len(found)}")
        used = self.cpu_seconds() - before
        wire.close()
        return used / len(numbers) * 1e6

    def bytes_each(self) -> float:
        """Of the database, the write-ahead log left out."""
        return self.keeping.identity_bytes(self.hub) / self.count

    def resident_mib(self) -> float:
        """The process's resident memory."""
        return machine.resident_bytes(self.pid) / 2**20


class Wire:
    """One connection for REST calls one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, token: str) -> None:
        self._reader, self._writer, self._token = reader, writer, token

    @classmethod
    async def open(cls, hub: HubProcess) -> Wire:
        """Connect as the owner."""
        trust: ssl.SSLContext = hub.trust()
        return cls(*await asyncio.open_connection(HOST, hub.port("https"), ssl=trust), hub.owner_token())

    async def ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        """The body of an answer with 200."""
        head = f"{method} {path}?api-version=2021-04-12 HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: {self._token}\r\n"
        sent = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self._writer.write(f"{head}{sent}\r\n".encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        if b" 200 " not in lines[0]:
            raise PeerError(f"{method} {path} was answered {lines[0]!r}")
        (length,) = [int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length")]
        return await self._reader.readexactly(length)

    def close(self) -> None:
        """End the connection."""
        self._writer.close()


class Run:
    """One run over all sizes."""

    def __init__(self, grown: Served, base: Served, journal: Journal, size: Size) -> None:
        self.grown, self.base, self.journal, self.size = grown, base, journal, size

    def all(self) -> None:
        """Everything that is not in the journal yet."""
        if self.base.count < BASE:
            self.base.grow(0, BASE)
        for before, size in zip([0, *self.size.sizes], self.size.sizes, strict=False):
            filled = size > FILLED_FROM and self.grown.fill(before, size)
            for first, last in [] if filled else _steps(before, size):
                if not self.journal.holds("load", "grown", last):
                    result = self.journal.once("load", "grown", last, partial(self.grown.grow, first, last))
                    say(f"{last:>9,} loaded: {result['us']:.0f} µs of the hub each, {result['per_s']:,.0f} a second")
            strangers = partial(self.grown.strangers, size, self.size.strangers)
            self.journal.once("load in no order", "grown", size, strangers)
            figures = self.journal.once("figures", "grown", size, partial(self.figures, size))
            told = ", ".join(f"{name} {_ratio(figures, name):.2f}" for name in SHOWN)
            say(f"{size:>9,}: {figures['bytes']:.0f} bytes each; to 10,000: {told}")
        self.journal.once("export", "grown", self.size.sizes[-1], self.grown.export)

    def figures(self, size: int) -> Result:
        """All that is asked at this size; a list of rounds for each, µs here and at the hub with 10^4."""
        self.grown.choose(size)
        self.base.choose(BASE)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in SHOWN}
        taken: list[float] = []
        count = self.size
        for number in range(count.rounds + 1):  # the first shows the way: pages, caches, code
            ask: dict[str, Callable[[Served], Awaitable[float]]] = {
                "read, first time": lambda hub: hub.reads(hub.next(count.reads)),
                "read, again": lambda hub: hub.warm_reads(count.reads),
                "connect": lambda hub: hub.connects(hub.next(count.connects), taken if hub is self.grown else []),
                "query by index": lambda hub: hub.queries(hub.next(count.queries)),
            }
            for name, call in ask.items():
                order = (self.grown, self.base) if number % 2 else (self.base, self.grown)
                spent = {hub: go(partial(call, hub)) for hub in order}
                if number:
                    found[name].append((spent[self.grown], spent[self.base]))
        taken.sort()
        return {
            **found, "bytes": self.grown.bytes_each(), "resident_mib": self.grown.resident_mib(),
            "connect_ms": [statistics.median(taken), taken[int(len(taken) * 0.99)]],
        }  # fmt: skip


def go(call: Callable[[], Awaitable[float]]) -> float:
    """Run it in a loop of its own."""

    async def main() -> float:
        return await call()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _ratio(figures: Result, name: str) -> float:
    rounds: list[list[float]] = figures[name]
    return statistics.median(here / there for here, there in rounds)


def make_report(journal: Journal, size: Size, store: str) -> dict[str, Any]:
    """Everything that was measured, summed up."""
    figures = dict(zip(size.sizes, journal.of("figures", "grown"), strict=True))
    steps = journal.of("load", "grown")
    return {
        "store": store, "sizes": list(size.sizes), "figures": list(figures.values()), "steps": steps,
        "no_order": journal.of("load in no order", "grown"),
        "export": journal.of("export", "grown")[0],
        "load_us": statistics.mean(one["us"] for one in steps), "load_last_us": steps[-1]["us"],
        "ratios": {name: [_ratio(one, name) for one in figures.values()] for name in SHOWN},
    }  # fmt: skip


def to_markdown(made: dict[str, Any], facts: dict[str, str | int | float], command: str, stem: str) -> str:
    """The report."""
    described = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    lines = [
        f"# Many identities in {made['store']}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "",
        f"`{command}` on {described}.", "",
        "Medians of the rounds; µs are CPU of the hub; ratios are to a hub with 10,000 beside it, round by",
        "round.",
        "", "| | " + " | ".join(f"{size:,}" for size in made["sizes"]) + " |",
        "| --- |" + " --- |" * len(made["sizes"]),
    ]  # fmt: skip

    def row(name: str, cells: Sequence[str]) -> None:
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    row("bytes of the database for each", [f"{one['bytes']:.0f}" for one in made["figures"]])
    row("load in no order, µs each", [f"{one['us']:.0f}" for one in made["no_order"]])
    for name in SHOWN:
        row(f"{name}, µs", [f"{statistics.median(here for here, _ in one[name]):,.0f}" for one in made["figures"]])
        row("... to 10,000", [f"{ratio:.2f}" for ratio in made["ratios"][name]])
    row("connect, ms p50 (p99)", ["{:.1f} ({:.1f})".format(*one["connect_ms"]) for one in made["figures"]])
    row("resident memory, MiB", [f"{one['resident_mib']:.0f}" for one in made["figures"]])
    most = made["sizes"][-1]
    lines += ["", f"Point reads and connects at {most:,}, of what they cost at 10,000 (asked: at most {BAR}):"]
    for name in HELD_TO:
        ratio = made["ratios"][name][-1]
        lines.append(f"{name} {ratio:.2f}, {'met' if ratio <= BAR else '**missed**'};")
    rates = [one["per_s"] for one in made["steps"]]
    lines += [
        "", f"`muster import` in the order of ids: {made['load_us']:.0f} µs of the hub's CPU for each identity over",
        f"all steps of at most {STEP:,}, {made['load_last_us']:.0f} in the last one; {statistics.median(rates):,.0f}",
        f"a second ({min(rates):,.0f} to {max(rates):,.0f}). `muster export` of all: {made['export']['us']:.0f} µs",
        f"each, {made['export']['per_s']:,.0f} a second.", "",
        f"![cost by size]({stem}-cost.svg)", "",
        f"![load by size]({stem}-load.svg)",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def plots(made: dict[str, Any]) -> dict[str, str]:
    """By the end of their names: what things cost, and what a load does, over the number of identities."""
    sizes = made["sizes"]
    ends = [last for before, size in zip([0, *sizes], sizes, strict=False) for _, last in _steps(before, size)]
    load = [one["us"] for end, one in zip(ends, made["steps"], strict=False) if end in sizes]
    return {
        "cost": svg("CPU to what it is with 10,000 identities", "ratio", sizes, made["ratios"], BAR),
        "load": svg("CPU of the hub to load an identity", "µs", sizes[: len(load)], {
            "in the order of ids": load, "in no order": [one["us"] for one in made["no_order"]][: len(load)],
        }),
    }  # fmt: skip


def _steps(first: int, last: int) -> list[tuple[int, int]]:
    """The steps of loading: from which device to before which."""
    return [(at, min(at + STEP, last)) for at in range(first, last, STEP)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.identities", description="Measure a hub with many identities.")
    parser.add_argument("--quick", action="store_true", help="up to 50,000; figures are not for quoting")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run that was stopped measured")
    parser.add_argument("--directory", type=Path, default=BUILD, help="where there is room for the databases")
    parser.add_argument("--store", choices=["sqlite", "postgres"], default="sqlite", help="what keeps the identities")
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else FULL
    name = f"identities-{chosen.store}-{'quick' if chosen.quick else 'full'}"
    directory: Path = chosen.directory / f"{name}-{source_digest()}"
    if chosen.again or chosen.store == "postgres":
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    journal = Journal(directory / "journal.jsonl")
    kept: list[Keeping] = []
    served: list[Served] = []
    try:
        for seed, name in enumerate(("grown", "base")):
            with machine.on_core(machine.SERVER_CORE):
                kept.append(Shared(directory / name) if chosen.store == "postgres" else Embedded())
            served.append(Served(directory / name, seed, kept[-1]))
        os.sched_setaffinity(0, {machine.LOAD_CORE})
        grown, base = served
        Run(grown, base, journal, size).all()
    finally:
        for one in served:
            one.hub.stop()
        for keeping in kept:
            keeping.close()
    made = make_report(journal, size, {"sqlite": "SQLite", "postgres": "PostgreSQL"}[chosen.store])
    where: Path = BUILD if chosen.quick else ROOT / "docs" / "results"
    where.mkdir(exist_ok=True)
    stem = "identities" if chosen.quick else f"{datetime.now(UTC):%Y-%m-%d}-identities"
    command = f"python -m bench.identities{' --quick' if chosen.quick else ''}"
    if chosen.store == "postgres":
        stem, command = f"{stem}-postgres", f"{command} --store postgres"
    text = to_markdown(made, machine.describe(directory), command, stem)
    (where / f"{stem}.json").write_text(json.dumps(made, indent=1) + "\n")
    (where / f"{stem}.md").write_text(text)
    for name, plot in plots(made).items():
        (where / f"{stem}-{name}.svg").write_text(plot)
    shutil.rmtree(directory)
    say(f"\n{text}\nwritten to {where / stem}.md, .json and two plots")


if __name__ == "__main__":
    main()
