"""Files of the operator that count anew when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from muster.core.ambient import Ambient, Timer

LOOK_SECONDS = 5.0
"""So often the files are looked at. What has changed is taken at the second look that sees the same: several files are
written one after the other, and one in parts."""

_Stamp = tuple[tuple[int, int, int], ...]


class FileWatch:
    """Has files taken again: when they have changed, and when somebody asks (``take_now``).

    Looking works across symbolic links and network file systems, where the kernel's notices do not.
    """

    def __init__(self, files: Sequence[Path], take: Callable[[bool], Awaitable[None]], ambient: Ambient) -> None:
        """``take`` gets whether somebody asked. It raises nothing, and does not run twice at a time."""
        self._files = files
        self._take = take
        self._ambient = ambient
        self._tried: _Stamp = ()
        self._seen: _Stamp = ()
        self._timer: Timer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """Look from now on. Whoever takes the files for the first time does so after this."""
        self._tried = await asyncio.to_thread(_stamp, self._files)
        self._arm()

    def take_now(self) -> None:
        """Have the files taken, whether they have changed or not."""
        self._start(self._again(told=True))

    async def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _again(self, *, told: bool) -> None:
        async with self._turn:
            self._tried = await asyncio.to_thread(_stamp, self._files)
            await self._take(told)

    def _arm(self) -> None:
        self._timer = self._ambient.at(self._ambient.now() + LOOK_SECONDS, self._due)

    def _due(self) -> None:
        if not self._tasks:
            self._start(self._look())
        self._arm()

    async def _look(self) -> None:
        stamp = await asyncio.to_thread(_stamp, self._files)
        settled, self._seen = stamp == self._seen, stamp
        if settled and stamp != self._tried:
            await self._again(told=False)


def _stamp(files: Sequence[Path]) -> _Stamp:
    """What differs when one of the files was written or replaced."""
    return tuple(_stamp_of(path) for path in files)


def _stamp_of(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size
