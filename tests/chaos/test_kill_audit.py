"""kill -9 in the midst of changes: what was acknowledged or is there is on record, and the chain holds."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp

from muster.testing.hub import HubProcess

ROUNDS, CALLERS = 4, 6


class Caller:
    """Creates devices and sets desired properties, one call after the other; notes what was answered."""

    def __init__(self, hub: HubProcess, number: int) -> None:
        self.hub, self.number, self.count = hub, number, 0
        self.answered: list[tuple[str, str]] = []

    async def run(self) -> None:
        hub = self.hub
        headers = {"Authorization": hub.owner_token(), "Content-Type": "application/json"}
        base, query = f"https://{hub.address}:{hub.port('https')}", "?api-version=2021-04-12"
        with suppress(aiohttp.ClientError, OSError, TimeoutError):
            async with aiohttp.ClientSession(headers=headers) as session:
                while True:
                    self.count += 1
                    name = f"k{self.number}-{self.count}"
                    device = {"deviceId": name}
                    async with session.put(f"{base}/devices/{name}{query}", json=device, ssl=hub.trust()) as answer:
                        await answer.read()
                        assert answer.status == 200
                    self.answered.append(("device.put", f"devices/{name}"))
                    patch = {"properties": {"desired": {"n": self.count}}}
                    async with session.patch(f"{base}/twins/{name}{query}", json=patch, ssl=hub.trust()) as answer:
                        await answer.read()
                        assert answer.status == 200
                    self.answered.append(("twin.patch", f"devices/{name}"))


def audit(hub: HubProcess, *arguments: str) -> str:
    command = [sys.executable, "-m", "muster", "audit", *arguments, "--data", str(hub.directory / "data")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


async def test_records_and_changes_are_there_together_after_kill_9(make_hub: Callable[..., HubProcess]) -> None:
    seed = random.randrange(1 << 30)
    chance, hub, marks = random.Random(seed), make_hub().start(), list[str]()
    callers = [Caller(hub, number) for number in range(CALLERS)]
    for _ in range(ROUNDS):
        tasks = [asyncio.create_task(caller.run()) for caller in callers]
        before = sum(len(caller.answered) for caller in callers)
        while sum(len(caller.answered) for caller in callers) < before + 10 * CALLERS:  # under way, however slow
            await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0, 0.2))
        await asyncio.to_thread(hub.kill)
        await asyncio.gather(*tasks)
        audit(hub, "verify", *(f"--mark={mark}" for mark in marks))
        marks.append(audit(hub, "head").strip())
        hub.start()
    records: list[dict[str, Any]] = [json.loads(line) for line in audit(hub, "export").splitlines()]
    recorded = {(one["operation"], one["subject"]) for one in records}
    answered = {change for caller in callers for change in caller.answered}
    assert not answered - recorded, f"seed {seed}"
    status, devices = hub.request("GET", "/devices?top=1000")
    assert status == 200
    made = {one["subject"] for one in records if one["operation"] == "device.put"}
    listed = {f"devices/{one['deviceId']}" for one in devices}
    assert len(listed) == 1000 or made == listed, f"seed {seed}: a change without its record, or a record without it"
