"""kill -9 at random moments under load: what was acknowledged is there, in order, and the hub comes back by itself."""

from __future__ import annotations

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
from azure.eventhub.aio import EventHubConsumerClient

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish

DEVICES, WINDOW = 8, 20
ROUNDS = 5
SOAK_ROUNDS = int(os.environ.get("MUSTER_KILL_ROUNDS", "50"))


class Sender:
    """A device with a window of unacknowledged messages; every message carries a number of its own."""

    def __init__(self, hub: HubProcess, device_id: str, key: str) -> None:
        self.hub, self.device_id, self.key = hub, device_id, key
        self.next = 0
        self.acknowledged: list[int] = []

    async def run(self) -> None:
        """Connect and send until the hub dies. The acknowledged numbers stay."""
        hub, name = self.hub, self.device_id
        unanswered: dict[int, int] = {}
        try:
            client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
            token = hub.token(f"devices/{name}", self.key)
            assert await client.connect(name, f"{hub.address}/{name}/?api-version=2021-04-12", token) == (False, 0)
            while True:
                while len(unanswered) < WINDOW:
                    number, self.next = self.next, self.next + 1
                    packet_id = number % 65_535 + 1
                    unanswered[packet_id] = number
                    topic = f"devices/{name}/messages/events/n={number}"
                    await client.send(publish(topic, b"x" * 200, packet_id=packet_id))
                answer = await client.expect("PUBACK")
                self.acknowledged.append(unanswered.pop(answer.packet_id))
        except (OSError, EOFError):
            return


async def stored(hub: HubProcess, expected: dict[str, set[int]]) -> dict[str, list[int]]:
    """Every device's numbers in the order of its partition, read until all that is expected has come."""
    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"], "$Default", connection_verify=hub.facts["HUB_CA_FILE"]
    )
    numbers: dict[str, list[int]] = defaultdict(list)
    missing = {name: set(wanted) for name, wanted in expected.items()}
    complete = asyncio.Event()

    async def receive(_: Any, events: list[Any]) -> None:
        for event in events:
            device = event.system_properties[b"iothub-connection-device-id"].decode()
            number = int(event.properties[b"n"])
            numbers[device].append(number)
            missing[device].discard(number)
        if not any(missing.values()):
            complete.set()

    reading = asyncio.create_task(client.receive_batch(receive, starting_position="-1", max_wait_time=1))
    try:
        async with asyncio.timeout(120):
            await complete.wait()
    except TimeoutError:
        lost = {name: sorted(left)[:5] for name, left in missing.items() if left}
        pytest.fail(f"acknowledged and lost: {lost}")
    finally:
        await client.close()
        await reading
    return numbers


async def kill_rounds(hub: HubProcess, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    hub.start()
    senders = [Sender(hub, f"k{number}", hub.add_device(f"k{number}")) for number in range(DEVICES)]
    for _ in range(rounds):
        tasks = [asyncio.create_task(sender.run()) for sender in senders]
        await asyncio.sleep(chance.uniform(0.15, 1.0))
        hub.kill()
        await asyncio.gather(*tasks)
        hub.start()
    assert all(sender.acknowledged for sender in senders)
    found = await stored(hub, {sender.device_id: set(sender.acknowledged) for sender in senders})
    for sender in senders:
        first_seen = list(dict.fromkeys(found[sender.device_id]))
        assert first_seen == sorted(first_seen), f"{sender.device_id} out of order (seed {seed})"
    acknowledged = sum(len(sender.acknowledged) for sender in senders)
    print(f"{rounds} kills (seed {seed}): {acknowledged} acknowledged, {sum(map(len, found.values()))} stored, 0 lost")


async def test_nothing_acknowledged_is_lost_by_kill_9(make_hub: Callable[..., HubProcess]) -> None:
    await kill_rounds(make_hub(), ROUNDS, seed=random.randrange(1 << 30))


@pytest.mark.soak
@pytest.mark.timeout(3000)
async def test_nothing_acknowledged_is_lost_by_kill_9_fifty_times(make_hub: Callable[..., HubProcess]) -> None:
    await kill_rounds(make_hub(), SOAK_ROUNDS, seed=random.randrange(1 << 30))
