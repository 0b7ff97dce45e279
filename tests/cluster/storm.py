"""Load on a deployment while things in it break, and what the judge says of that."""

from __future__ import annotations

import asyncio
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from muster.testing.hub import HubUser
from tests.cluster.balancer import Link
from tests.cluster.commands import Commands, PollingDevice
from tests.cluster.deployment import Deployment
from tests.cluster.devices import ScriptedDevice, SdkDevice
from tests.cluster.history import moved, problems, repeated, sent_beside
from tests.cluster.record import Event, Record, read
from tests.cluster.services import Services, read_all

SCRIPTED, SDK, POLLING = 6, 2, 2
CALM_SECONDS = 3.0
"""How long the load goes on before a fault, and after the last one."""
SETTLE_SECONDS = 150.0
"""Within which everything must come to its end once nothing breaks any more: a lock on feedback lasts a minute, what it
held is gathered and read then."""


Strike = Callable[[Deployment, random.Random], Awaitable[None]]


class Fault(NamedTuple):
    """``strike`` returns when whatever it breaks is whole again."""

    name: str
    strike: Strike


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
    await asyncio.sleep(chance.uniform(8, 14))
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


def _between(low: float, high: float, links: Callable[[Deployment, random.Random], Sequence[Link]]) -> Strike:
    """Cut ``links`` for so many seconds."""

    async def strike(deployment: Deployment, chance: random.Random) -> None:
        async with deployment.without(links(deployment, chance)):
            await asyncio.sleep(chance.uniform(low, high))

    return strike


def _nats_of_busiest(deployment: Deployment, _: random.Random) -> Sequence[Link]:
    return deployment.to_nats[deployment.busiest_node()]


def _postgres_of_busiest(deployment: Deployment, _: random.Random) -> Sequence[Link]:
    return [deployment.to_postgres[deployment.busiest_node()]]


def _all_of_busiest(deployment: Deployment, chance: random.Random) -> Sequence[Link]:
    return [*_nats_of_busiest(deployment, chance), *_postgres_of_busiest(deployment, chance)]


def _peers_of_a_server(deployment: Deployment, chance: random.Random) -> Sequence[Link]:
    return deployment.nats.around(chance.randrange(len(deployment.nats.servers)))


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

CUT_OFF = Fault("cut a node off from all others", _between(7, 15, _all_of_busiest))
PARTITIONS = (
    CUT_OFF,
    Fault("cut a node off from NATS", _between(7, 25, _nats_of_busiest)),
    Fault("cut a node off from PostgreSQL", _between(7, 15, _postgres_of_busiest)),
    Fault("cut a NATS server off from its peers", _between(7, 25, _peers_of_a_server)),
)
"""Clients reach all nodes meanwhile, and those of the node that is cut off stay connected to it, if it lets them."""
LOSS = Fault("lose every tenth packet", lose_packets)


class Outcome(NamedTuple):
    """What came of a storm. ``faults`` have the number of connections that devices made from each to the next;
    ``counts`` has how many of each kind of event there were."""

    problems: list[str]
    faults: list[tuple[str, int]]
    acknowledged: int
    read: int
    repeated: int
    unanswered: int
    counts: Mapping[str, int]


