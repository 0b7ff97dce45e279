"""The keeper: the process beside the workers of a machine that has the partitions, the sessions and the bus of all."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from pathlib import Path

import uvloop

from muster.node.process import settle_memory
from muster.stores.keeper.link import SOCKET, socket_place
from muster.stores.keeper.logs import KeptLogs
from muster.stores.keeper.server import Keeper
from muster.stores.keeper.sessions import serve_sessions

_BACKLOG = 128

log = logging.getLogger("muster.keeper")


def open_socket(directory: Path) -> socket.socket:
    """The keeper's socket in ``directory``, which listens from now on: who connects waits until there is a keeper.

    Raises ``OSError``.
    """
    (directory / SOCKET).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_place(directory) as place:
            sock.bind(place)
        os.chmod(directory / SOCKET, 0o600)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def keep(directory: Path, sock: socket.socket, *, durable: bool) -> None:
    """Be the keeper of ``directory`` at ``sock``, until SIGTERM came and no worker is left.

    A terminal's Ctrl-C reaches this process too, and is passed over: the workers have things to store yet.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    uvloop.run(_keep(directory, sock, durable=durable))


async def _keep(directory: Path, sock: socket.socket, *, durable: bool) -> None:
    loop, stop, keeper = asyncio.get_running_loop(), asyncio.Event(), Keeper()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    logs = KeptLogs(keeper, directory, durable=durable)
    serve_sessions(keeper)
    server = await loop.create_unix_server(keeper.connection, sock=sock)
    settle_memory()
    await stop.wait()
    await keeper.empty.wait()
    server.close()
    await keeper.settled()
    await logs.close()
