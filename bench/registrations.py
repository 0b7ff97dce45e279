"""Measure what it costs to provision a device, beside a plain MQTT connect to the same hub, and where devices end up.

usage: python -m bench.registrations [--quick] [--again]

One hub process on one core with three hubs of different weights, the devices on the other. 10,000 devices that nobody
has heard of before register over MQTT through one group, each with the key derived for it: TLS, CONNECT, SUBSCRIBE, the
registration, the pause that the service asks for, the poll, DISCONNECT. A plain connect is TLS, CONNECT, the same
pause, DISCONNECT, by the same clients in the same number and in turn with them, so that both leave the core as idle.
CPU is user and system time of the hub's process. The time to *assigned* is a device's from its first packet to the
answer, without the pauses that it was asked for.

Then all of them register again, and after a third of them the heaviest hub is removed with all that it has. Whoever was
told of it by then registers once more, as a device does that its hub does not know. In the end each device must be
in one hub, the one that it was told.

The full run takes five minutes and writes docs/results/DATE-registrations.{json,md}. One that was stopped goes on with
the thousand devices that it was at; `--again` forgets it.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import uvloop

from bench import machine
from bench.journal import ROOT, Journal, source_digest
from bench.measure import Result
from bench.peers import LightDevice, PeerError
from bench.run import say
from bench.servers import BUILD, HOST, Accounts, Device, Muster
from muster.identity.sas import decode_key, make
from muster.provisioning.attestation.symmetric_key import derive

BAR = 4.0
REGISTER, CONNECT, UNLINKED = "registration", "plain connect", "hub removed"
GROUP, KEY = "bench", base64.b64encode(hashlib.sha256(b"bench group").digest()).decode()
HUBS = {"second": "second.example", "third": "third.example"}
WEIGHTS = {HOST: 1, HUBS["second"]: 2, HUBS["third"]: 3}
REMOVED = "third"
ANSWER = re.compile(rb"\$dps/registrations/res/(\d{3})/\?\$rid=\d+(?:&retry-after=(\d+))?")
ASK = "$dps/registrations/PUT/iotdps-register/?$rid=1"
POLL = "$dps/registrations/GET/iotdps-get-operationstatus/?$rid={rid}&operationId={operation}"
PAUSE = 2
"""Seconds: what the service asks for, and how long a plain connect stays."""
TOO_FAR = 13.8
"""Chi-square with two degrees of freedom: by chance one fair spread in a thousand is above it."""


T = TypeVar("T")
R = TypeVar("R")


class Size(NamedTuple):
    """So many rounds of so many devices, of which so many are under way."""

    rounds: int
    devices: int
    at_once: int

    def names(self, number: int) -> list[str]:
        """The devices of a round, from 1 on."""
        return [f"reg-{(number - 1) * self.devices + one:05d}" for one in range(self.devices)]


FULL, QUICK = Size(10, 1000, 300), Size(3, 200, 100)


class Assigned(NamedTuple):
    """What a device was told: its hub, empty if it failed; how often it polled, how long it took besides the pauses."""

    hub: str
    polls: int
    seconds: float


class ProvisioningMuster(Muster):
    """The hub with two more, their weights and a group of devices."""

    def _register(self) -> None:
        super()._register()
        group = {"type": "symmetricKey", "symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}
        self.service("PUT", f"/enrollmentGroups/{GROUP}", {"enrollmentGroupId": GROUP, "attestation": group})
        self.link()

    def link(self) -> None:
        """Add the hubs that are not there, and set the weights."""
        there = {str(hub["name"]) for hub in self.hubs()}
        for name, host in HUBS.items():
            if name not in there:
                status, answer = self.hub.request("PUT", f"/$muster/hubs/{name}", {"hostNames": [host]})
                if status != 201:
                    raise PeerError(f"the hub {name} could not be added: {status} {answer}")
        weights = [{"name": host, "allocationWeight": weight} for host, weight in WEIGHTS.items()]
        self.service("PATCH", "/$muster/provisioning/allocation", {"iotHubs": weights})

    def hubs(self) -> Sequence[dict[str, Any]]:
        """What the deployment says of its hubs."""
        hubs: Sequence[dict[str, Any]] = self.hub.request("GET", "/$muster/hubs")[1]["hubs"]
        return hubs

    def remove(self) -> None:
        """Remove the heaviest hub with all that it has."""
        status, answer = self.hub.request("DELETE", f"/$muster/hubs/{REMOVED}")
        if status != 204:
            raise PeerError(f"the hub could not be removed: {status} {answer}")

    def service(self, method: str, path: str, body: object) -> None:
        """A call as the provisioning service's owner."""
        parts = dict(part.split("=", 1) for part in self.hub.facts["DPS_CONNECTION_STRING"].split(";"))
        token = self.hub.token("", parts["SharedAccessKey"], parts["SharedAccessKeyName"])
        status, answer = self.hub.request(method, path, body, Authorization=token)
        if status != 200:
            raise PeerError(f"{method} {path} was answered {status} {answer}")

    @property
    def scope(self) -> str:
        """The id scope."""
        return str(self.hub.facts["DPS_ID_SCOPE"])

    def where(self) -> dict[str, list[str]]:
        """In which hubs, by host name, each device is that has registered, as the database has it."""
        hosts = {str(hub["name"]): str(hub["hostNames"][0]) for hub in self.hubs()}
        found: dict[str, list[str]] = {}
        rows = "SELECT device_id, hub FROM identities WHERE device_id BETWEEN 'reg-' AND 'reg-~'"
        connection = sqlite3.connect(f"file:{self.directory / 'data' / 'hub.db'}?mode=ro", uri=True)
        try:
            for name, hub in connection.execute(rows):
                found.setdefault(name, []).append(hosts.get(hub, hub))
        finally:
            connection.close()
        return found


