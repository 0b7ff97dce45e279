"""The measurements: what is asked of each server, one call of mqload each."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import LOAD_CORE, on_core
from bench.servers import BUILD, Server

TOPIC = "devices/{id}/messages/events/%24.ct=application%2Fjson&%24.ce=utf-8&level=normal&run=bench"
CALL_SECONDS = 120

Result = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How much of everything: the full benchmark, or the quick look that only shows that it works."""

    rounds: int
    seconds: float
    warm_up: float
    connections: int
    idle_connections: int
    latency_rounds: int
    payload: int = 256
    at_once: int = 64

    @property
    def devices(self) -> int:
        """How many accounts that takes."""
        return max(self.connections, self.idle_connections)


FULL = Scale(rounds=6, seconds=3, warm_up=1.5, connections=1000, idle_connections=5000, latency_rounds=3)
QUICK = Scale(rounds=1, seconds=1, warm_up=0.5, connections=200, idle_connections=500, latency_rounds=1)


class LoadError(RuntimeError):
    """mqload could not measure, or what it measured cannot be trusted."""


def mqload(
    server: Server, scale: Scale, label: str, mode: str, *options: str, identities: Path | None = None
) -> Result:
    """Run the load generator on its core against a server and return its figures.

    Raises:
        LoadError: connections or messages were lost, or nothing could be measured.
    """
    command = [
        str(BUILD / "mqload"), "-m", mode, "-p", str(server.port), "-L", label,
        *(option for pid in server.pids for option in ("-P", str(pid))),
        "-I", str(identities or server.accounts.identities), "-c", str(scale.at_once), "-t", TOPIC,
        "-s", str(scale.payload), *options,
    ]  # fmt: skip
    with on_core(LOAD_CORE):
        outcome = subprocess.run(command, capture_output=True, text=True, timeout=CALL_SECONDS, check=False)
    try:
        result: Result = json.loads(outcome.stdout)
    except ValueError:
        raise LoadError(f"{label}: mqload said: {outcome.stdout}{outcome.stderr}") from None
    if "error" in result:
        raise LoadError(f"{label}: {result['error']} ({result['ready']} ready, {result['failed']} failed)")
    if result["mode"] == "pub":
        check_messages(label, result, read_along="-R" in options)
    return result


def check_messages(label: str, result: Result, *, read_along: bool) -> None:
    """Nothing sent may be unacknowledged; and a receiver that reads along has got what was acknowledged, once each."""
    sent, acked, delivered = (result[f"{what}_total"] for what in ("sent", "acked", "delivered"))
    if acked != sent:
        raise LoadError(f"{label}: {sent} messages sent, {acked} acknowledged")
    if read_along and delivered != acked:
        raise LoadError(f"{label}: {acked} messages acknowledged, {delivered} read")


def publish(server: Server, scale: Scale, label: str, *options: str) -> Result:
    """Publish QoS 1 from all connections, with a reader where the server has one."""
    timing = ["-n", str(scale.connections), "-d", str(scale.seconds), "-W", str(scale.warm_up)]
    return mqload(server, scale, label, "pub", *timing, *server.publish_options(), *options)


def window(server: Server, scale: Scale, size: int) -> Result:
    """Closed loop, each connection with `size` unacknowledged messages."""
    return publish(server, scale, f"window {size}", "-w", str(size))


def latency(server: Server, scale: Scale, rate: float) -> Result:
    """Open loop at `rate` messages a second in all; latency counts from when a message was due."""
    return publish(server, scale, f"latency at {rate:.0f}/s", "-w", "20", "-r", f"{rate:.0f}")


def connects(server: Server, scale: Scale) -> Result:
    """A storm of full handshakes with CONNECT, CONNACK and DISCONNECT."""
    return mqload(server, scale, "connects", "storm", "-d", str(scale.seconds), "-W", str(scale.warm_up))


def idle(server: Server, scale: Scale) -> Result:
    """Resident memory of connections that say nothing; the server has just been started."""
    return mqload(server, scale, "idle", "idle", "-n", str(scale.idle_connections), "-d", "3")


def median_of(results: Iterable[Result], figure: str) -> float:
    """The median of one figure of some results."""
    return float(statistics.median(result[figure] for result in results))
