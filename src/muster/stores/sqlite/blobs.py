"""What the hub's own storage has of blobs, in ``hub.db``: properties, and which files hold their bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from typing import Any

import apsw

from muster.core.errors import HubError
from muster.core.storage_errors import INVALID_BLOCK_ID, TOO_MANY_BLOCKS
from muster.messages.blob_contract import Blob, BlobChange, Block, Content, Freed, Standing
from muster.stores.sqlite.database import Writer, told_as_refusal

_GET = "SELECT name, etag, size, created, modified, headers, metadata FROM blobs WHERE hub = ? AND name = ?"
_BLOCKS = "SELECT block_id, file, size FROM blob_blocks WHERE hub = ? AND name = ? ORDER BY position"
_STAGED = "SELECT block_id, file, size FROM blob_staged WHERE hub = ? AND name = ?"
_PUT = (
    "INSERT OR REPLACE INTO blobs (hub, name, etag, size, created, modified, headers, metadata) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_PUT_BLOCK = "INSERT INTO blob_blocks (hub, name, position, block_id, file, size) VALUES (?, ?, ?, ?, ?, ?)"
_DELETE = (
    "DELETE FROM blobs WHERE hub = ? AND name = ?",
    "DELETE FROM blob_blocks WHERE hub = ? AND name = ?",
    "DELETE FROM blob_staged WHERE hub = ? AND name = ?",
)
_COUNT_STAGED = "SELECT count(*), max(length(block_id)) FROM blob_staged WHERE hub = ? AND name = ? AND block_id <> ?"
_STAGED_FILE = "SELECT file, size FROM blob_staged WHERE hub = ? AND name = ? AND block_id = ?"
_STAGE = "INSERT OR REPLACE INTO blob_staged (hub, name, block_id, file, size, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
_EXPIRE = "DELETE FROM blob_staged WHERE hub = ? AND expires_at <= ? RETURNING file, size"
_FIRST = "SELECT min(expires_at) FROM blob_staged WHERE hub = ?"
_FILES = "SELECT file, size FROM blob_blocks WHERE hub = ?1 UNION SELECT file, size FROM blob_staged WHERE hub = ?1"


class SqliteBlobIndex:
    """``messages.blob_contract.BlobIndex`` of ``hub`` on a ``hub.db``.

    ``reader`` is used by the loop's thread only. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection, hub: str) -> None:
        self.shared = writer.turns is not None
        self._writer = writer
        self._reader = reader
        self._hub = hub

    async def get(self, name: str) -> Content | None:
        with told_as_refusal(self._writer.path):
            blob = _blob(self._reader, self._hub, name)
            return None if blob is None else Content(blob, _blocks(self._reader, _BLOCKS, self._hub, name))

    async def change(self, name: str, change: BlobChange) -> tuple[Content | None, Freed]:
        return await self._writer.submit(lambda connection: _change(connection, self._hub, name, change))

    async def stage(self, name: str, block: Block, expires_at: float, most: int) -> Freed:
        def work(connection: apsw.Connection) -> dict[str, int]:
            count, length = connection.execute(_COUNT_STAGED, (self._hub, name, block.block_id)).get
            if count >= most:
                raise HubError(TOO_MANY_BLOCKS, f"{most} blocks of the file wait to be committed, commit them first.")
            if count and length != len(block.block_id):
                raise HubError(INVALID_BLOCK_ID)
            freed = dict(connection.execute(_STAGED_FILE, (self._hub, name, block.block_id)))
            connection.execute(_STAGE, (self._hub, name, *block, expires_at))
            return freed

        return await self._writer.submit(work)

    async def expire(self, now: float) -> Freed:
        return await self._writer.submit(lambda connection: dict(connection.execute(_EXPIRE, (self._hub, now))))

    async def next_expiry(self) -> float | None:
        with told_as_refusal(self._writer.path):
            first: float | None = self._reader.execute(_FIRST, (self._hub,)).get
        return first

    async def files(self) -> Mapping[str, int]:
        with told_as_refusal(self._writer.path):
            return dict(self._reader.execute(_FILES, (self._hub,)))


def _change(connection: apsw.Connection, hub: str, name: str, change: BlobChange) -> tuple[Content | None, Freed]:
    blob = _blob(connection, hub, name)
    blocks = _blocks(connection, _BLOCKS, hub, name)
    staged = {block.block_id: block for block in _blocks(connection, _STAGED, hub, name)}
    wanted = change(Standing(blob, blocks, staged))
    for statement in _DELETE:
        connection.execute(statement, (hub, name))
    if wanted is not None:
        connection.execute(_PUT, (hub, *_row(wanted.blob)))
        connection.executemany(_PUT_BLOCK, [(hub, name, place, *block) for place, block in enumerate(wanted.blocks)])
    kept = {block.file for block in wanted.blocks} if wanted is not None else set()
    return wanted, {block.file: block.size for block in chain(blocks, staged.values()) if block.file not in kept}


def _blocks(connection: apsw.Connection, query: str, hub: str, name: str) -> list[Block]:
    return [Block(*row) for row in connection.execute(query, (hub, name))]


def _blob(connection: apsw.Connection, hub: str, name: str) -> Blob | None:
    row: Any = connection.execute(_GET, (hub, name)).fetchone()
    if row is None:
        return None
    name, etag, size, created, modified, headers, metadata = row
    return Blob(
        name=name, etag=etag, size=size, created=created, modified=modified, headers=json.loads(headers),
        metadata=json.loads(metadata),
    )  # fmt: skip


def _row(blob: Blob) -> tuple[Any, ...]:
    headers, metadata = json.dumps(dict(blob.headers)), json.dumps(dict(blob.metadata))
    return blob.name, blob.etag, blob.size, blob.created, blob.modified, headers, metadata
