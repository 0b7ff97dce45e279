"""Servers that tests start end with the process of the tests, however that ends, and leave no directory behind."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_PREFIX = "muster-tests-"
_to_do: list[Callable[[], None]] = []


def bound_to_us(signal: str = "KILL") -> list[str]:
    """A command that starts another in its own place; that gets ``signal`` when the thread that has started it ends."""
    return ["setpriv", "--pdeathsig", signal, "--"] if shutil.which("setpriv") else []


def own_directory(kind: str) -> Path:
    """A directory of this process, for ``kind``; it is removed when the process ends, or when the next one asks."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(directory, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-{kind}-"))
    at_the_end(lambda: shutil.rmtree(made, ignore_errors=True))
    return made


def at_the_end(action: Callable[[], None]) -> None:
    """Have ``action`` done when all tests of this process are over, the newest first."""
    _to_do.append(action)


@atexit.register
def end_all() -> None:
    """Do what is to be done at the end, once."""
    while _to_do:
        with contextlib.suppress(OSError):
            _to_do.pop()()
