"""The embedded blob endpoint in trouble: cut and stalled connections, full disks, too much at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from file_hub import QUOTA, FileHub, Place, block_id, file_hub, refused, storage_error

from muster.core.limits import HTTP_BODY_WAIT
from muster.heads.http import messages as http_messages
from muster.messages import blobs as blobs_room
from muster.stores.blobs import folder

pytestmark = pytest.mark.embedded("several nodes have no endpoint for files of their own")
MIB = 1024 * 1024


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[FileHub]:
    async with file_hub(tmp_path) as hub:
        yield hub


@pytest.fixture
async def place(hub: FileHub) -> Place:
    return await hub.begin()


# --- trouble


def head_of(place: Place, size: int, query: str = "") -> bytes:
    target = f"{place.path}?{query}{place.sas}"
    return (
        f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\nx-ms-blob-type: BlockBlob\r\n\r\n"
    ).encode()


async def test_40_a_connection_cut_in_the_body_leaves_nothing_and_a_retry_works(hub: FileHub, place: Place) -> None:
    data, chance = random.Random(3).randbytes(600_000), random.Random(4)
    await hub.put(place, b"before")
    for round_ in range(40):
        cut = chance.choice([0, 1, len(data) - 1, chance.randrange(len(data))])
        query = chance.choice(["", f"comp=block&blockid={quote(block_id(1), safe='')}&"])
        _, writer = await hub.raw()
        writer.write(head_of(place, len(data), query) + data[:cut])
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        if round_ % 2:
            writer.transport.abort()
        else:
            writer.close()
    await hub.settled(lambda: hub.files() == 1 and hub.blobs.used == len(b"before"))
    assert (await hub.get(place)).body == b"before"
    assert refused(await hub.commit(place, [("Latest", 1)])) == "InvalidBlockList"
    assert (await hub.put(place, data)).status == 201
    assert (await hub.get(place)).body == data


async def test_41_a_client_that_stops_sending_is_given_up(
    hub: FileHub, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_messages, "HTTP_BODY_WAIT", HTTP_BODY_WAIT._replace(open=0.1))  # type: ignore[arg-type]
    reader, writer = await hub.raw()
    writer.write(head_of(place, 1000) + b"some")
    answer = await asyncio.wait_for(reader.readuntil(b"</Error>"), 10)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert b"OperationTimedOut" in answer
    assert (hub.files(), hub.blobs.used) == (0, 0)
    writer.close()


async def test_42_the_quota_is_told_before_the_body_and_counts_what_is_under_way(hub: FileHub, place: Place) -> None:
    answer = await hub.put(place, bytes(QUOTA + 1))
    assert storage_error(answer) == (409, "InsufficientStorage")
    assert b"64 MiB" in answer.body
    _, writer = await hub.raw()
    writer.write(head_of(place, QUOTA) + b"x")
    await hub.settled(lambda: hub.blobs.used == QUOTA)
    assert refused(await hub.put(place, b"x")) == "InsufficientStorage"
    writer.transport.abort()
    await hub.settled(lambda: hub.blobs.used == 0)
    assert (await hub.put(place, b"x")).status == 201


@pytest.mark.parametrize("limit", ["BLOB_BODIES", "BLOB_BODIES_EACH"])
async def test_43_only_so_many_bodies_at_once(
    hub: FileHub, place: Place, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(blobs_room, limit, getattr(blobs_room, limit)._replace(open=2))
    writers = [(await hub.raw())[1] for _ in range(2)]
    for writer in writers:
        writer.write(head_of(place, 10) + b"x")
    await hub.settled(lambda: hub.blobs.used == 20)
    assert storage_error(await hub.put(place, b"x")) == (503, "ServerBusy")
    other = await hub.put(await hub.begin(device_id="other"), b"x")
    assert other.status == (503 if limit == "BLOB_BODIES" else 201), "one device does not keep the others out"
    for writer in writers:
        writer.transport.abort()
    await hub.settled(lambda: hub.blobs.used == (0 if limit == "BLOB_BODIES" else 1))
    assert (await hub.put(place, b"x")).status == 201


async def test_44_a_full_disk_is_told_and_leaves_nothing(
    hub: FileHub, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each draft is /dev/full."""
    opened = folder.os.open

    def full(path: object, flags: int, *mode: int) -> int:
        handle = opened(path, flags, *mode)  # type: ignore[arg-type]
        if "incoming" in str(path):
            folder.os.dup2(opened("/dev/full", folder.os.O_WRONLY), handle)
        return handle

    monkeypatch.setattr(folder.os, "open", full)
    answer = await hub.put(place, bytes(MIB))
    assert storage_error(answer) == (409, "InsufficientStorage")
    assert b"disk" in answer.body
    monkeypatch.undo()
    assert (hub.files(), hub.blobs.used) == (0, 0)
    assert (await hub.put(place, b"x")).status == 201


async def test_45_what_a_killed_hub_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    async with file_hub(tmp_path) as hub:
        place = await hub.begin()
        await hub.put(place, b"kept")
        await hub.stage(place, 1, b"staged")
    others = ("blobs/mine/photo.jpg", "blobs/ab/photo.jpg")
    for path in ("blobs/incoming/" + "ab" * 16, "blobs/ab/" + "ab" * 16, *others):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    async with file_hub(tmp_path, ambient=hub.ambient) as hub:
        assert (hub.files(), hub.blobs.used) == (2 + len(others), 10)
        assert all((tmp_path / path).exists() for path in others), "what is not the hub's is let be"
        assert (await hub.get(place)).body == b"kept"
        assert (await hub.commit(place, [("Latest", 1)])).status == 201
        assert (await hub.get(place)).body == b"staged"


async def test_46_a_refusal_reaches_a_client_that_goes_on_sending(hub: FileHub, place: Place) -> None:
    """And the connection is not reset before it was read."""
    reader, writer = await hub.raw()
    size = 8 * MIB
    head = head_of(place._replace(sas=place.sas.replace("sp=rw", "sp=r")), size)
    writer.write(head)

    async def send() -> None:
        for _ in range(8):
            writer.write(bytes(MIB))
            await writer.drain()

    sending = asyncio.create_task(send())
    answer = await asyncio.wait_for(reader.readuntil(b"</Error>"), 10)
    assert b" 403 " in answer.split(b"\r\n")[0]
    with contextlib.suppress(ConnectionError):
        await sending
    writer.close()
    assert hub.files() == 0


async def test_47_while_the_disk_is_busy_the_socket_is_not_read(
    hub: FileHub, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a slow disk costs the hub no memory: what was sent stays in the kernels, and the client waits."""
    disk, wrote = threading.Event(), folder.FolderDraft._write

    def slowly(draft: folder.FolderDraft, data: bytes) -> None:
        disk.wait(30)
        wrote(draft, data)

    monkeypatch.setattr(folder.FolderDraft, "_write", slowly)
    size = 32 * MIB
    reader, writer = await hub.raw()
    writer.write(head_of(place, size))

    async def send() -> None:
        for _ in range(32):
            writer.write(bytes(MIB))
            await writer.drain()

    sending = asyncio.create_task(send())
    await hub.settled(lambda: any(not transport.is_reading() for transport in hub.listener.transports))
    await asyncio.sleep(0.2)
    assert not sending.done()
    disk.set()
    await asyncio.wait_for(sending, 30)
    assert b" 201 " in await asyncio.wait_for(reader.readline(), 30)
    writer.close()
    assert (await hub.get(place, "HEAD")).headers["Content-Length"] == str(size)
