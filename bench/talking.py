"""Measure what it costs to talk back: direct methods and desired properties, beside a message in of the same hub.

usage: python -m bench.talking [--quick]

One hub on one core, the clients on the other. A closed loop of 64 devices and 64 callers: each caller has one
request under way. A *method* is the POST, the request to the device, its answer and the answer to the caller; a change
of a *desired property* is the PATCH, its commit, the notification to the device and the answer. Both are held against
a QoS 1 publish with its PUBACK through the same server in the same round (mqload, 64 connections, window 1). A
*cloud-to-device message* goes in by one AMQP link, is on disk before it is accepted, and has arrived when the device
has it; its PUBACK ends it. CPU is user and system time of the hub's process. The full run takes three minutes and
writes docs/results/DATE-talking.{json,md}.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from bench import machine, measure
from bench.journal import ROOT
from bench.measure import FULL, Result
from bench.peers import DevicePeer, PeerError, SenderPeer, ServicePeer
from bench.run import build_programs, say
from bench.servers import BUILD, Accounts, Device, Muster

AT_ONCE = 64
BAR = 4.0
ROUNDS, SECONDS, WARM_UP = 6, 3.0, 0.5
BASE = "publish and PUBACK"
ASKED = ("direct method", "desired property")

FIGURES = {
    "us": "server_us_per_message", "per_s": "acks_per_s", "busy": "server_busy", "p50_ms": "p50_ms", "p99_ms": "p99_ms",
}  # fmt: skip
"""What this reports, by mqload's names."""

Exchange = Callable[[int], Awaitable[None]]
"""One round trip of the pair with this number."""


class Pairs:
    """64 devices, each with a caller of its own."""

    def __init__(self, hub: Muster, devices: list[Device]) -> None:
        self._hub, self._names = hub, devices
        self.devices: list[DevicePeer] = []
        self.services: list[ServicePeer] = []
        self._sender: SenderPeer | None = None
        self._told: list[asyncio.Event] = [asyncio.Event() for _ in devices]
        self._count = 0

    async def open(self) -> None:
        """Connect all."""
        hub, trust = self._hub.hub, self._hub.hub.trust()
        token = hub.owner_token()
        for device, told in zip(self._names, self._told, strict=True):
            peer = await DevicePeer.open(self._hub.port, trust, device, device.token(self._hub.accounts.expiry))
            peer.heard = lambda _topic, _payload, told=told: told.set()  # type: ignore[misc]
            self.devices.append(peer)
            self.services.append(await ServicePeer.open(hub.port("https"), trust, token))
        self._sender = await SenderPeer.open(hub.port("amqp"), trust, "iothubowner", token)

    async def method(self, number: int) -> None:
        """Call a method of the device, which answers at once."""
        path = f"/twins/{self._names[number].name}/methods"
        await self.services[number].call("POST", path, b'{"methodName":"reboot","payload":{"delay":5}}')

    async def twin(self, number: int) -> None:
        """Change a desired property; done when the caller has its answer and the device its notification."""
        self._count += 1
        told = self._told[number]
        told.clear()
        body = b'{"properties":{"desired":{"interval":%d}}}' % self._count
        await self.services[number].call("PATCH", f"/twins/{self._names[number].name}", body)
        await asyncio.wait_for(told.wait(), 30)

    async def message(self, number: int) -> None:
        """Send a message to the device; done when it has it."""
        assert self._sender is not None, "open goes first"
        told = self._told[number]
        told.clear()
        await self._sender.send(self._names[number].name, b"x" * 256)
        await asyncio.wait_for(told.wait(), 30)

    async def run(self, exchange: Exchange, seconds: float, warm_up: float) -> Result:
        """Have every pair exchange without a pause; what one exchange cost the hub, and how long it took."""
        began = time.perf_counter() + warm_up
        end = began + seconds
        taken: list[float] = []

        async def loop(number: int) -> None:
            while (start := time.perf_counter()) < end:
                await exchange(number)
                if began <= start and (now := time.perf_counter()) < end:
                    taken.append(now - start)

        async def clock() -> float:
            await asyncio.sleep(warm_up)
            before = machine.cpu_seconds(self._hub.pid)
            await asyncio.sleep(seconds)
            return machine.cpu_seconds(self._hub.pid) - before

        spent = asyncio.create_task(clock())
        await asyncio.gather(*map(loop, range(AT_ONCE)))
        used = await spent
        if any(device.lost for device in self.devices):
            raise PeerError("a device lost its connection")
        taken.sort()
        return {
            "us": used / len(taken) * 1e6, "per_s": len(taken) / seconds, "busy": used / seconds,
            "p50_ms": statistics.median(taken) * 1e3, "p99_ms": taken[int(len(taken) * 0.99)] * 1e3,
        }  # fmt: skip


