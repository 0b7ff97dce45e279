"""A message that comes alone is committed on the loop's thread; a disk that turns slow holds up nobody for long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from mqtt_hub import QUICK_SECONDS, MqttHub, alive, mqtt_hub

from muster.core.company import ALONE_SECONDS
from muster.testing.mqtt import MqttClient, publish

pytestmark = pytest.mark.embedded("SQLite keeps telemetry on this disk")
SLOW_SECONDS = 1.5 * QUICK_SECONDS
GIVE_UP_SECONDS = 30.0
NAME = "slow"


class Disk(apsw.VFS):
    """Flushes in no time, or as slowly as is asked for, or not before ``gate`` is open."""

    def __init__(self) -> None:
        super().__init__(NAME, "")
        self.seconds = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.flushing = 0
        self.flushed_by = 0
        """The thread that flushed last."""

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    @property
    def inline(self) -> bool:
        """Whether it was the loop's thread that flushed last."""
        return self.flushed_by == threading.get_ident()


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk

    def xSync(self, flags: int) -> None:
        self._disk.flushing += 1
        self._disk.flushed_by = threading.get_ident()
        time.sleep(self._disk.seconds)
        self._disk.gate.wait(GIVE_UP_SECONDS)


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.unregister()


@pytest.fixture
async def hub(tmp_path: Path, disk: Disk) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path, vfs=NAME) as hub:
        yield hub


class Sender:
    def __init__(self, client: MqttClient, name: str) -> None:
        self.client, self.name, self.sent = client, name, 0

    async def begin(self) -> None:
        self.sent += 1
        await self.client.send(publish(f"devices/{self.name}/messages/events/", b"x", qos=1, packet_id=self.sent))

    async def send(self) -> None:
        await self.begin()
        await self.client.expect("PUBACK")

    async def until_inline(self, hub: MqttHub, disk: Disk) -> None:
        """Send, with nobody else heard, until that is committed on the loop's thread: the machine may be slow, though
        the disk is not."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while True:
                await self.send()
                if disk.inline:
                    break
                hub.silence += ALONE_SECONDS


async def test_720_who_is_alone_is_served_by_the_loop_and_in_company_by_the_thread(hub: MqttHub, disk: Disk) -> None:
    sender, other = Sender(await hub.device("d"), "d"), await hub.device("other")
    for _ in range(50):
        await sender.send()
        assert not disk.inline, "others were heard a moment ago"
    await sender.until_inline(hub, disk)
    await alive(other)
    await sender.send()
    assert not disk.inline
    assert hub.telemetry.state(hub.telemetry.partition_of("d")).next == sender.sent


async def test_721_a_disk_that_turns_slow_holds_up_others_once(hub: MqttHub, disk: Disk) -> None:
    sender, other = Sender(await hub.device("d"), "d"), await hub.device("other")
    await sender.send()
    await sender.until_inline(hub, disk)
    disk.seconds = SLOW_SECONDS
    await sender.send()
    disk.seconds = 0.0
    for _ in range(5):
        await sender.send()
        hub.silence += ALONE_SECONDS
        assert not disk.inline, "it has not been quick for long enough"

    disk.gate.clear()
    before = disk.flushing
    await sender.begin()
    await hub.settled(lambda: disk.flushing > before)
    await alive(other)
    disk.gate.set()
    await sender.client.expect("PUBACK")
    await sender.until_inline(hub, disk)
    assert hub.telemetry.state(hub.telemetry.partition_of("d")).next == sender.sent
