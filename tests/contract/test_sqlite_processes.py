"""Real processes that write into one ``hub.db`` at once, and are killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_writer import COMMON, HOLD, HUB, QUEUE, identity

from muster.audit.chain import verify
from muster.identity.contract import Edit
from muster.stores.sqlite.storage import SqliteStorage

Start = Callable[[str], "subprocess.Popen[str]"]
ROUNDS = 100
ALL, MUCH = 1_000_000, 1 << 40


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []
    script = Path(__file__).with_name("hub_writer.py")

    def make(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(script), str(tmp_path / "hub.db"), name]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield make
    for process in processes:
        process.kill()
        process.communicate()


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> Any:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def _begin(*processes: subprocess.Popen[str]) -> None:
    """All are up; now they begin, together."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        _tell(process)


def _rest(process: subprocess.Popen[str]) -> list[Any]:
    """What it says until its end; a line that was cut off is none."""
    assert process.stdout is not None
    return [json.loads(line) for line in process.stdout if line.endswith("\n")]


async def test_all_get_on_nothing_is_lost_and_one_may_be_killed(start: Start, tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "hub.db", shared=True)
    stores = storage.of(HUB)
    await stores.identities.edit(HUB, [Edit(COMMON, lambda _: identity(COMMON))])
    names = ("a", "b", "victim")
    processes = [start(name) for name in names]
    *living, victim = processes

    def play() -> dict[str, list[Any]]:
        _begin(*processes)
        told: dict[str, list[Any]] = {name: [] for name in names}
        for _ in range(ROUNDS):  # each is read as often: who got nothing in would hold this up
            for name, process in zip(names, processes, strict=True):
                told[name].append(_line(process))
        victim.kill()
        told["victim"] += _rest(victim)
        for _ in range(ROUNDS):
            for name, process in zip(names, living, strict=False):
                told[name].append(_line(process))
        for process in living:
            _tell(process)
        for name, process in zip(names, living, strict=False):
            told[name] += _rest(process)
            assert process.wait(60) == 0
        return told

    async with asyncio.timeout(120):
        told = await asyncio.to_thread(play)
    one, other = (len(told[name]) for name in "ab")
    assert min(one, other) * 3 > max(one, other), "both get on"
    for name in names:
        assert [line["number"] for line in told[name]] == list(range(len(told[name])))
    # What was under way when the victim was killed may be there too, each change by itself.
    last = {name: len(told[name]) + (name == "victim") for name in names}
    devices = {identity.device_id for identity in await stores.identities.devices(HUB, ALL)} - {COMMON.device_id}
    assert {f"{name}{number}" for name in names for number in range(len(told[name]))} <= devices
    assert devices <= {f"{name}{number}" for name in names for number in range(last[name])}
    assert (await stores.identities.counts(HUB)).enabled == len(devices) + 1
    twin = await stores.twins.get(HUB, COMMON)
    assert twin is not None
    rounds = sum(map(len, told.values()))
    versions = sorted(line["twin"] for lines in told.values() for line in lines)
    assert len(set(versions)) == rounds, "each change of the twin is one"
    assert twin.version - 2 in {rounds, rounds + 1}
    assert twin.tags["a0"] == (len(told["a"]) - 1) // 50 * 50
    found = await stores.outbox.take(0, ALL, MUCH)
    assert [int(entry.record) for _, entry in found] == list(range(3, twin.version + 1)), "in the order of the changes"
    assert rounds <= (await stores.queues.depths(HUB, [QUEUE]))[0] <= rounds + 1
    lines = await storage.audit.lines(0, ALL)
    assert verify(one.line for one in lines) == (await storage.audit.head()).mark
    assert rounds <= len(lines) <= rounds + 1
    await storage.close()


async def test_who_is_killed_in_a_transaction_holds_nobody_up(start: Start, tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "hub.db", shared=True)
    holder = start(HOLD)
    await asyncio.to_thread(_begin, holder)
    assert await asyncio.to_thread(_line, holder) == {"held": True}
    putting = asyncio.ensure_future(storage.rows.put_settings({"name": b"1"}))
    await asyncio.sleep(0.2)
    assert not putting.done()
    assert await storage.rows.get_setting("name") is None, "reading goes on"
    holder.kill()
    async with asyncio.timeout(60):
        await putting
    assert [await storage.rows.get_setting(name) for name in ("name", "held")] == [b"1", None]
    await storage.close()
