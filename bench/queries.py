"""Measure queries: by an indexed property and by another, with 10^4 and 10^5 twins, and what an index costs a report.

usage: python -m bench.queries [--quick] [--directory DIR]

Asks the hub's own query service and store, in this process and without REST, whose share is the same at every size and
would flatter the ratios. Twins have about 1 KiB; a query finds 20 of them, whatever there are. Sizes take turns,
so that a drifting machine meets all alike; a figure is the median. The bar is issue 3's: by an indexed
property, 10^5 twins may take twice what 10^4 take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import apsw

from bench import machine
from muster.identity.model import IdentityKey
from muster.node.offline import Nobody
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.queries import SqliteQueryStore
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.document import Twin, report
from muster.twins.query.service import Queries

HUB = "bench"
FOUND = 20
BAR = 2.0
INDEXED = ("tags.building", "properties.reported.firmware.version")
QUERIES = {
    "one device by its id": "SELECT * FROM devices WHERE deviceId = 'device-{id:06}'",
    "by an indexed tag": "SELECT * FROM devices WHERE tags.building = 'building-{group}'",
    "by an indexed tag, one column": "SELECT deviceId FROM devices WHERE tags.building = 'building-{group}'",
    "by an indexed reported property": "SELECT * FROM devices WHERE properties.reported.firmware.version = '1.{group}'",
    "by a tag without an index": "SELECT * FROM devices WHERE tags.room = 'room-{group}'",
    "count of all": "SELECT COUNT() AS n FROM devices",
    "count by a tag": "SELECT tags.floor, COUNT() AS n FROM devices GROUP BY tags.floor",
}
SLOW = ("without an index", "count")
MORE_INDEXES = tuple(f"properties.reported.m{number}" for number in range(16))


@dataclass(frozen=True)
class Scale:
    """How many twins, and how often each query is asked: fast ones more often than those that read everything."""

    sizes: tuple[int, int] = (10_000, 100_000)
    rounds: int = 5
    fast: int = 40
    slow: int = 3
    reports: int = 2_000


QUICK = Scale(sizes=(1_000, 10_000), rounds=2, fast=10, slow=2, reports=300)


@asynccontextmanager
async def database(path: Path, indexed: Sequence[str]) -> AsyncIterator[tuple[Writer, SqliteQueryStore]]:
    """A hub's database with these indexes; what is written is not synced, as no write is measured by its sync."""
    writer = Writer(path, MIGRATIONS, asyncio.get_running_loop(), durable=False)
    store = SqliteQueryStore(writer, Nobody(), indexed)
    await store.prepare()
    try:
        yield writer, store
    finally:
        await store.close()
        await writer.close()


def rows(count: int) -> Iterator[tuple[str, str, str, str]]:
    """Device id, tags, desired and reported properties; each group of ``FOUND`` shares what queries look for."""
    groups = count // FOUND
    filling = {f"m{number}": number * 1.25 for number in range(16)} | {"note": "x" * 300}
    for number in range(count):
        group = number % groups
        tags = {
            "building": f"building-{group}",
            "room": f"room-{group}",
            "floor": number % 40,
            "owner": {"name": "ann"},
        }
        reported = {"firmware": {"version": f"1.{group}", "build": number}, "battery": number % 100, **filling}
        desired = {"interval": 30, "limits": {"low": -5, "high": 99.5}, "mode": "fast"}
        yield f"device-{number:06}", json.dumps(tags), json.dumps(desired), json.dumps(reported)


def load(connection: apsw.Connection, count: int) -> None:
    """Write ``count`` devices and their twins straight into the tables."""
    identity = (
        "INSERT INTO identities (hub, device_id, module_id, generation_id, version, authentication, status, "
        f"status_updated, iot_edge) VALUES ('{HUB}', ?, '', '1', 1, 'sas', 'enabled', 0.0, 0)"
    )
    twin = f"INSERT INTO twins (hub, device_id, module_id, tags, desired, reported) VALUES ('{HUB}', ?, '', ?, ?, ?)"
    connection.executemany(identity, ((name,) for name, *_ in rows(count)))
    connection.executemany(twin, rows(count))


async def milliseconds(work: Callable[[], Awaitable[object]]) -> float:
    """How long ``work`` takes."""
    start = time.perf_counter()
    await work()
    return (time.perf_counter() - start) * 1e3