async def rounds(hub: Muster, devices: list[Device], count: int, seconds: float) -> dict[str, list[Result]]:
    """All measurements, interleaved round by round."""
    pairs = Pairs(hub, devices)
    await pairs.open()
    scale = replace(FULL, seconds=seconds, warm_up=WARM_UP, connections=AT_ONCE)
    exchanges: dict[str, Exchange] = {
        "direct method": pairs.method,
        "desired property": pairs.twin,
        "cloud-to-device message": pairs.message,
    }
    results: dict[str, list[Result]] = {name: [] for name in (BASE, *exchanges)}
    for number in range(1, count + 1):
        base = await asyncio.to_thread(measure.window, hub, scale, 1)
        results[BASE].append({name: base[other] for name, other in FIGURES.items()})
        for name, exchange in exchanges.items():
            results[name].append(await pairs.run(exchange, seconds, WARM_UP))
        say(f"round {number}  " + ", ".join(f"{name} {taken[-1]['us']:.1f} µs" for name, taken in results.items()))
    return results


def to_markdown(results: dict[str, list[Result]], facts: dict[str, str | int | float]) -> str:
    """The report."""
    described = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
    lines = [
        f"# Talking back, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "",
        f"`python -m bench.talking` on {described}.", "",
        f"Medians of {len(results[BASE])} interleaved rounds (least-most); {AT_ONCE} devices, one exchange of each",
        "under way. Ratios are medians of the ratios of each round.", "",
        "| | CPU of the hub, µs | to a publish | asked | a second | p50, ms | p99, ms | hub's share of its core |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, taken in results.items():
        ratio = statistics.median(one["us"] / base["us"] for one, base in zip(taken, results[BASE], strict=True))
        asked = "" if name not in ASKED else f"≤ {BAR:.0f}: {'met' if ratio <= BAR else '**missed**'}"
        middle = {key: statistics.median(one[key] for one in taken) for key in taken[0]}
        least, most = min(one["us"] for one in taken), max(one["us"] for one in taken)
        lines.append(
            f"| {name} | {middle['us']:.1f} ({least:.1f}-{most:.1f}) | {ratio:.2f} | {asked} | {middle['per_s']:,.0f} "
            f"| {middle['p50_ms']:.2f} | {middle['p99_ms']:.2f} | {middle['busy']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.talking", description="Measure methods and desired properties.")
    parser.add_argument("--quick", action="store_true", help="two short rounds; figures are not for quoting")
    quick = parser.parse_args().quick
    machine.raise_file_limit(4 * AT_ONCE)
    build_programs()
    directory = BUILD / "talking"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    devices = [Device(f"device-{number:05d}") for number in range(2 * AT_ONCE)]
    accounts = Accounts(directory, devices[:AT_ONCE])  # those publish, the others talk back
    accounts.write()
    accounts.devices = devices
    hub = Muster(directory, accounts)
    hub.start()
    try:
        os.sched_setaffinity(0, {machine.LOAD_CORE})
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            results = runner.run(rounds(hub, devices[AT_ONCE:], 2 if quick else ROUNDS, 1 if quick else SECONDS))
    finally:
        hub.stop()
    text = to_markdown(results, machine.describe(directory))
    where: Path = BUILD if quick else ROOT / "docs" / "results"
    stem = "talking" if quick else f"{datetime.now(UTC):%Y-%m-%d}-talking"
    (where / f"{stem}.json").write_text(json.dumps(results, indent=1) + "\n")
    (where / f"{stem}.md").write_text(text)
    say(f"\n{text}\nwritten to {where / stem}.md and .json")


if __name__ == "__main__":
    main()
