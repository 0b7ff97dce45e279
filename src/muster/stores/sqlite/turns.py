"""Turns of the processes of one machine that use one database: locks of a file beside it.

The kernel hands a lock over as soon as it is free, whoever waits sleeps until then, and what a process held is free
when it ends, however it ends. They are "open file description locks" (``fcntl(2)``): two openings of the file exclude
each other in one process too, and none is lost when another part of the process closes the file.

They only say whose turn it is. What is written is guarded by SQLite's own locks, which nobody waits for then.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
from collections.abc import AsyncIterator
from hashlib import blake2b
from os import PathLike, fspath
from struct import Struct

from muster.core.ambient import SystemAmbient
from muster.core.errors import SERVER_ERROR, HubError

_LOCK = Struct("hhqqi4x")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, process."""
_NAMED = 1 << 32
"""Bytes of the file from here on stand for names."""

LONG_SECONDS = 2.0
"""Who has waited for so long for a turn says so."""

log = logging.getLogger(__name__)


class _Place:
    """A byte of the file, which one opening of it holds at a time."""

    __slots__ = ("_free", "_held")

    def __init__(self, at: int) -> None:
        self._held = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0)
        self._free = _LOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, at, 1, 0)

    def take(self, file: int, how: int = fcntl.F_OFD_SETLKW) -> None:
        fcntl.fcntl(file, how, self._held)

    def give(self, file: int) -> None:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, self._free)


_WRITING, _NEXT, _STARTING = map(_Place, range(3))


class Turns:
    """The turns of one process at the database ``path``. May be used by any thread.

    Raises ``HubError`` 500001 when the file cannot be opened, and later ``OSError`` when the system has no locks left.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = fspath(path)
        place = f"{self._path}-turns"
        try:
            self._file = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            advice = "check that the directory exists and who owns it"
            raise HubError(SERVER_ERROR, f"{place}: {error.strerror}; {advice}") from error

    def begin_write(self) -> None:
        """Wait until nobody else writes, those who have waited for longer included.

        Who waits for the writer holds the place of the next, so that one who has just written and wants to write again
        comes after it.
        """
        began = SystemAmbient.monotonic()
        _NEXT.take(self._file)
        try:
            _WRITING.take(self._file)
        finally:
            _NEXT.give(self._file)
        if (seconds := SystemAmbient.monotonic() - began) > LONG_SECONDS:
            log.warning("%s: others have written for %.1f seconds; is a process stopped?", self._path, seconds)

    def end_write(self) -> None:
        """Let others write. Harmless when nothing was begun."""
        _WRITING.give(self._file)

    def is_mine(self, name: str) -> bool:
        """Whether the turn called ``name`` is this process's: that of the first one to ask, until it closes."""
        if self._file < 0:
            return False
        at = _NAMED + int.from_bytes(blake2b(name.encode(), digest_size=7).digest())
        try:
            _Place(at).take(self._file, fcntl.F_OFD_SETLK)
        except (BlockingIOError, PermissionError):  # POSIX lets the system say either
            return False
        return True

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Held while a process makes what is made once; waits for others that do, and the loop goes on."""
        await asyncio.to_thread(_STARTING.take, self._file)
        try:
            yield
        finally:
            _STARTING.give(self._file)

    def close(self) -> None:
        """Give up all turns. Harmless when repeated."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
