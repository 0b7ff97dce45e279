"""The hub's storage of files by itself: whatever fails, disk and index agree afterwards. And slots that lapse."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from muster.core.errors import BAD_REQUEST, SERVER_ERROR, HubError
from muster.core.storage_errors import STORAGE_FULL
from muster.messages.blob_contract import BlobChange, Block, Content, Freed
from muster.messages.blobs import Blobs, Body, ListedBlock, Properties, Source
from muster.messages.upload_contract import Grant, Slot, StoredFile
from muster.messages.uploads import Uploads
from muster.stores.blobs.folder import FolderDraft, FolderFiles
from muster.stores.sqlite.blobs import SqliteBlobIndex
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.testing.clock import VirtualAmbient

ROUNDS, AT_ONCE = 60, 8


class Luck:
    """Says now and then that it is time to fail."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.share = 0.15

    def __call__(self, error: HubError) -> None:
        if self.random.random() < self.share:
            raise error


class UnluckyIndex(SqliteBlobIndex):
    def __init__(self, luck: Luck, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._luck = luck

    async def change(self, name: str, change: BlobChange) -> tuple[Content | None, Freed]:
        self._luck(HubError(SERVER_ERROR))
        return await super().change(name, change)

    async def stage(self, name: str, block: Block, expires_at: float, most: int) -> Freed:
        self._luck(HubError(SERVER_ERROR))
        return await super().stage(name, block, expires_at, most)


class UnluckyFiles(FolderFiles):
    def __init__(self, luck: Luck, *arguments: Any) -> None:
        super().__init__(*arguments, durable=False)
        self._luck = luck

    async def create(self) -> FolderDraft:
        self._luck(HubError(STORAGE_FULL))
        draft = await super().create()
        written, kept, luck = draft.write, draft.keep, self._luck

        async def write(data: bytes) -> None:
            luck(HubError(STORAGE_FULL))
            await written(data)

        async def keep() -> str:
            luck(HubError(SERVER_ERROR))
            return await kept()

        draft.write, draft.keep = write, keep  # type: ignore[method-assign]
        return draft


def body(luck: Luck, data: bytes) -> Body:
    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(data), 100):
            luck(HubError(BAD_REQUEST))
            yield data[at : at + 100]

    return Body(len(data), chunks())


async def one_step(blobs: Blobs, luck: Luck, now: float) -> None:
    chance = luck.random
    name, number = chance.choice("abc"), chance.randrange(4)
    data = bytes([number]) * chance.randrange(500)
    match chance.randrange(6):
        case 0:
            await blobs.put(name, body(luck, data), Properties())
        case 1 | 2:
            await blobs.stage(name, f"b{number}", body(luck, data), now + chance.randrange(1, 100))
        case 3:
            listed = [ListedBlock(Source.LATEST, f"b{chance.randrange(4)}") for _ in range(chance.randrange(4))]
            await blobs.commit(name, listed, Properties())
        case 4:
            await blobs.delete(name)
        case _:
            blob = await blobs.get(name)
            read = [chunk async for chunk in blobs.read(blob, 0, blob.size)]
            assert len(b"".join(read)) == blob.size


@pytest.mark.parametrize("seed", range(3))
async def test_disk_index_and_count_agree_whatever_fails(tmp_path: Path, seed: int) -> None:
    luck, ambient = Luck(seed), VirtualAmbient(seed=seed)
    writer = Writer(tmp_path / "hub.db", MIGRATIONS, asyncio.get_running_loop(), durable=False)
    reader = open_connection(tmp_path / "hub.db", readonly=True)
    index = UnluckyIndex(luck, writer, reader, "hub")
    blobs = Blobs(index, UnluckyFiles(luck, tmp_path / "blobs", ambient), ambient, 1_000_000)
    await blobs.start()
    refused = 0
    for _ in range(ROUNDS):
        steps = (one_step(blobs, luck, ambient.now()) for _ in range(AT_ONCE))
        outcomes = await asyncio.gather(*steps, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, HubError) for outcome in outcomes), outcomes
        refused += sum(outcome is not None for outcome in outcomes)
        ambient.advance(luck.random.randrange(20))
        await asyncio.gather(*blobs._tasks)
        needed = await index.files()
        on_disk = {path.name: path.stat().st_size for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
        assert on_disk == needed
        assert blobs.used == sum(needed.values())
    assert 0 < refused < ROUNDS * AT_ONCE
    await blobs.close()
    reader.close()
    await writer.close()


# --- slots


class Slots:
    """An ``UploadStore`` in memory; ``failure`` is raised by ``expire``."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self.failure: HubError | None = None

    async def begin(self, hub: str, slot: Slot, now: float, most: int) -> None:
        self.slots.append(slot)

    async def get(self, hub: str, device_id: str, correlation_id: str) -> Slot | None:
        return next((slot for slot in self.slots if slot.correlation_id == correlation_id), None)

    async def end(self, hub: str, device_id: str, correlation_id: str) -> bool:
        return False

    async def expire(self, hub: str, now: float) -> Sequence[Slot]:
        if self.failure is not None:
            raise self.failure
        gone = [slot for slot in self.slots if slot.expires_at <= now]
        self.slots = [slot for slot in self.slots if slot.expires_at > now]
        return gone

    async def next_expiry(self, hub: str) -> float | None:
        return min((slot.expires_at for slot in self.slots), default=None)


class Storage:
    def grant(self, blob_name: str, expires_at: float) -> Grant:
        return Grant("h", "box", f"?{expires_at}")

    async def find(self, blob_name: str) -> StoredFile | None:
        return None

    async def close(self) -> None:
        pass


async def advance(ambient: VirtualAmbient, seconds: float) -> None:
    ambient.advance(seconds)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_removed_at_their_end_each_and_again_later_when_the_store_fails() -> None:
    ambient, slots = VirtualAmbient(), Slots()
    uploads = Uploads("hub", slots, Storage(), None, ambient, ttl_seconds=60)
    await uploads.start()
    assert ambient._timers == [], "with nothing to wait for there is no timer"
    _, grant = await uploads.begin("d", "f")
    assert grant.sas_token == f"?{slots.slots[0].expires_at}", "grant and slot end together"
    await advance(ambient, 30)
    await uploads.begin("d", "g")
    await advance(ambient, 30)
    assert [slot.blob_name for slot in slots.slots] == ["d/g"]
    slots.failure = HubError(SERVER_ERROR)
    await advance(ambient, 30)
    assert len(slots.slots) == 1
    slots.failure = None
    await advance(ambient, 60)
    assert slots.slots == []
    await uploads.begin("d", "h")
    await uploads.close()
    await advance(ambient, 1000)
    assert len(slots.slots) == 1, "nobody watches any more"


async def test_slots_of_an_earlier_run_are_watched_from_the_start() -> None:
    ambient, slots = VirtualAmbient(), Slots()
    slots.slots = [Slot("a", "d", "d/a", ambient.now() - 5), Slot("b", "d", "d/b", ambient.now() + 5)]
    uploads = Uploads("hub", slots, Storage(), None, ambient)
    await uploads.start()
    await advance(ambient, 0)
    assert [slot.correlation_id for slot in slots.slots] == ["b"]
    await advance(ambient, 5)
    assert slots.slots == []
    await uploads.close()