async def ask(queries: Queries, text: str, size: int, number: int) -> None:
    """One query, about a place that moves with ``number``; it must find something."""
    place = number * 7919 % (size // FOUND)
    answer = await queries.page(text.format(id=place, group=place), 100)
    if not answer.rows:
        raise SystemExit(f"nothing found by: {text}")


async def measure_queries(directory: Path, scale: Scale) -> dict[str, dict[int, float]]:
    """Each query's median in milliseconds, by the number of twins."""
    taken: dict[str, dict[int, list[float]]] = {name: {size: [] for size in scale.sizes} for name in QUERIES}
    async with AsyncExitStack() as stack:
        hubs: dict[int, Queries] = {}
        for size in scale.sizes:
            writer, store = await stack.enter_async_context(database(directory / f"{size}.db", INDEXED))
            await writer.submit(lambda connection, size=size: load(connection, size))  # type: ignore[misc]
            hubs[size] = Queries(HUB, store)
        for number in range(scale.rounds):
            for name, text in QUERIES.items():
                times = scale.slow if any(word in name for word in SLOW) else scale.fast
                for step in range(times):
                    for size, queries in hubs.items():
                        place = number * times + step
                        taken[name][size].append(
                            await milliseconds(lambda q=queries, t=text, s=size, p=place: ask(q, t, s, p))  # type: ignore[misc]
                        )
    return {name: {size: statistics.median(found) for size, found in sizes.items()} for name, sizes in taken.items()}


async def measure_reports(directory: Path, scale: Scale) -> dict[int, float]:
    """CPU microseconds of a report that changes two properties, by the number of indexes, every second one changed."""
    taken: dict[int, list[float]] = {}
    counts = (0, 1, 2, 4, 16)
    for number in range(scale.rounds):
        for count in counts:
            path = directory / f"reports-{number}-{count}.db"
            async with database(path, MORE_INDEXES[:count]) as (writer, _):
                await writer.submit(lambda connection: load(connection, scale.sizes[0]))
                reader = open_connection(path, readonly=True)
                taken.setdefault(count, []).append(await _reports(SqliteTwinStore(writer, reader), scale))
                reader.close()
            path.unlink()
    return {count: statistics.median(found) for count, found in taken.items()}


async def _reports(twins: SqliteTwinStore, scale: Scale) -> float:
    async def one(number: int) -> None:
        patch = {"m0": number, "battery": number}

        def change(twin: Twin) -> Twin:
            return report(twin, patch, 1.0)

        key = IdentityKey(f"device-{number * 7919 % scale.sizes[0]:06}")
        await twins.edit(HUB, key, change, lambda _: None)

    start = time.process_time()
    for first in range(0, scale.reports, 50):
        await asyncio.gather(*(one(number) for number in range(first, first + 50)))
    return (time.process_time() - start) * 1e6 / scale.reports


def say(queries: dict[str, dict[int, float]], reports: dict[int, float], scale: Scale) -> None:
    """The figures as Markdown."""
    small, large = scale.sizes
    print(f"| query, median ms | {small:,} twins | {large:,} twins | ratio |\n| --- | --- | --- | --- |")
    for name, found in queries.items():
        ratio = found[large] / found[small]
        bar = "" if "indexed" not in name else f" ≤ {BAR:g}: {'met' if ratio <= BAR else '**missed**'}"
        print(f"| {name} | {found[small]:.3f} | {found[large]:.3f} | {ratio:.2f}{bar} |")
    print("\n| indexes | CPU a report, µs | ratio |\n| --- | --- | --- |")
    for count, cost in reports.items():
        print(f"| {count} | {cost:.1f} | {cost / reports[0]:.2f} |")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="bench.queries", description="Measure queries over twins.")
    parser.add_argument("--quick", action="store_true", help="a look at a tenth of the size; not for quoting")
    parser.add_argument("--directory", type=Path, help="where to put the databases  [default: a temporary one]")
    arguments = parser.parse_args()
    scale = QUICK if arguments.quick else Scale()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
        directory = Path(name)
        print(f"{machine.processor()}, SQLite {apsw.sqlite_lib_version()}\n")
        queries = asyncio.run(measure_queries(directory, scale))
        reports = asyncio.run(measure_reports(directory, scale))
    say(queries, reports, scale)


if __name__ == "__main__":
    main()
