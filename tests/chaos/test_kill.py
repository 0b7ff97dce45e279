"""kill -9 at random moments under load: what was acknowledged is there, in order, and the hub comes back by itself."""

from __future__ import annotations

import asyncio
import math
import os
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from azure.eventhub.aio import EventHubConsumerClient

from muster.core.company import ALONE_SECONDS
from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish

DEVICES, WINDOW = 8, 20
ROUNDS = 5
SOAK_ROUNDS = int(os.environ.get("MUSTER_KILL_ROUNDS", "50"))


class Sender:
    """A device with a window of unacknowledged messages; every message carries a number of its own."""

    def __init__(self, hub: HubProcess, device_id: str, key: str, window: int) -> None:
        self.hub, self.device_id, self.key, self.window = hub, device_id, key, window
        self.next = 0
        self.acknowledged: list[int] = []
        self.connections: list[range] = []
        """The numbers sent on each connection."""

    async def run(self) -> None:
        """Connect and send until the hub dies. What was sent and acknowledged stays."""
        hub, name, first = self.hub, self.device_id, self.next
        unanswered: dict[int, int] = {}
        try:
            client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
            token = hub.token(f"devices/{name}", self.key)
            assert await client.connect(name, f"{hub.address}/{name}/?api-version=2021-04-12", token) == (False, 0)
            while True:
                while len(unanswered) < self.window:
                    number, self.next = self.next, self.next + 1
                    packet_id = number % 65_535 + 1
                    unanswered[packet_id] = number
                    topic = f"devices/{name}/messages/events/n={number}"
                    await client.send(publish(topic, b"x" * 200, packet_id=packet_id))
                answer = await client.expect("PUBACK")
                self.acknowledged.append(unanswered.pop(answer.packet_id))
        except (OSError, EOFError):
            self.connections.append(range(first, self.next))

    def check(self, stored: list[int]) -> int:
        """Judge what the hub has of this device, in its order; how many acknowledged messages are lost."""
        assert stored == sorted(set(stored)), f"{self.device_id}: out of order or twice"
        for sent in self.connections:
            kept = [number for number in stored if number in sent]
            assert kept == list(sent)[: len(kept)], f"{self.device_id}: something is missing before {kept[-1]}"
        return len(set(self.acknowledged).difference(stored))


async def stored(hub: HubProcess) -> dict[str, list[int]]:
    """Every device's numbers in the order of its partition, to the end of every partition."""
    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"],
        "$Default",
        connection_verify=hub.facts["HUB_CA_FILE"],
        load_balancing_interval=0.5,  # a closed client's receive ends only when this has passed
    )
    ends = [await client.get_partition_properties(name) for name in await client.get_partition_ids()]
    left = {end["id"]: end["last_enqueued_sequence_number"] for end in ends if not end["is_empty"]}
    numbers: dict[str, list[int]] = defaultdict(list)
    more = asyncio.Event()

    async def receive(context: Any, events: list[Any]) -> None:
        for event in events:
            device = event.system_properties[b"iothub-connection-device-id"].decode()
            numbers[device].append(int(event.properties[b"n"]))
        if events[-1].sequence_number >= left.get(context.partition_id, math.inf):
            del left[context.partition_id]
        more.set()

    reading = asyncio.create_task(client.receive_batch(receive, starting_position="-1", prefetch=3000))
    try:
        while left:
            async with asyncio.timeout(30):
                await more.wait()
            more.clear()
    finally:
        await client.close()
        await reading
    return numbers


async def kill_rounds(
    hub: HubProcess, rounds: int, seed: int, *, devices: int = DEVICES, window: int = WINDOW, after: float = 0.0
) -> None:
    """Kill it so often, ``after`` so many seconds or a bit more."""
    chance = random.Random(seed)
    hub.start()
    senders = [Sender(hub, f"k{number}", hub.add_device(f"k{number}"), window) for number in range(devices)]
    for _ in range(rounds):
        tasks = [asyncio.create_task(sender.run()) for sender in senders]
        while not all(sender.acknowledged for sender in senders):  # the first time, however slow it is
            await asyncio.sleep(0.01)
        await asyncio.sleep(after + chance.uniform(0.1, 0.6))
        await asyncio.to_thread(hub.kill)  # the senders take what the hub says to its last moment
        await asyncio.gather(*tasks)
        hub.start()
    found = await stored(hub)
    acknowledged = sum(len(sender.acknowledged) for sender in senders)
    lost = {sender.device_id: sender.check(found[sender.device_id]) for sender in senders}
    said = f"{rounds} kills (seed {seed}): {acknowledged} acknowledged, {sum(map(len, found.values()))} stored"
    assert not any(lost.values()), f"{said}, acknowledged and lost: {lost}"
    print(said)


async def test_nothing_acknowledged_is_lost_by_kill_9(make_hub: Callable[..., HubProcess]) -> None:
    await kill_rounds(make_hub(), ROUNDS, seed=random.randrange(1 << 30))


async def test_nothing_is_lost_of_a_device_that_is_alone(make_hub: Callable[..., HubProcess]) -> None:
    """Where the disk is quick its messages are committed on the loop's thread by then."""
    seed = random.randrange(1 << 30)
    await kill_rounds(make_hub(), 3, seed, devices=1, window=1, after=ALONE_SECONDS)


@pytest.mark.soak
@pytest.mark.timeout(3000)
async def test_nothing_acknowledged_is_lost_by_kill_9_fifty_times(make_hub: Callable[..., HubProcess]) -> None:
    await kill_rounds(make_hub(), SOAK_ROUNDS, seed=random.randrange(1 << 30))
