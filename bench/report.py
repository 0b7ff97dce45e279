"""From measurements to a report: medians, ratios round by round, and the bars they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench.journal import Journal
from bench.measure import Result
from bench.servers import Minimal, Mosquitto, Muster

SUBJECT, PEER, FLOOR = Muster.name, Mosquitto.name, Minimal.name
SERVERS = (SUBJECT, PEER, FLOOR)

CONDITIONS = f"""Medians of {{rounds}} interleaved rounds (least-most); ratios are medians of the ratios of each round.
Server on one core, load on another; {{connections:,}} connections over TLS with a login each, QoS 1,
{{payload_bytes}}-byte payloads. {SUBJECT} has every message on disk (fdatasync) before its PUBACK, and an Event Hubs
receiver reads along; {PEER} stores nothing and has one QoS 1 subscriber; {FLOOR} writes and syncs a log, checks no
credential and has no reader. Memory is for {{idle_connections:,}} idle connections.
"""


@dataclass(frozen=True)
class Figure:
    """A row of the report: one figure of one measurement. `bar` is the most that is asked for, if anything is."""

    title: str
    measurement: str
    name: str
    digits: int
    bar: float | None = None
    bar_is_ratio: bool = True


COSTS = (
    Figure("CPU a message, window 1, µs", "window 1", "server_us_per_message", 2, 1.3),
    Figure("CPU a message, window 20, µs", "window 20", "server_us_per_message", 2, 0.6),
    Figure("CPU a connect, ms", "connects", "server_ms_per_connect", 3, 1.3),
    Figure("memory of an idle connection, KiB", "idle", "kib_per_connection", 1, 30, bar_is_ratio=False),
)
OTHERS = (
    Figure("messages/s on one core, window 1", "window 1", "acks_per_s", 0),
    Figure("messages/s on one core, window 20", "window 20", "acks_per_s", 0),
    Figure("connects/s on one core", "connects", "connects_per_s", 0),
    Figure("latency p50 at half of its own rate, ms", "latency, half", "p50_ms", 2),
    Figure("latency p99 at half of its own rate, ms", "latency, half", "p99_ms", 2),
    Figure("latency p50 at 10,000 messages/s, ms", "latency, 10000", "p50_ms", 2),
    Figure("latency p99 at 10,000 messages/s, ms", "latency, 10000", "p99_ms", 2),
    Figure("server's share of its core, window 1", "window 1", "server_busy", 2),
    Figure("server's share of its core, window 20", "window 20", "server_busy", 2),
    Figure("load generator's share of its core, window 1", "window 1", "client_busy", 2),
    Figure("load generator's share of its core, window 20", "window 20", "client_busy", 2),
)


def spread(results: list[Result], figure: Figure) -> dict[str, float]:
    """Median, least and most of a figure."""
    values = [result[figure.name] for result in results]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(journal: Journal, figure: Figure, peer: str) -> float | None:
    """The median over the rounds of the subject's figure divided by the peer's in the same round."""
    pairs = zip(journal.of(figure.measurement, SUBJECT), journal.of(figure.measurement, peer), strict=False)
    ratios = [own[figure.name] / other[figure.name] for own, other in pairs if other.get(figure.name)]
    return statistics.median(ratios) if ratios else None


def summarize(journal: Journal, figures: Sequence[Figure], servers: Sequence[str] = SERVERS) -> list[dict[str, Any]]:
    """Each figure with the values of every server, the ratios to all but the first, and whether its bar is met."""
    rows = []
    for figure in figures:
        values = {
            name: spread(results, figure)
            for name in servers
            if (results := [one for one in journal.of(figure.measurement, name) if figure.name in one])
        }
        if not values:
            continue
        ratios = {peer: found for peer in servers[1:] if (found := ratio(journal, figure, peer)) is not None}
        held = ratios.get(servers[1]) if figure.bar_is_ratio else values.get(SUBJECT, {}).get("median")
        met = None if figure.bar is None or held is None else held <= figure.bar
        rows.append(
            {
                "figure": figure.title,
                "digits": figure.digits,
                "values": values,
                "ratios": ratios,
                "bar": figure.bar,
                "bar_is_ratio": figure.bar_is_ratio,
                "met": met,
            }
        )
    return rows


def make_report(
    journal: Journal,
    scale: Mapping[str, int | float],
    machine: Mapping[str, str | int | float],
    command: str,
    *,
    figures: Sequence[Figure] = COSTS + OTHERS,
    servers: Sequence[str] = SERVERS,
) -> dict[str, Any]:
    """The whole report as JSON has it. The first of `servers` is held against the others, its bars against the second.

    `scale` is what the text of the conditions names.
    """
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "machine": machine,
        **scale,
        "servers": list(servers),
        "figures": summarize(journal, figures, servers),
    }


def cell(value: dict[str, float] | None, digits: int) -> str:
    """A median and its range."""
    if value is None:
        return "-"
    median, least, most = (f"{value[name]:,.{digits}f}" for name in ("median", "min", "max"))
    return median if least == most else f"{median} ({least}-{most})"


def bar_text(row: dict[str, Any], peer: str) -> str:
    """The bar of a row, and whether it is met."""
    if row["bar"] is None:
        return ""
    unit = f" x {peer}" if row["bar_is_ratio"] else ""
    verdict = "not measured" if row["met"] is None else ("met" if row["met"] else "**missed**")
    return f"≤ {row['bar']:g}{unit}: {verdict}"


def to_markdown(report: dict[str, Any], title: str = "Benchmark", conditions: str = CONDITIONS) -> str:
    """The report for people. `conditions` is a text with names of `report` in braces."""
    servers = report["servers"]
    machine = "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in report["machine"].items())
    lines = [
        f"# {title} of {report['date']}",
        "",
        f"`{report['command']}` on {machine}.",
        "",
        conditions.format(**report),
        f"| | {' | '.join(servers)} | {' | '.join(f'to {peer}' for peer in servers[1:])} | asked |",
        "| --- " * (2 * len(servers) + 1) + "|",
    ]
    for row in report["figures"]:
        values = [cell(row["values"].get(name), row["digits"]) for name in servers]
        ratios = [f"{row['ratios'][peer]:.2f}" if peer in row["ratios"] else "-" for peer in servers[1:]]
        lines.append(f"| {' | '.join([row['figure'], *values, *ratios, bar_text(row, servers[1])])} |")
    return "\n".join(lines) + "\n"
