"""The processes of ``muster serve --workers``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from muster.testing.hub import HubProcess


def workers_of(hub: HubProcess) -> list[int]:
    """The process ids of the workers that live."""
    return [pid for pid in _children_of(hub) if not _keeps(pid)]


def keeper_of(hub: HubProcess) -> int:
    """The process id of the keeper; 0 when there is none now."""
    return next(filter(_keeps, _children_of(hub)), 0)


def _children_of(hub: HubProcess) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{hub.pid}/task/{hub.pid}/children").read_text().split()]


def _keeps(pid: int) -> bool:
    """Whether the process listens at the keeper's socket: nobody else has the partitions open."""
    with contextlib.suppress(OSError):
        files = (os.readlink(f"/proc/{pid}/fd/{one}") for one in os.listdir(f"/proc/{pid}/fd"))
        return any(Path(file).name.startswith("telemetry.db") for file in files)
    return False
