"""What the hub's own storage of files asks of others: a place for bytes, and an index of what they mean."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Block(NamedTuple):
    """A run of a blob's bytes: ``file`` names it in the ``BlobFiles``, ``size`` is in bytes."""

    block_id: str
    file: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A file that is there. Times are seconds since 1970; ``etag`` is without quotes and changes with each write.

    ``headers`` are its content headers (``Content-Type`` and so on, by their names as headers), ``metadata`` what the
    client wants to be told again.
    """

    name: str
    etag: str
    size: int
    created: float
    modified: float
    headers: Mapping[str, str]
    metadata: Mapping[str, str]


class Standing(NamedTuple):
    """A blob and its blocks in order (``None``: there is none), and the blocks that wait to be committed, by id."""

    blob: Blob | None
    blocks: Sequence[Block]
    staged: Mapping[str, Block]


class Content(NamedTuple):
    """What a blob shall be."""

    blob: Blob
    blocks: Sequence[Block]


BlobChange = Callable[[Standing], Content | None]
"""Returns what the blob shall be (``None``: deleted). Pure and quick; raises ``HubError`` to refuse. Blocks that wait
to be committed are gone afterwards, as with Azure Storage."""


Freed = Mapping[str, int]
"""Files that nobody needs any more, and their sizes."""


class BlobIndex(Protocol):
    """What there is of blobs: names, properties, which files hold their bytes.

    Promises: what a call has done is durable when it returns, and done whole or not at all. Does not promise to touch
    files: it tells which ones nobody needs any more.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes change it too, and read and write the same ``BlobFiles``."""
        ...

    async def get(self, name: str) -> Content | None:
        """The blob and its blocks, ``None`` when there is none."""
        ...

    async def change(self, name: str, change: BlobChange) -> tuple[Content | None, Freed]:
        """Let ``change`` decide. Returns the blob as it is now, and the files that are free."""
        ...

    async def stage(self, name: str, block: Block, expires_at: float, most: int) -> Freed:
        """Keep a block to be committed until ``expires_at``. It replaces one with the same id; returns freed files.

        Raises ``HubError`` ``InvalidBlobOrBlock`` when its id is not as long as those that wait, and
        ``BlockCountExceedsLimit`` when ``most`` wait already.
        """
        ...

    async def expire(self, now: float) -> Freed:
        """Forget the blocks that have waited too long by ``now``, and return their files."""
        ...

    async def next_expiry(self) -> float | None:
        """When the first block that waits is to be forgotten, ``None`` when none waits."""
        ...

    async def files(self) -> Mapping[str, int]:
        """Every file that is needed, and its size. Reads the whole index."""
        ...


class Draft(Protocol):
    """A file that is being written. Ends with ``keep`` or ``discard``."""

    async def write(self, data: bytes) -> None:
        """Append. Raises ``HubError`` ``InsufficientStorage`` when the disk is full, 500001 when it fails."""
        ...

    async def keep(self) -> str:
        """Make it durable; its name from now on. Raises as ``write``."""
        ...

    async def discard(self) -> None:
        """Remove it; harmless after ``keep`` and when repeated."""
        ...

    @property
    def md5(self) -> bytes:
        """The MD5 digest of what was written."""
        ...


class BlobFiles(Protocol):
    """Bytes on a disk, in files that are written once.

    Promises: a name never comes from a client. Drafts of an earlier run are gone.
    """

    async def create(self) -> Draft:
        """Begin a file. Raises as ``Draft.write``."""
        ...

    async def read(self, file: str, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``offset`` on; fewer at the end. Raises ``HubError`` 500001."""
        ...

    async def remove(self, files: Collection[str]) -> None:
        """Remove files; those that are gone do not matter."""
        ...

    async def spare(self, files: Collection[str]) -> None:
        """Count files as written just now."""
        ...

    def sweep(self, needed: Collection[str], before: float) -> int:
        """Remove every file of an earlier run but ``needed`` and those that were written to at ``before`` or later
        (seconds since 1970); how many they were."""
        ...
