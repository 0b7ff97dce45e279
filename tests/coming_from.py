"""Clients of tests at several addresses: all of 127.0.0.0/8 are this machine's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest


@contextmanager
def coming_from(address: str) -> Iterator[None]:
    """Within the block Python's sockets and asyncio's streams come from ``address`` over IPv4: SDKs have no option for
    that."""
    connect, bind, streams = socket.socket.connect, socket.socket.bind, asyncio.open_connection

    def bound(sock: socket.socket, to: Any) -> None:
        if sock.family is socket.AF_INET and sock.getsockname()[1] == 0:
            bind(sock, (address, 0))
        connect(sock, to)

    def bound_to(sock: socket.socket, to: Any) -> None:
        bind(sock, (address, 0) if to == ("", 0) else to)  # as paho does it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", bound)
        patch.setattr(socket.socket, "bind", bound_to)
        patch.setattr(asyncio, "open_connection", partial(streams, local_addr=(address, 0)))
        yield
