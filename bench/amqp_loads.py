"""What ``bench.amqp`` measures: closed loops of telemetry, events delivered, a gateway; each with its check."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import uvloop

from bench import machine, measure
from bench.machine import LOAD_CORE, on_core
from bench.measure import CALL_SECONDS, LoadError, Result, check_messages, mqload
from bench.peers import SenderPeer
from bench.rabbitmq import RabbitMQ
from bench.servers import BUILD, HOST, Device, Minimal, Muster

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


def rest(server: Hub | RabbitMQ | Minimal) -> None:
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
        result |= read_all(server, f"enqueued-time > '{began}'", result["acked_total"])
    return result


def floor(server: Minimal, scale: Scale, load: Load) -> Result:
    """As many in flight on one connection, over MQTT."""
    rest(server)
    options = ["-n", "1", "-d", str(scale.seconds), "-W", str(scale.warm_up), "-w", str(load.window)]
    return mqload(server, replace(measure.FULL, payload=scale.payload), load.name, "pub", *options)


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
    return {"read_us": used / events * 1e6, "reads_per_s": events / taken}


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
        for phase in ("login", "telemetry", "devicebound"):
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
