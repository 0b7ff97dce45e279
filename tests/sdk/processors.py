"""Event processors that share a consumer group, and the journal of what they have processed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

from azure.eventhub import CloseReason, EventData, EventHubConsumerClient
from azure.iot.device import Message
from azure.iot.device.aio import IoTHubDeviceClient
from azurite import CheckpointStore

from muster.testing.hub import HubProcess

PATIENCE_SECONDS = 60.0


class Delivery(NamedTuple):
    """An event as a processor got it."""

    processor: str
    partition: str
    sequence: int
    device: str
    number: int


class Stretch(NamedTuple):
    """What a processor had from a partition while it owned it, and the checkpoint from which it began."""

    checkpoint: int
    sequences: list[int]


class Journal:
    """What happened in all processors, in the order in which they took the lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.deliveries: list[Delivery] = []
        self.stretches: dict[tuple[str, str], list[Stretch]] = defaultdict(list)
        """By processor and partition."""
        self.checkpoints: dict[str, int] = {}

    def begin(self, processor: str, partition: str, checkpoint: int) -> None:
        with self.lock:
            self.stretches[processor, partition].append(Stretch(checkpoint, []))

    def add(self, delivery: Delivery) -> None:
        with self.lock:
            self.deliveries.append(delivery)
            self.stretches[delivery[:2]][-1].sequences.append(delivery.sequence)

    def checkpoint(self, partition: str, sequence: int) -> None:
        with self.lock:
            self.checkpoints[partition] = sequence

    def checkpointed(self) -> int:
        """How many messages are at checkpoints or before."""
        with self.lock:
            return sum(
                one <= last for partition, last in self.checkpoints.items() for one in self._sequences(partition)
            )

    def _sequences(self, partition: str) -> list[int]:
        """The sequence numbers that anybody had: those of a shared log have gaps."""
        return sorted({each.sequence for each in self.deliveries if each.partition == partition})

    def distinct(self) -> set[tuple[str, int]]:
        """The device and number of every message that was processed."""
        with self.lock:
            return {(delivery.device, delivery.number) for delivery in self.deliveries}

    def assert_nothing_missing(self, devices: Iterable[str], count: int) -> None:
        """Every number of every device, first seen in order and in one partition; no gap after any checkpoint."""
        numbers: dict[str, list[int]] = defaultdict(list)
        partitions: dict[str, set[str]] = defaultdict(set)
        for each in self.deliveries:
            numbers[each.device].append(each.number)
            partitions[each.device].add(each.partition)
        assert {name: list(dict.fromkeys(seen)) for name, seen in numbers.items()} == {
            name: list(range(count)) for name in devices
        }
        assert all(len(used) == 1 for used in partitions.values())
        for owner, stretches in self.stretches.items():
            for checkpoint, seen in stretches:
                first_seen = list(dict.fromkeys(seen))  # the client itself repeats what it held when it reconnects
                behind = [one for one in self._sequences(owner[1]) if one > checkpoint]
                assert first_seen == behind[: len(first_seen)], owner


class Processor:
    """An ``EventHubConsumerClient`` with a checkpoint store, receiving in a thread of its own."""

    def __init__(
        self,
        name: str,
        hub: HubProcess,
        store: CheckpointStore,
        journal: Journal,
        *,
        interval: float = 0.5,
        prefetch: int = 300,
        pace: float = 0.0,
    ) -> None:
        self.name = name
        self.journal = journal
        self.checkpointing = True
        self._store = store
        self.pace = pace
        self.owned: set[str] = set()
        self.closed: list[tuple[str, str]] = []
        self.errors: list[tuple[str, str]] = []
        self._client = EventHubConsumerClient.from_connection_string(
            hub.facts["EVENTHUB_CONNECTION_STRING"],
            "$Default",
            connection_verify=hub.facts["HUB_CA_FILE"],
            checkpoint_store=store,
            load_balancing_interval=interval,
            partition_ownership_expiration_interval=600,
            socket_timeout=0.05,  # how long its one thread waits at a partition that has nothing
        )
        self._thread = threading.Thread(
            target=self._client.receive_batch,
            args=(self._process,),
            kwargs={
                "max_batch_size": 20,
                "prefetch": prefetch,
                "starting_position": "-1",
                "on_error": self._on_error,
                "on_partition_initialize": self._on_initialize,
                "on_partition_close": self._on_close,
            },
        )
        self._thread.start()

    def _process(self, context: Any, events: list[EventData]) -> None:
        for event in events:
            device = event.system_properties[b"iothub-connection-device-id"].decode()
            number = int(event.properties[b"n"])
            self.journal.add(Delivery(self.name, context.partition_id, event.sequence_number, device, number))
        if events and self.checkpointing:
            context.update_checkpoint(events[-1])
            self.journal.checkpoint(context.partition_id, events[-1].sequence_number)
        if events:
            time.sleep(self.pace)

    def _on_error(self, context: Any, error: Exception) -> None:
        self.errors.append((context.partition_id if context else "", str(error)))

    def _on_initialize(self, context: Any) -> None:
        self.journal.begin(self.name, context.partition_id, self._store.answered.get(context.partition_id, -1))
        self.owned.add(context.partition_id)

    def _on_close(self, context: Any, reason: CloseReason) -> None:
        self.owned.discard(context.partition_id)
        self.closed.append((context.partition_id, reason.name))

    def close(self) -> None:
        """Stop; what it owned is released in the store when this returns."""
        self._client.close()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()


def register(hub: HubProcess, names: Iterable[str]) -> list[str]:
    """The connection strings of new devices."""
    return [hub.device_connection_string(name, hub.add_device(name)) for name in names]


class Devices:
    """Devices of azure-iot-device, all sending at once; each one's messages are numbered."""

    def __init__(self, hub: HubProcess, connection_strings: Iterable[str]) -> None:
        roots = Path(hub.facts["HUB_CA_FILE"]).read_text()
        self._clients = [
            IoTHubDeviceClient.create_from_connection_string(text, server_verification_cert=roots)
            for text in connection_strings
        ]

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(client.connect() for client in self._clients))
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(client.shutdown() for client in self._clients))

    async def send(self, numbers: range) -> None:
        """Send messages with these numbers from every device, each one's in order; all are acknowledged then."""

        async def send(client: IoTHubDeviceClient) -> None:
            for number in numbers:
                await client.send_message(_message(number))

        await asyncio.gather(*(send(client) for client in self._clients))


def _message(number: int) -> Message:
    message = Message(f'{{"n": {number}}}', content_encoding="utf-8", content_type="application/json")
    message.custom_properties = {"n": str(number)}
    return message


async def until(happened: Callable[[], bool], what: str) -> None:
    """Wait until something has happened."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)
