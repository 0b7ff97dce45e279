"""Load on a deployment while things in it break, and what the judge says of that."""

from __future__ import annotations

import asyncio
import random
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.cluster.deployment import Deployment
from tests.cluster.devices import ScriptedDevice, SdkDevice
from tests.cluster.history import Record, problems, read, repeated
from tests.cluster.services import Services, read_all

SCRIPTED, SDK = 6, 2
CALM_SECONDS = 3.0
"""How long the load goes on before a fault, and after the last one."""
SETTLE_SECONDS = 90.0
"""Within which all that was sent must be acknowledged once nothing breaks any more."""


class Fault(NamedTuple):
    """``strike`` returns when whatever it breaks is whole again."""

    name: str
    strike: Callable[[Deployment, random.Random], Awaitable[None]]


async def kill_a_node(deployment: Deployment, chance: random.Random) -> None:
    """kill -9 of a node, started again a few seconds later."""
    number = deployment.busiest_node()
    await deployment.kill_node(number)
    await asyncio.sleep(chance.uniform(1, 7))
    await deployment.start_node(number)


async def restart_a_node(deployment: Deployment, _: random.Random) -> None:
    """SIGTERM and a start, as in a rolling restart."""
    number = deployment.busiest_node()
    assert await deployment.stop_node(number) == 0
    await deployment.start_node(number)


async def freeze_a_node(deployment: Deployment, chance: random.Random) -> None:
    """A node that hangs, for longer than its lease lasts, and goes on as if nothing had been."""
    number = deployment.busiest_node()
    deployment.freeze_node(number)
    await asyncio.sleep(chance.uniform(6, 9))
    deployment.thaw_node(number)


async def kill_a_nats_server(deployment: Deployment, chance: random.Random) -> None:
    """kill -9 of one of the three NATS servers."""
    server = chance.choice(deployment.nats.servers)
    await asyncio.to_thread(server.kill)
    await asyncio.sleep(chance.uniform(1, 5))
    await asyncio.to_thread(server.start)
    await asyncio.to_thread(server.wait_for, "Server is ready")


async def restart_postgres(deployment: Deployment, chance: random.Random) -> None:
    """PostgreSQL crashes and is back a few seconds later."""
    await asyncio.to_thread(deployment.postgres.stop)
    await asyncio.sleep(chance.uniform(0.5, 4))
    await asyncio.to_thread(deployment.postgres.start)


async def lose_packets(_: Deployment, chance: random.Random) -> None:
    """Every tenth packet is lost for a while, between all of them. For a network namespace of one's own."""
    rule = ["INPUT", "-i", "lo", "-m", "statistic", "--mode", "random", "--probability", "0.1", "-j", "DROP"]
    await asyncio.to_thread(subprocess.run, ["iptables", "-A", *rule], check=True)
    try:
        await asyncio.sleep(chance.uniform(8, 15))
    finally:
        await asyncio.to_thread(subprocess.run, ["iptables", "-D", *rule], check=True)


FAULTS = (
    Fault("kill a node", kill_a_node),
    Fault("kill a NATS server", kill_a_nats_server),
    Fault("restart PostgreSQL", restart_postgres),
    Fault("freeze a node", freeze_a_node),
    Fault("restart a node", restart_a_node),
)


LOSS = Fault("lose every tenth packet", lose_packets)


class Outcome(NamedTuple):
    """What came of a storm. ``counts`` has how many of each kind of event there were."""

    problems: list[str]
    acknowledged: int
    read: int
    repeated: int
    unanswered: int
    counts: Mapping[str, int]


async def storm(deployment: Deployment, directory: Path, faults: Sequence[Fault], seed: int) -> Outcome:
    """Put the load on ``deployment``, have ``faults`` strike one after the other, let it settle, read everything."""
    chance = random.Random(seed)
    hub, made = deployment.hub, f"storm{seed}"
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    names = [f"{made}-{number}" for number in range(SCRIPTED + SDK)]
    keys = {name: await asyncio.to_thread(hub.add_device, name) for name in names}
    records = [Record(directory / f"{name}.jsonl") for name in [*names, "services", "reader"]]
    scripted = [
        ScriptedDevice(hub, name, keys[name], record) for name, record in zip(names[:SCRIPTED], records, strict=False)
    ]
    sdk = [
        SdkDevice(hub, name, keys[name], record)
        for name, record in zip(names[SCRIPTED:], records[SCRIPTED:], strict=False)
    ]
    services = Services(hub, names[:SCRIPTED], records[-2])
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for device in scripted:
            group.create_task(device.run(stop))
        for one in sdk:
            one.start()
        quiet = asyncio.Event()
        group.create_task(services.call_methods(quiet))
        group.create_task(services.write_desired(quiet))
        for fault in faults:
            await asyncio.sleep(CALM_SECONDS)
            await fault.strike(deployment, chance)
        await asyncio.sleep(CALM_SECONDS)
        quiet.set()
        stop.set()
        async with asyncio.timeout(SETTLE_SECONDS):
            await asyncio.gather(*(one.end() for one in sdk))
            while not all(device.idle for device in scripted):
                await asyncio.sleep(0.1)
    found = await read_all(hub, records[-1])
    for record in records:
        record.close()
    events = await asyncio.to_thread(lambda: read(sorted(directory.glob("*.jsonl"))))
    total, again = repeated(events)
    acknowledged = sum(event.kind == "acked" for event in events)
    assert found >= total
    counts = Counter(event.kind for event in events)
    counts["succeeded"] = sum(event.kind == "answered" and event.place == 200 for event in events)
    return Outcome(list(problems(events)), acknowledged, total, again, services.failed, counts)
