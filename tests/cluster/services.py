"""Services of a cluster's load: they read telemetry, call methods, write desired properties."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections import Counter
from itertools import count, cycle
from typing import Any

from azure.eventhub.aio import EventHubConsumerClient

from muster.testing.hub import HubUser
from tests.cluster.record import Event, Record

QUIET_SECONDS, LATE_SECONDS = 5.0, 60.0
_PAUSE = 0.05


class Services:
    """Talk to ``devices`` in turn, over REST, each kind in a task of its own, until they are told to stop."""

    def __init__(self, hub: HubUser, devices: list[str], record: Record) -> None:
        self.hub, self.devices, self.record = hub, devices, record
        self.failed = 0
        self.desired: Counter[str] = Counter()
        """The version that was written last, by device."""

    def _note(self, kind: str, device: str, number: int, place: int = 0) -> None:
        self.record.note(Event(kind, time.monotonic(), device, number, 0, place))

    async def call_methods(self, stop: asyncio.Event) -> None:
        """Method calls, each with a number of its own; what the answer says is noted, no answer is none."""
        for number, device in zip(count(1), cycle(self.devices), strict=False):
            if stop.is_set():
                return
            self._note("called", device, number)
            body = {"methodName": "m", "payload": {"call": number}, "responseTimeoutInSeconds": 5}
            answer = await self._ask("POST", f"/twins/{device}/methods", body)
            if answer is not None and answer[0] in (200, 404, 504):
                self._note("answered", device, number, answer[0] if answer[0] != 200 else answer[1]["status"])
            await asyncio.sleep(_PAUSE)

    async def write_desired(self, stop: asyncio.Event) -> None:
        """Desired properties; the version that the answer says is noted."""
        for number, device in zip(count(1), cycle(self.devices), strict=False):
            if stop.is_set():
                return
            answer = await self._ask("PATCH", f"/twins/{device}", {"properties": {"desired": {"n": number}}})
            if answer is not None and answer[0] == 200:
                self.desired[device] = answer[1]["properties"]["desired"]["$version"]
                self._note("desired", device, self.desired[device])
            await asyncio.sleep(_PAUSE)

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any] | None:
        """One call; ``None`` when nothing came back, so that nobody knows whether it was done."""
        try:
            return await asyncio.to_thread(self.hub.request, method, path, body)
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            self.failed += 1
            return None


async def read_all(hub: HubUser, record: Record, acked: set[tuple[str, int]]) -> int:
    """Note every message of every partition, with azure-eventhub; how many. Ends when ``QUIET_SECONDS`` bring none;
    ``LATE_SECONDS``, while it has not seen all that was ``acked``, messages by device and number."""
    left = set(acked)
    client = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"], "$Default", connection_verify=hub.facts["HUB_CA_FILE"],
        load_balancing_interval=0.5,
    )  # fmt: skip
    found, last = 0, time.monotonic()

    async def receive(_: Any, events: list[Any]) -> None:
        nonlocal found, last
        for event in events:
            last = time.monotonic()
            found += 1
            device = event.system_properties[b"iothub-connection-device-id"].decode()
            number = int(event.properties[b"n"])
            left.discard((device, number))
            record.note(Event("read", last, device, number, 0, event.sequence_number))

    async with client:
        reading = asyncio.create_task(client.receive_batch(receive, starting_position="-1", max_wait_time=1))
        while time.monotonic() - last < (LATE_SECONDS if left else QUIET_SECONDS):
            await asyncio.sleep(0.2)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
    return found
