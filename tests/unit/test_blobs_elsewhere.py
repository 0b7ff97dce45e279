"""The files of a hub that two processes serve out of one folder and one ``hub.db``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from muster.core.errors import SERVER_ERROR, HubError
from muster.core.storage_errors import STORAGE_FULL
from muster.messages.blobs import OTHERS_SECONDS, Blobs, Body, Properties
from muster.stores.blobs.folder import FolderFiles
from muster.stores.sqlite.blobs import SqliteBlobIndex
from muster.stores.sqlite.storage import SqliteStorage
from muster.testing.clock import VirtualAmbient

QUOTA = 1000


class Node:
    """What one process has of the files."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.ambient = VirtualAmbient(time.time(), seed)
        self.storage = SqliteStorage(directory / "hub.db", durable=False, shared=True)
        self.files = FolderFiles(directory / "blobs", self.ambient, durable=False)
        self.index = self.storage.of("hub").blobs
        self.blobs = Blobs(self.index, self.files, self.ambient, QUOTA)

    async def put(self, data: bytes, name: str = "d/file") -> None:
        await self.blobs.put(name, body_of(data), Properties())

    async def read(self, name: str = "d/file") -> bytes:
        blob = await self.blobs.get(name)
        return b"".join([piece async for piece in self.blobs.read(blob, 0, blob.size)])

    async def later(self, seconds: float) -> None:
        """So much later, when all that was due is done."""
        self.ambient.advance(seconds)
        await asyncio.gather(*self.blobs._tasks)

    async def close(self) -> None:
        await self.blobs.close()
        await self.storage.close()


def body_of(*chunks: bytes) -> Body:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return Body(sum(map(len, chunks)), stream())


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    made = Node(tmp_path, 1), Node(tmp_path, 2)
    for node in made:
        await node.blobs.start()
    yield made
    for node in made:
        await node.close()


def there(directory: Path) -> list[Path]:
    return [path for path in (directory / "blobs").rglob("*") if path.is_file()]


def rubbish(directory: Path, name: str, age: float) -> Path:
    path = directory / "blobs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age,) * 2)
    return path


async def test_what_one_puts_all_serve(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    await one.put(b"one")
    assert await other.read() == b"one"
    await other.put(b"other")
    assert await one.read() == b"other"


async def test_who_starts_lets_be_what_others_are_writing(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    one, sent = nodes[0], asyncio.Event()
    old = [rubbish(tmp_path, f"{place}/{'0' * 32}", OTHERS_SECONDS + 60) for place in ("incoming", "00")]

    async def slowly() -> AsyncIterator[bytes]:
        yield b"so"
        await sent.wait()
        yield b"me"

    putting = asyncio.ensure_future(one.blobs.put("d/file", Body(4, slowly()), Properties()))
    while len(there(tmp_path)) < 3:
        await asyncio.sleep(0.001)
    starting = Node(tmp_path, 3)
    await starting.blobs.start()
    assert not any(path.exists() for path in old)
    left = rubbish(tmp_path, f"11/{'1' * 32}", 1)  # as of one who died right now
    sent.set()
    await putting
    assert await starting.read() == b"some"
    await starting.later(OTHERS_SECONDS)
    assert not left.exists()
    assert await starting.read() == b"some"
    await starting.close()


async def test_what_another_one_reads_stays_for_a_while(
    nodes: tuple[Node, Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = nodes
    monkeypatch.setattr("muster.messages.blobs.READ_BYTES", 2)
    await one.put(b"before")
    for path in there(tmp_path):  # it was written long ago
        os.utime(path, (0, 0))
    blob = await one.blobs.get("d/file")
    reading = one.blobs.read(blob, 0, blob.size)
    read = await anext(reading)
    await other.later(30)
    await other.put(b"after")
    assert other.blobs.used == len(b"before") + len(b"after")
    starting = Node(tmp_path, 3)
    await starting.blobs.start()
    read += b"".join([piece async for piece in reading])
    assert read == b"before"
    assert len(there(tmp_path)) == 2
    await other.later(OTHERS_SECONDS)
    assert len(there(tmp_path)) == 1
    assert other.blobs.used == len(b"after")
    await starting.close()


async def test_a_file_that_the_index_refused_goes_at_once(
    nodes: tuple[Node, Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise HubError(SERVER_ERROR)

    monkeypatch.setattr(SqliteBlobIndex, "change", fail)
    with pytest.raises(HubError):
        await nodes[0].put(b"x")
    assert there(tmp_path) == []


@contextlib.contextmanager
def full() -> Iterator[None]:
    with pytest.raises(HubError) as refused:
        yield
    assert refused.value.row is STORAGE_FULL


async def test_the_quota_is_that_of_all_together(nodes: tuple[Node, Node]) -> None:
    one, other = nodes
    await one.put(b"x" * 600)
    await other.later(30)
    with full():
        await other.put(b"y" * 600, "d/other")
    await other.put(b"y" * 400, "d/other")
    await one.put(b"", "d/file")  # its bytes are given up, and not gone
    await one.later(30)
    with full():
        await one.put(b"x" * 600, "d/third")
    await one.later(OTHERS_SECONDS)
    await one.put(b"x" * 600, "d/third")
    assert one.blobs.used == 1000
