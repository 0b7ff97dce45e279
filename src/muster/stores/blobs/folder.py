"""Bytes of uploaded files in a folder of the data directory.

A file's name is random and never a client's, so none can lead out of the folder, and no limit of the file system on
names matters; what a file belongs to stands in the index (``stores.sqlite.blobs``), so that replacing a blob and its
properties is one transaction. Drafts are written in ``incoming`` and renamed once they are on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from muster.core.ambient import Ambient
from muster.core.errors import SERVER_ERROR, HubError
from muster.core.storage_errors import STORAGE_FULL

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NAME_BYTES = 16
_INCOMING = "incoming"
_OURS = re.compile(r"[0-9a-f]{32}")
"""With ``--data .`` the folder may hold files of somebody else's: they are let be."""

T = TypeVar("T")


class FolderFiles:
    """``messages.blob_contract.BlobFiles`` in ``folder``, which is made when missing.

    ``durable``: a file that is kept survives a power cut. Raises ``HubError`` 500001 when the folder cannot be made.
    """

    def __init__(self, folder: Path, ambient: Ambient, *, durable: bool = True) -> None:
        self._folder = folder
        self._ambient = ambient
        self._durable = durable
        with _told(folder):
            (folder / _INCOMING).mkdir(mode=0o700, parents=True, exist_ok=True)
            if durable:
                _sync_directory(folder.parent)

    async def create(self) -> FolderDraft:
        name = self._ambient.random_bytes(_NAME_BYTES).hex()
        return await asyncio.to_thread(FolderDraft, self._folder / _INCOMING / name, self._place(name), self._durable)

    async def read(self, file: str, offset: int, count: int) -> bytes:
        return await asyncio.to_thread(self._read, file, offset, count)

    def _read(self, file: str, offset: int, count: int) -> bytes:
        place = self._place(file)
        with _told(place), place.open("rb", buffering=0) as opened:
            opened.seek(offset)
            return opened.read(count) or b""

    async def remove(self, files: Collection[str]) -> None:
        await asyncio.to_thread(self._remove, list(files))

    def _remove(self, files: Collection[str]) -> None:
        for file in files:
            with contextlib.suppress(OSError):  # the next start tries again
                self._place(file).unlink()

    async def spare(self, files: Collection[str]) -> None:
        now = self._ambient.now()
        await asyncio.to_thread(self._spare, list(files), now)

    def _spare(self, files: Collection[str], now: float) -> None:
        for file in files:
            with contextlib.suppress(OSError):  # it is gone
                os.utime(self._place(file), (now, now))

    def sweep(self, needed: Collection[str], before: float) -> int:
        removed = 0
        for place in self._folder.glob("*/*"):
            ours = _OURS.fullmatch(place.name) and place.parent.name in {_INCOMING, place.name[:2]}
            if ours and (place.parent.name == _INCOMING or place.name not in needed):
                with contextlib.suppress(OSError):  # the next start tries again
                    if place.stat().st_mtime < before:
                        place.unlink()
                        removed += 1
        return removed

    def _place(self, name: str) -> Path:
        """A file lies in one of 256 directories, so that none grows long."""
        return self._folder / name[:2] / name


class FolderDraft:
    """A file that is being written, see ``messages.blob_contract.Draft``. Opens it; runs in any thread.

    Each step runs in a thread; the lock keeps a step that nobody waits for any more from meeting the next.
    """

    def __init__(self, path: Path, place: Path, durable: bool) -> None:
        self._path, self._place, self._durable = path, place, durable
        self._lock = threading.Lock()
        self._digest = hashlib.md5(usedforsecurity=False)
        with _told(path):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            self._file: BinaryIO | None = os.fdopen(handle, "wb", buffering=0)

    @property
    def md5(self) -> bytes:
        return self._digest.digest()

    async def write(self, data: bytes) -> None:
        await self._step(lambda: self._write(data))

    async def keep(self) -> str:
        await self._step(self._keep)
        return self._place.name

    async def discard(self) -> None:
        if self._file is not None:
            await self._step(self._discard)

    async def _step(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock, _told(self._path):
                return work()

        return await asyncio.to_thread(locked)

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]
        self._digest.update(data)

    def _keep(self) -> None:
        assert self._file is not None
        if self._durable:
            os.fsync(self._file.fileno())
        self._place.parent.mkdir(mode=0o700, exist_ok=True)
        self._path.rename(self._place)
        self._file.close()
        self._file = None
        if self._durable:
            _sync_directory(self._place.parent)
            _sync_directory(self._place.parent.parent)  # the directory itself may be new

    def _discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
            self._path.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _told(place: Path) -> Iterator[None]:
    """Turn what the system refuses into ``HubError``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise HubError(STORAGE_FULL, f"The disk of the hub's files is full ({error.strerror}).") from error
        raise HubError(SERVER_ERROR, f"{place}: {error.strerror or error}; see who owns it and the disk") from error