class Devices:
    """The light clients."""

    def __init__(self, hub: ProvisioningMuster) -> None:
        self._hub, self._trust, self._scope = hub, hub.hub.trust(), hub.scope

    async def register(self, name: str) -> Assigned:
        """Register as the SDKs do, to the end."""
        key = decode_key(derive(KEY, name))
        assert key is not None
        token = make(f"{self._scope}/registrations/{name}", self._hub.accounts.expiry, key, "registration")
        user = f"{self._scope}/registrations/{name}/api-version=2019-03-31"
        start, paused, polls = time.perf_counter(), 0.0, 0
        device = await LightDevice.open(self._hub.port, self._trust, name, user, token)
        await device.subscribe("$dps/registrations/res/#")
        status, later, body = _read(*await device.ask(ASK))
        while status == 202:
            paused += later
            await asyncio.sleep(later)
            polls += 1
            status, later, body = _read(*await device.ask(POLL.format(rid=polls + 1, operation=body["operationId"])))
        taken = time.perf_counter() - start - paused
        device.close()
        if status != 200:
            raise PeerError(f"{name} was answered {status} {body}")
        return Assigned(str(body["registrationState"].get("assignedHub", "")), polls, taken)

    async def connect(self, device: Device) -> None:
        """Connect, stay as long as a device that registers, and go."""
        token = device.token(self._hub.accounts.expiry)
        opened = await LightDevice.open(self._hub.port, self._trust, device.name, device.user, token)
        await asyncio.sleep(PAUSE)
        opened.close()


def _read(topic: bytes, payload: bytes) -> tuple[int, int, Any]:
    found = ANSWER.match(topic)
    if found is None:
        raise PeerError(f"an answer came to {topic!r}")
    return int(found[1]), int(found[2] or 0), json.loads(payload)


async def all_of(at_once: int, things: Iterable[T], call: Callable[[T], Awaitable[R]]) -> list[R]:
    """The results of ``call`` in the order of ``things``, so many under way."""
    results: dict[int, R] = {}
    left = iter(enumerate(things))

    async def worker(number: int) -> None:
        await asyncio.sleep(PAUSE * number / at_once)  # else all would come at the same moment, again and again
        for place, thing in left:
            results[place] = await call(thing)

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(worker(number))
    return [results[place] for place in sorted(results)]


