"""The hub's own storage of uploaded files: blobs written whole or block by block, as Azure Storage has them.

A blob is a list of blocks, and a block is a file that is written once: the bytes of each request go to the disk as
they come, under a name of the hub's own, and committing a list of blocks moves none of them. The index says what a
blob is, in one transaction; a file that no index entry names is rubbish, and is removed, at the latest at the next
start.

Where several processes have the files in common, one cannot know what another one is writing or reading. So files that
nobody needs are let be for ``OTHERS_SECONDS`` more, and what has been used is counted anew now and then.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from muster.core.ambient import Ambient, Timer
from muster.core.errors import HubError
from muster.core.storage_errors import (
    BLOB_NOT_FOUND,
    INVALID_BLOCK_LIST,
    MD5_MISMATCH,
    SERVER_BUSY,
    STORAGE_FULL,
)
from muster.core.upload_limits import BLOB_BLOCKS, BLOB_BODIES, BLOB_BODIES_EACH
from muster.messages.blob_contract import Blob, BlobChange, BlobFiles, BlobIndex, Block, Content, Freed, Standing

READ_BYTES = 262_144
_ETAG_BYTES = 7
_RETRY_SECONDS = 60.0
OTHERS_SECONDS = 600.0
"""How long a file stays that was given up, or was written and is not in the index: to read or to send a piece of a file
takes less."""
_COUNT_SECONDS = 30.0
"""How long at most it is not known what others have put."""

NOTHING_FREED: Freed = {}

Condition = Callable[[Blob | None], None]
"""Raises ``HubError`` when the blob (``None``: absent) is not what the caller wants it to be."""

log = logging.getLogger("muster.blobs")


class Source(Enum):
    """Where a block of a list is looked for."""

    COMMITTED = "Committed"
    UNCOMMITTED = "Uncommitted"
    LATEST = "Latest"


class ListedBlock(NamedTuple):
    """An entry of a block list."""

    source: Source
    block_id: str


@dataclass(frozen=True, slots=True)
class Properties:
    """What a client says of a blob that it writes, see ``Blob``."""

    headers: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Body:
    """What a request carries: ``size`` bytes in ``chunks``; ``md5`` is the digest that the client gave, if it did."""

    size: int
    chunks: AsyncIterable[bytes]
    md5: bytes | None = None


class _Stamp(NamedTuple):
    """What a write gets from the ambient: its moment and a new ETag."""

    now: float
    etag: str

    def blob(self, name: str, before: Blob | None, size: int, properties: Properties) -> Blob:
        return Blob(
            name=name, etag=self.etag, size=size, created=self.now if before is None else before.created,
            modified=self.now, headers=properties.headers, metadata=properties.metadata,
        )  # fmt: skip


def anything(_: Blob | None) -> None:
    """The condition that always holds."""


class Blobs:
    """The files of one hub. ``quota`` bounds all of them together, in bytes."""

    def __init__(self, index: BlobIndex, files: BlobFiles, ambient: Ambient, quota: int) -> None:
        self._index = index
        self._files = files
        self._ambient = ambient
        self._quota = quota
        self._used = 0
        self._counted_at = 0.0
        self._receiving = 0
        """Bytes of the requests in progress."""
        self._leaving = 0
        """Bytes of files that others may be reading."""
        self._bodies: Counter[str] = Counter()
        self._read: Counter[str] = Counter()
        self._doomed: dict[str, int] = {}
        self._timer: Timer | None = None
        self._timers: set[Timer] = set()
        self._armed = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Remove what an earlier run left half done, and watch over blocks that wait."""
        await self._sweep()
        if self._index.shared:  # others may have died just before, and what they left is spared
            self._later(OTHERS_SECONDS, self._sweep_again)
        self._arm(await self._index.next_expiry())

    async def _sweep(self) -> None:
        needed = await self._count()
        before = self._ambient.now() - OTHERS_SECONDS if self._index.shared else math.inf
        removed = await asyncio.to_thread(self._files.sweep, needed, before)
        if removed:
            log.info("%d files of uploads that did not end were removed", removed)

    async def _sweep_again(self) -> None:
        try:
            await self._sweep()
        except HubError as error:
            log.warning("files of uploads that did not end are not removed before the next start: %s", error)

    async def _count(self) -> Mapping[str, int]:
        needed = await self._index.files()
        self._used = sum(needed.values()) + self._receiving + self._leaving + sum(self._doomed.values())
        self._counted_at = self._ambient.now()
        return needed

    async def close(self) -> None:
        """Watch no more. Harmless when repeated."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def used(self) -> int:
        """Bytes that are taken, those of requests in progress included."""
        return self._used

    # --- writing

    async def put(self, name: str, body: Body, properties: Properties, condition: Condition = anything) -> Blob:
        """Write a blob whole, over what is there. Its ``Content-MD5`` is computed unless the client set one.

        Raises ``HubError``: what ``condition`` raises, ``Md5Mismatch``, ``InsufficientStorage``, ``ServerBusy``, and
        what reading the body raises. Nothing is left then.
        """
        found = await self._index.get(name)
        condition(None if found is None else found.blob)
        block, md5 = await self._receive(name, body, "")
        given, stamp = {"Content-MD5": md5, **properties.headers}, self._stamp()

        def change(standing: Standing) -> Content:
            condition(standing.blob)
            return Content(stamp.blob(name, standing.blob, block.size, Properties(given, properties.metadata)), [block])

        content = await self._change(name, change, {block.file: block.size})
        assert content is not None
        return content.blob

    async def stage(self, name: str, block_id: str, body: Body, expires_at: float) -> str:
        """Write a block that waits to be committed, at most until ``expires_at``; its MD5 in base64.

        Raises as ``put``, and ``InvalidBlobOrBlock`` or ``BlockCountExceedsLimit``.
        """
        block, md5 = await self._receive(name, body, block_id)
        try:
            freed = await asyncio.shield(self._index.stage(name, block, expires_at, BLOB_BLOCKS.open))
        except HubError:
            await self._remove({block.file: block.size})
            raise
        await self._free(freed)
        self._arm(expires_at)
        return md5

    async def commit(
        self, name: str, listed: Sequence[ListedBlock], properties: Properties, condition: Condition = anything
    ) -> Blob:
        """Make the blob of blocks that were staged, or of its own; all others go.

        Raises ``HubError``: what ``condition`` raises, ``InvalidBlockList``.
        """
        stamp = self._stamp()

        def change(standing: Standing) -> Content:
            condition(standing.blob)
            blocks = _chosen(listed, standing)
            size = sum(block.size for block in blocks)
            return Content(stamp.blob(name, standing.blob, size, properties), blocks)

        content = await self._change(name, change)
        assert content is not None
        return content.blob

    async def delete(self, name: str, condition: Condition = anything) -> None:
        """Remove a blob and what waits for it. Raises ``HubError`` ``BlobNotFound``, or what ``condition`` raises."""

        def change(standing: Standing) -> None:
            if standing.blob is None:
                raise HubError(BLOB_NOT_FOUND)
            condition(standing.blob)

        await self._change(name, change)

    def _stamp(self) -> _Stamp:
        return _Stamp(self._ambient.now(), f"0x{self._ambient.random_bytes(_ETAG_BYTES).hex().upper()}")

    async def _change(self, name: str, change: BlobChange, fresh: Freed = NOTHING_FREED) -> Content | None:
        try:
            content, freed = await asyncio.shield(self._index.change(name, change))
        except HubError:
            await self._remove(fresh)
            raise
        await self._free(freed)
        return content

    async def _receive(self, name: str, body: Body, block_id: str) -> tuple[Block, str]:
        """The body as a file on the disk, and its MD5 in base64."""
        if self._index.shared and self._ambient.now() - self._counted_at >= _COUNT_SECONDS:
            await self._count()
        with self._reserved(name.partition("/")[0], body.size):
            draft = await self._files.create()
            try:
                async for chunk in body.chunks:
                    await draft.write(chunk)
                if body.md5 is not None and body.md5 != draft.md5:
                    raise HubError(MD5_MISMATCH)
                file = await draft.keep()
            finally:
                await asyncio.shield(draft.discard())
        return Block(block_id, file, body.size), base64.b64encode(draft.md5).decode()

    @contextmanager
    def _reserved(self, device_id: str, size: int) -> Iterator[None]:
        """Room for ``size`` bytes, which are taken unless something is raised."""
        if self._bodies.total() >= BLOB_BODIES.open or self._bodies[device_id] >= BLOB_BODIES_EACH.open:
            raise HubError(SERVER_BUSY)
        if self._used + size > self._quota:
            raise HubError(
                STORAGE_FULL,
                f"The hub keeps {self._quota // 1024**2} MiB of files at most, delete some or raise --upload-mib.",
            )
        self._used += size
        self._receiving += size
        self._bodies[device_id] += 1
        try:
            yield
        except BaseException:
            self._used -= size
            raise
        finally:
            self._receiving -= size
            self._bodies[device_id] -= 1
            self._bodies += Counter()  # drops those that have none

    # --- reading

    async def get(self, name: str) -> Blob:
        """What is known of a blob. Raises ``HubError`` ``BlobNotFound``."""
        found = await self._index.get(name)
        if found is None:
            raise HubError(BLOB_NOT_FOUND)
        return found.blob

    async def read(self, blob: Blob, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes from ``start`` to before ``stop``, in pieces, of ``blob`` as it is now.

        A blob that is replaced or deleted meanwhile is read to its end all the same. Raises ``HubError``
        ``BlobNotFound`` when ``blob`` has been replaced or deleted before that, 500001 when the disk fails.
        """
        found = await self._index.get(blob.name)
        if found is None or found.blob.etag != blob.etag:
            raise HubError(BLOB_NOT_FOUND)
        files = [block.file for block in found.blocks]
        self._read.update(files)
        try:
            begin = 0
            for block in found.blocks:
                at, end = max(start - begin, 0), min(stop - begin, block.size)
                while at < end:
                    data = await self._files.read(block.file, at, min(READ_BYTES, end - at))
                    if not data:
                        raise HubError(BLOB_NOT_FOUND, f"The file {blob.name} is damaged.")
                    at += len(data)
                    yield data
                begin += block.size
        finally:
            self._read.subtract(files)
            self._release(files)

    def _release(self, files: Collection[str]) -> None:
        for file in files:
            if not self._read[file]:
                del self._read[file]
        over = {file: self._doomed.pop(file) for file in set(files) if file in self._doomed and file not in self._read}
        if over:
            self._begin(self._remove(over))

    # --- files that nobody needs

    async def _free(self, files: Freed) -> None:
        """Remove files that were in the index, once nobody else can be reading them."""
        if not self._index.shared or not files:
            await self._remove(files)
            return
        size = sum(files.values())
        self._leaving += size

        async def remove() -> None:
            self._leaving -= size
            await self._remove(files)

        self._later(OTHERS_SECONDS, remove)
        await asyncio.shield(self._files.spare(files))

    def _later(self, seconds: float, work: Callable[[], Coroutine[None, None, None]]) -> None:
        def due() -> None:
            self._timers.discard(timer)
            self._begin(work())

        timer = self._ambient.at(self._ambient.now() + seconds, due)
        self._timers.add(timer)

    async def _remove(self, files: Freed) -> None:
        """Remove files, those that are being read here once that ends."""
        free = {file: size for file, size in files.items() if not self._read[file]}
        self._doomed |= {file: size for file, size in files.items() if file not in free}
        if free:
            self._used -= sum(free.values())
            await asyncio.shield(self._files.remove(free))

    def _arm(self, due: float | None) -> None:
        if due is None or self._closed or (self._timer is not None and self._armed <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed = due
        self._timer = self._ambient.at(due, self._due)

    def _due(self) -> None:
        self._timer = None
        self._begin(self._expire())

    async def _expire(self) -> None:
        try:
            await self._free(await self._index.expire(self._ambient.now()))
            self._arm(await self._index.next_expiry())
        except HubError as error:
            log.warning("blocks that were never committed could not be removed: %s", error)
            self._arm(self._ambient.now() + _RETRY_SECONDS)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _chosen(listed: Sequence[ListedBlock], standing: Standing) -> list[Block]:
    committed = {block.block_id: block for block in standing.blocks}
    blocks = []
    for number, (source, block_id) in enumerate(listed, start=1):
        found = None if source is Source.COMMITTED else standing.staged.get(block_id)
        if found is None and source is not Source.UNCOMMITTED:
            found = committed.get(block_id)
        if found is None:
            raise HubError(INVALID_BLOCK_LIST, f"Entry {number} of the block list, {block_id}, was not put.")
        blocks.append(found)
    return blocks
