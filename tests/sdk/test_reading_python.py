"""Where azure-eventhub begins to read, over TLS and over WebSocket, from a hub that was killed in between."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from azure.eventhub import EventData, TransportType
from azure.eventhub._utils import get_last_enqueued_event_properties
from azure.eventhub.aio import EventHubConsumerClient
from processors import Devices, register, until

from muster.testing.hub import HubProcess
from tests.engines import clustered

pytestmark = pytest.mark.sdk

TRANSPORTS = [TransportType.Amqp, TransportType.AmqpOverWebsocket]


class Reader:
    """What one client has received of the only partition."""

    def __init__(self) -> None:
        self.events: list[EventData] = []
        self.errors: list[str] = []

    async def on_event(self, _: Any, event: EventData | None) -> None:
        if event is not None:
            self.events.append(event)

    async def on_error(self, _: Any, error: Exception) -> None:
        self.errors.append(str(error))

    def numbers(self) -> list[int]:
        return [int(event.properties[b"n"]) for event in self.events]


@asynccontextmanager
async def reading(
    hub: HubProcess, transport: TransportType, position: Any, group: str = "$Default", **options: Any
) -> AsyncIterator[Reader]:
    """A reader that receives until the end of the block."""
    reader = Reader()
    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"],
        group,
        connection_verify=hub.facts["HUB_CA_FILE"],
        transport_type=transport,
        load_balancing_interval=0.5,
        retry_total=0,
    )
    task = asyncio.create_task(
        client.receive(
            reader.on_event, on_error=reader.on_error, partition_id="0", starting_position=position, **options
        )
    )
    try:
        yield reader
    finally:
        await client.close()
        await task


async def first_to_last(hub: HubProcess, last: int, transport: TransportType, position: Any, **options: Any) -> Reader:
    """Read from a position until message ``last``."""
    async with reading(hub, transport, position, **options) as reader:
        await until(lambda: last in reader.numbers() or bool(reader.errors), f"message {last} is read")
    assert reader.errors == []
    return reader


@pytest.fixture
async def killed_hub(make_hub: Callable[..., HubProcess]) -> AsyncIterator[tuple[HubProcess, Devices]]:
    """Messages 0 to 9, kill -9, messages 10 to 19; the device is still connected."""
    hub = make_hub("--partitions", "1", "--consumer-group", "second").start()
    if hub.port("https") != 443:
        pytest.skip("port 443 may not be bound here: sysctl net.ipv4.ip_unprivileged_port_start=443, or be root")
    connection_strings = register(hub, ["device"])
    async with Devices(hub, connection_strings) as devices:
        await devices.send(range(10))
    hub.kill()
    hub.start()
    async with Devices(hub, connection_strings) as devices:
        await devices.send(range(10, 20))
        yield hub, devices


async def test_positions_mean_the_same_after_kill_9(killed_hub: tuple[HubProcess, Devices]) -> None:
    hub, _ = killed_hub
    everything = await first_to_last(hub, 19, TransportType.Amqp, "-1", track_last_enqueued_event_properties=True)
    assert everything.numbers() == list(range(20))
    places = [event.sequence_number for event in everything.events]
    assert places == sorted(set(places))
    assert clustered() or places == list(range(20)), "numbers of a shared log have gaps"
    last = get_last_enqueued_event_properties(everything.events[-1])
    assert last is not None
    assert (last["sequence_number"], last["enqueued_time"]) == (places[19], everything.events[19].enqueued_time)
    times = [event.enqueued_time for event in everything.events]
    assert times == sorted(times)
    positions: list[tuple[Any, bool, int]] = [  # five at once, which is what a group may have
        (str(places[7]), False, 8),
        (places[12], False, 13),
        (places[12], True, 12),
        (times[4], True, times.index(times[4])),
        (times[14], False, 20 - times[::-1].index(times[14])),
    ]
    found = await asyncio.gather(
        *(
            first_to_last(hub, 19, transport, position, group=group, starting_position_inclusive=inclusive)
            for (position, inclusive, _), (transport, group) in itertools.product(
                positions, zip(TRANSPORTS, ("$Default", "second"), strict=True)
            )
        )
    )
    assert [reader.numbers()[0] for reader in found] == [first for _, _, first in positions for _ in TRANSPORTS]


async def test_latest_is_what_comes_from_now_on(killed_hub: tuple[HubProcess, Devices]) -> None:
    hub, devices = killed_hub
    async with reading(hub, TRANSPORTS[0], "@latest") as one, reading(hub, TRANSPORTS[1], "@latest") as two:
        for number in range(20, 1000):  # until both have arrived at the end and seen one
            await devices.send(range(number, number + 1))
            await asyncio.sleep(0.05)
            if one.events and two.events:
                break
        await until(lambda: number in one.numbers() and number in two.numbers(), "the last message is read")
    for reader in (one, two):
        seen = reader.numbers()
        assert seen == list(range(seen[0], number + 1))
        assert seen[0] >= 20


async def test_an_owner_is_replaced_from_another_transport(killed_hub: tuple[HubProcess, Devices]) -> None:
    hub, devices = killed_hub
    async with (
        reading(hub, TransportType.Amqp, "-1", owner_level=3) as low,
        reading(hub, TransportType.Amqp, "-1", "second", owner_level=1) as elsewhere,
    ):
        await until(lambda: len(low.events) == 20 == len(elsewhere.events), "both groups are read")
        async with reading(hub, TransportType.AmqpOverWebsocket, "-1", owner_level=7) as high:
            await until(lambda: len(high.events) == 20, "the new owner reads")
            await until(lambda: bool(low.errors), "the old owner is told")
            async with reading(hub, TransportType.Amqp, "-1", owner_level=6) as refused:
                await until(lambda: bool(refused.errors), "a lower one is refused")
            await devices.send(range(20, 21))
            await until(lambda: 20 in high.numbers() and 20 in elsewhere.numbers(), "both groups are read")
            assert "amqp:link:stolen" in low.errors[0]
            assert "higher epoch '7' already exists" in refused.errors[0]
            assert (low.numbers(), refused.numbers()) == (list(range(20)), [])  # the clients try again in vain
            assert (high.errors, elsewhere.errors) == ([], [])