class Load:
    """The clients of a storm, each with a record of its own in ``directory``."""

    def __init__(self, hub: HubUser, directory: Path, keys: Mapping[str, str]) -> None:
        names = list(keys)
        self._records = [
            Record(directory / f"{name}.jsonl") for name in [*names, "commands", "services", "reader", "faults"]
        ]
        given = list(zip(names, keys.values(), self._records, strict=False))
        polling, sdk = SCRIPTED, SCRIPTED + POLLING
        self.scripted = [ScriptedDevice(hub, *one) for one in given[:polling]]
        self.polling = [PollingDevice(hub, *one) for one in given[polling:sdk]]
        self.sdk = [SdkDevice(hub, *one) for one in given[sdk : sdk + SDK]]
        *_, commands, services, self.reader, self.faults = self._records
        self.commands = Commands(hub, names[:sdk], names[-1], commands)
        self.services = Services(hub, names[:SCRIPTED], services)
        self._quiet, self._stop, self._over = asyncio.Event(), threading.Event(), threading.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._threads: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        for one in self.sdk:
            one.start()
        self._tasks = [asyncio.create_task(device.run()) for device in self.scripted]
        self._threads = [
            asyncio.create_task(self.services.call_methods(self._quiet)),
            asyncio.create_task(self.services.write_desired(self._quiet)),
            asyncio.create_task(asyncio.to_thread(self.commands.send, self._stop)),
            asyncio.create_task(asyncio.to_thread(self.commands.read_feedback, self._over)),
            *(asyncio.create_task(asyncio.to_thread(device.run, self._over)) for device in self.polling),
        ]

    async def settle(self) -> list[str]:
        """Begin nothing new, wait until all that was begun has come to its end; what has not, in time."""
        self._quiet.set()
        self._stop.set()
        for device in self.scripted:
            device.sending = False
        ends = [asyncio.create_task(one.end()) for one in self.sdk]
        deadline = time.monotonic() + SETTLE_SECONDS
        while (left := self._unsettled(ends)) and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        for end in ends:
            end.cancel()
        for ended in await self.stop():
            if isinstance(ended, Exception):
                raise ended
        return left

    async def stop(self) -> Sequence[object]:
        """End all clients as they are; what became of each. A thread that was left would keep the process for ever."""
        for event in (self._quiet, self._stop, self._over):
            event.set()
        for one in self.sdk:
            one.stop()
        for task in self._tasks:
            task.cancel()
        return await asyncio.gather(*self._tasks, *self._threads, return_exceptions=True)

    def _unsettled(self, ends: Sequence[asyncio.Task[None]]) -> list[str]:
        """What is under way still."""
        wanted = self.services.desired
        return [
            *(f"{one.device_id}: {len(one.open)} messages are not acknowledged" for one in self.scripted if one.open),
            *(
                f"{one.device_id}: it holds version {one.holds}, not {wanted[one.device_id]}"
                for one in self.scripted if one.holds < wanted[one.device_id]
            ),
            *(f"{one.device_id}: it does not end" for one, end in zip(self.sdk, ends, strict=True) if not end.done()),
            *(f"command {number} has no feedback" for number in sorted(self.commands.waiting)),
        ]  # fmt: skip

    def close(self) -> None:
        """Close the records."""
        for record in self._records:
            record.close()


async def storm(deployment: Deployment, directory: Path, faults: Sequence[Fault], seed: int) -> Outcome:
    """Put the load on ``deployment``, have ``faults`` strike one after the other, let it settle, read everything."""
    chance = random.Random(seed)
    hub = deployment.hub
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    names = [f"storm{seed}-{number}" for number in range(SCRIPTED + POLLING + SDK + 1)]
    load = Load(hub, directory, {name: await asyncio.to_thread(hub.add_device, name) for name in names})
    load.start()
    try:
        for number, fault in enumerate(faults, 1):
            await asyncio.sleep(CALM_SECONDS)
            load.faults.note(Event("struck", time.monotonic(), fault.name, number))
            await fault.strike(deployment, chance)
            load.faults.note(Event("healed", time.monotonic(), fault.name, number))
        await asyncio.sleep(CALM_SECONDS)
        left = await load.settle()
    finally:
        await load.stop()

    def noted() -> list[Event]:
        return read(sorted(directory.glob("*.jsonl")))

    acked = {(event.subject, event.number) for event in await asyncio.to_thread(noted) if event.kind == "acked"}
    found = await read_all(hub, load.reader, acked)
    load.close()
    events = await asyncio.to_thread(noted)
    total, again = repeated(events)
    acknowledged = sum(event.kind == "acked" for event in events)
    assert found >= total
    counts = Counter(event.kind for event in events)
    counts["beside"] = sent_beside(events)
    counts["succeeded"] = sum(event.kind == "answered" and event.place == 200 for event in events)
    return Outcome([*left, *problems(events)], moved(events), acknowledged, total, again, load.services.failed, counts)