class Run:
    """One run over all rounds."""

    def __init__(self, hub: ProvisioningMuster, journal: Journal, size: Size) -> None:
        self.hub, self.journal, self.size = hub, journal, size
        self.hosts = list(WEIGHTS)

    def all(self) -> None:
        """Everything that is not in the journal yet."""
        for number in range(1, self.size.rounds + 1):
            self.journal.once(CONNECT, self.hub.name, number, self.connects)
            self.journal.once(REGISTER, self.hub.name, number, partial(self.registrations, number))
            both = [self.journal.of(what, self.hub.name)[number - 1]["us"] for what in (CONNECT, REGISTER)]
            say(f"round {number}  µs: {CONNECT} {both[0]:.0f}, {REGISTER} {both[1]:.0f}")
        self.journal.once(UNLINKED, self.hub.name, 1, self.unlinked)

    def connects(self) -> Result:
        """A round of plain connects."""
        devices = self.hub.accounts.devices
        before = machine.cpu_seconds(self.hub.pid)
        go(lambda: all_of(self.size.at_once, devices, Devices(self.hub).connect))
        return {"us": (machine.cpu_seconds(self.hub.pid) - before) / len(devices) * 1e6}

    def registrations(self, number: int) -> Result:
        """A round of devices that register for the first time."""
        names = self.size.names(number)
        before, start = machine.cpu_seconds(self.hub.pid), time.perf_counter()
        told = go(lambda: all_of(self.size.at_once, names, Devices(self.hub).register))
        used, seconds = machine.cpu_seconds(self.hub.pid) - before, time.perf_counter() - start
        check_places(dict(zip(names, (one.hub for one in told), strict=True)), self.hub.where())
        return {
            "us": used / len(names) * 1e6, "per_s": len(names) / seconds, "busy": used / seconds,
            "polls": sum(one.polls for one in told) / len(told),
            "hubs": [sum(one.hub == host for one in told) for host in self.hosts],
            "ms": [round(one.seconds * 1e3, 2) for one in told],
        }  # fmt: skip

    def unlinked(self) -> Result:
        """All register again while a hub is removed."""
        self.hub.link()
        names = [name for number in range(1, self.size.rounds + 1) for name in self.size.names(number)]
        host = HUBS[REMOVED]
        told: dict[str, str] = {}
        failed = moved = 0
        due, removed = asyncio.Event(), asyncio.Event()

        async def register(devices: Devices, name: str) -> None:
            nonlocal failed, moved
            while True:
                told[name] = (await devices.register(name)).hub
                if len(told) > len(names) / 3:
                    due.set()
                if not told[name]:
                    failed += 1
                elif removed.is_set() and told[name] == host:
                    moved += 1  # its hub is no more: it registers once more
                else:
                    break

        async def remove() -> None:
            await due.wait()
            await asyncio.to_thread(self.hub.remove)
            removed.set()

        async def both() -> int:
            devices = Devices(self.hub)
            await asyncio.gather(all_of(self.size.at_once, names, partial(register, devices)), remove())
            lost = [name for name in names if told[name] == host]
            await all_of(self.size.at_once, lost, partial(register, devices))
            return len(lost)

        lost = go(both)
        check_places(told, self.hub.where())
        places = Counter(told.values())
        return {
            "devices": len(names), "told_before": lost, "told_meanwhile": moved, "failed": failed,
            "hubs": [places[one] for one in self.hosts],
        }  # fmt: skip


def go(call: Callable[[], Awaitable[R]]) -> R:
    """Run it on the load's core."""

    async def main() -> R:
        return await call()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def check_places(told: dict[str, str], found: dict[str, list[str]]) -> None:
    """Every device must be in one hub, the one that it was told. Raises ``PeerError``."""
    wrong = {name: (hub, found.get(name, [])) for name, hub in told.items() if found.get(name) != [hub]}
    if wrong:
        raise PeerError(f"{len(wrong)} devices are not where they were told, as {list(wrong.items())[:5]}")


def chi_square(counts: Sequence[int], weights: Sequence[int]) -> float:
    """How far ``counts`` are from what ``weights`` ask for."""
    expected = [sum(counts) * weight / sum(weights) for weight in weights]
    return sum((one - wanted) ** 2 / wanted for one, wanted in zip(counts, expected, strict=True))


def make_report(journal: Journal, name: str) -> dict[str, Any]:
    """Everything that was measured, summed up."""
    rounds, base = journal.of(REGISTER, name), journal.of(CONNECT, name)
    ratios = [one["us"] / other["us"] for one, other in zip(rounds, base, strict=True)]
    taken = sorted(one for result in rounds for one in result["ms"])
    counts = [sum(column) for column in zip(*(result["hubs"] for result in rounds), strict=True)]
    return {
        "rounds": [{key: value for key, value in one.items() if key != "ms"} for one in rounds],
        "connects": base, "ratio": statistics.median(ratios), "ratios": ratios, "devices": len(taken),
        "p50_ms": statistics.median(taken), "p99_ms": taken[int(len(taken) * 0.99)], "most_ms": taken[-1],
        "weights": WEIGHTS, "counts": counts, "chi_square": chi_square(counts, list(WEIGHTS.values())),
        "removed": journal.of(UNLINKED, name)[0],
    }  # fmt: skip


