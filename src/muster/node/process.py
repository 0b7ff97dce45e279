"""What a hub asks of its own process, and tells the service manager that started it."""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
from contextlib import suppress

FEW_FILES = 8192
"""Fewer open files than this are worth a word: each connection is one."""

GC_THRESHOLDS = (50_000, 20, 100)
"""A message makes a few tuples that die by themselves; with the interpreter's own thresholds (700, 10, 10) looking
for cycles among them and among the connections took a tenth of the hub's time under load."""

log = logging.getLogger("muster.node")


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one; the number that may be open now.

    Each connection is an open file, and shells start programs with 1,024. Logs a warning when it stays low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:  # as in a sandbox that forbids it
            log.warning("the limit of open files cannot be raised from %s to %s: %s", soft, hard, error)
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        log.warning(
            "only %s files may be open, and each connection is one; raise the hard limit: "
            "ulimit -Hn, LimitNOFILE= of the systemd unit, or --ulimit nofile= of the container",
            soft,
        )
    return soft


def supervised() -> bool:
    """Whether systemd started this process and waits for its word (``Type=notify``)."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(state: str) -> None:
    """Tell systemd ``READY=1`` or the like, see sd_notify(3); nothing happens where nobody waits for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.connect("\0" + address[1:] if address.startswith("@") else address)
        told.send(state.encode())


def settle_memory() -> None:
    """What there is stays; from now on look for cycles seldom."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
