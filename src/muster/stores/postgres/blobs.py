"""What the hub's own storage has of blobs, in PostgreSQL: properties, and which files hold their bytes.

The bytes are elsewhere. Nodes that share an index need files that all of them reach.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import chain
from typing import Any

from muster.core.errors import HubError
from muster.core.storage_errors import INVALID_BLOCK_ID, TOO_MANY_BLOCKS
from muster.messages.blob_contract import Blob, BlobChange, Block, Content, Freed, Standing
from muster.stores.postgres.changes import alone
from muster.stores.postgres.database import Database, Step
from muster.stores.postgres.texts import meant, spelled

_GET = "SELECT name, etag, size, created, modified, headers, metadata FROM blobs WHERE hub = $1 AND name = $2"
_BLOCKS = "SELECT block_id, file, size FROM blob_blocks WHERE hub = $1 AND name = $2 ORDER BY position"
_STAGED = "SELECT block_id, file, size FROM blob_staged WHERE hub = $1 AND name = $2 ORDER BY block_id FOR UPDATE"
_PUT = (
    "INSERT INTO blobs (hub, name, etag, size, created, modified, headers, metadata) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
)
_PUT_BLOCK = "INSERT INTO blob_blocks (hub, name, position, block_id, file, size) VALUES ($1, $2, $3, $4, $5, $6)"
_DELETE = (
    "DELETE FROM blobs WHERE hub = $1 AND name = $2",
    "DELETE FROM blob_blocks WHERE hub = $1 AND name = $2",
    "DELETE FROM blob_staged WHERE hub = $1 AND name = $2",
)
_COUNT_STAGED = (
    "SELECT count(*), max(length(block_id)) FROM blob_staged WHERE hub = $1 AND name = $2 AND block_id <> $3"
)
_STAGED_FILE = "SELECT file, size FROM blob_staged WHERE hub = $1 AND name = $2 AND block_id = $3 FOR UPDATE"
_STAGE = (
    "INSERT INTO blob_staged (hub, name, block_id, file, size, expires_at) VALUES ($1, $2, $3, $4, $5, $6) "
    "ON CONFLICT (hub, name, block_id) "
    "DO UPDATE SET file = excluded.file, size = excluded.size, expires_at = excluded.expires_at"
)
_EXPIRE = (
    "DELETE FROM blob_staged WHERE hub = $1 AND (name, block_id) IN "
    "(SELECT name, block_id FROM blob_staged WHERE hub = $1 AND expires_at <= $2 FOR UPDATE SKIP LOCKED) "
    "RETURNING file, size"
)
_FIRST = "SELECT min(expires_at) FROM blob_staged WHERE hub = $1"
_FILES = "SELECT file, size FROM blob_blocks WHERE hub = $1 UNION SELECT file, size FROM blob_staged WHERE hub = $1"

Fetch = Callable[..., Awaitable[list[Any]]]


class PostgresBlobIndex:
    """``messages.blob_contract.BlobIndex`` of ``hub`` on a database of ``migrations``.

    The blobs of a device are changed one after the other.
    """

    shared = True

    def __init__(self, database: Database, hub: str) -> None:
        self._database = database
        self._hub = hub

    async def get(self, name: str) -> Content | None:
        """See ``BlobIndex``."""
        async with self._database.reading() as connection, connection.transaction(isolation="repeatable_read"):
            blob = await _blob(connection.fetch, self._hub, name)
            return None if blob is None else Content(blob, await _blocks(connection.fetch, _BLOCKS, self._hub, name))

    async def change(self, name: str, change: BlobChange) -> tuple[Content | None, Freed]:
        """See ``BlobIndex``."""

        async def work(step: Step) -> tuple[Content | None, Freed]:
            await alone(step, self._place(name))
            return await _change(step, self._hub, name, change)

        return await self._database.submit(self._place(name), work)

    async def stage(self, name: str, block: Block, expires_at: float, most: int) -> Freed:
        """See ``BlobIndex``."""
        kept = self._hub, spelled(name)

        async def work(step: Step) -> Freed:
            await alone(step, self._place(name))
            ((count, length),) = await step.fetch(_COUNT_STAGED, *kept, block.block_id)
            if count >= most:
                raise HubError(TOO_MANY_BLOCKS, f"{most} blocks of the file wait to be committed, commit them first.")
            if count and length != len(block.block_id):
                raise HubError(INVALID_BLOCK_ID)
            freed = _files(await step.fetch(_STAGED_FILE, *kept, block.block_id))
            await step.write(_STAGE, *kept, *block, expires_at)
            return freed

        return await self._database.submit(self._place(name), work)

    async def expire(self, now: float) -> Freed:
        """See ``BlobIndex``. Of several nodes that ask, one is told of a file; what is being committed stays."""

        async def work(step: Step) -> Freed:
            return _files(await step.returning(_EXPIRE, self._hub, now))

        return await self._database.submit(f"~files/{self._hub}", work)

    async def next_expiry(self) -> float | None:
        """See ``BlobIndex``."""
        first: float | None = await self._database.value(_FIRST, self._hub)
        return first

    async def files(self) -> Mapping[str, int]:
        """See ``BlobIndex``."""
        return _files(await self._database.fetch(_FILES, self._hub))

    def _place(self, name: str) -> str:
        return f"{self._hub}/{name.partition('/')[0]}//files"


async def _change(step: Step, hub: str, name: str, change: BlobChange) -> tuple[Content | None, Freed]:
    blocks = await _blocks(step.fetch, _BLOCKS, hub, name)
    staged = {block.block_id: block for block in await _blocks(step.fetch, _STAGED, hub, name)}
    wanted = change(Standing(await _blob(step.fetch, hub, name), blocks, staged))
    kept = spelled(name)
    for statement in _DELETE:
        await step.write(statement, hub, kept)
    if wanted is not None:
        await step.write(_PUT, hub, *_row(wanted.blob))
        await step.write_many(_PUT_BLOCK, [(hub, kept, place, *block) for place, block in enumerate(wanted.blocks)])
    needed = {block.file for block in wanted.blocks} if wanted is not None else set()
    return wanted, {block.file: block.size for block in chain(blocks, staged.values()) if block.file not in needed}


async def _blocks(fetch: Fetch, query: str, hub: str, name: str) -> list[Block]:
    return [Block(*row) for row in await fetch(query, hub, spelled(name))]


async def _blob(fetch: Fetch, hub: str, name: str) -> Blob | None:
    rows = await fetch(_GET, hub, spelled(name))
    if not rows:
        return None
    name, etag, size, created, modified, headers, metadata = rows[0]
    return Blob(
        name=meant(name), etag=etag, size=size, created=created, modified=modified, headers=json.loads(headers),
        metadata=json.loads(metadata),
    )  # fmt: skip


def _row(blob: Blob) -> tuple[Any, ...]:
    headers, metadata = json.dumps(dict(blob.headers)), json.dumps(dict(blob.metadata))
    return spelled(blob.name), blob.etag, blob.size, blob.created, blob.modified, headers, metadata


def _files(rows: list[Any]) -> dict[str, int]:
    return {file: size for file, size in rows}  # noqa: C416  rows are no pairs to mypy