def to_markdown(made: dict[str, Any], facts: dict[str, str | int | float], command: str) -> str:
    """The report."""
    described = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    devices, removed, rounds = made["devices"], made["removed"], made["rounds"]
    bar = f"≤ {BAR:.0f}: {'met' if made['ratio'] <= BAR else '**missed**'}"
    polls, ratios = statistics.fmean(one["polls"] for one in rounds), made["ratios"]
    busy = 100 * statistics.median(one["busy"] for one in rounds)
    lines = [
        f"# Registrations, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", f"`{command}` on {described}.", "",
        f"{devices:,} devices through one group in {len(rounds)} rounds, each beside a round of plain connects;",
        "medians (least-most), the ratio that of the ratios of each round.", "",
        "| | CPU of the hub, µs | to a plain connect | asked |", "| --- | --- | --- | --- |",
        f"| {CONNECT}, with TLS | {_spread(made['connects'], 'us')} | | |",
        f"| {REGISTER}, with TLS and {polls:.3f} polls | {_spread(rounds, 'us')} "
        f"| {made['ratio']:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {bar} |", "",
        f"Time to `assigned` without the pauses asked for: p50 {made['p50_ms']:.1f} ms, p99 {made['p99_ms']:.1f} ms,",
        f"at most {made['most_ms']:.1f} ms. {_spread(rounds, 'per_s')} a second took {busy:.0f} % of a core.", "",
        "| hub | weight | devices | expected | after the third was removed |", "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    total = sum(WEIGHTS.values())
    for host, count, after in zip(WEIGHTS, made["counts"], removed["hubs"], strict=True):
        lines.append(f"| {host} | {WEIGHTS[host]} | {count:,} | {devices * WEIGHTS[host] / total:,.0f} | {after:,} |")
    fair = f"≤ {TOO_FAR}: {'met' if made['chi_square'] <= TOO_FAR else '**missed**'}"
    lines += [
        "", f"Chi-square of the spread: {made['chi_square']:.2f} ({fair}). After each round every device was",
        "in one hub, the one that it was told.", "",
        f"The hub removed: all {removed['devices']:,} registered again, and a third of the way `{HUBS[REMOVED]}` was",
        f"removed. {removed['told_before']:,} had been told of it before and registered once more, "
        f"{removed['told_meanwhile']:,} heard of it",
        f"just after its end and did so too, {removed['failed']:,} heard `failed`. None was lost, none is in two hubs.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _spread(results: Sequence[Result], figure: str) -> str:
    values = [one[figure] for one in results]
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.registrations", description="Measure registrations.")
    parser.add_argument("--quick", action="store_true", help="three small rounds; figures are not for quoting")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run that was stopped measured")
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else FULL
    machine.raise_file_limit(4 * size.at_once)
    directory = BUILD / f"registrations-{'quick' if chosen.quick else 'full'}-{source_digest()}"
    if chosen.again:
        shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
    hub = ProvisioningMuster(
        directory, Accounts(directory, [Device(f"device-{number:05d}") for number in range(size.devices)])
    )
    journal = Journal(directory / "journal.jsonl")
    hub.start()
    try:
        os.sched_setaffinity(0, {machine.LOAD_CORE})
        Run(hub, journal, size).all()
    finally:
        hub.stop()
    made = make_report(journal, hub.name)
    options = "".join(f" --{name}" for name in ("quick", "again") if getattr(chosen, name))
    text = to_markdown(made, machine.describe(directory), f"python -m bench.registrations{options}")
    where: Path = BUILD if chosen.quick else ROOT / "docs" / "results"
    stem = "registrations" if chosen.quick else f"{datetime.now(UTC):%Y-%m-%d}-registrations"
    (where / f"{stem}.json").write_text(json.dumps(made, indent=1) + "\n")
    (where / f"{stem}.md").write_text(text)
    shutil.rmtree(directory)
    say(f"\n{text}\nwritten to {where / stem}.md and .json")


if __name__ == "__main__":
    main()
