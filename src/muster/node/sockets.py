"""Binding: the addresses and ports of a node, with a word of help when one cannot be had."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from muster.node.settings import DEFAULT_BIND

HTTPS_PORT, FALLBACK_HTTPS_PORT = 443, 8443
_ATTEMPTS = 20


class BindError(Exception):
    """A port cannot be had; the text says which and what to do."""


def bind(addresses: Sequence[str], port: int, flag: str) -> list[socket.socket]:
    """A bound TCP socket for each address, all on the same port; 0 takes one that is free on all of them.

    ``flag`` names the option that chose the port, for the error. Raises ``PermissionError`` when the port needs a
    privilege, else ``BindError``. A default address that the machine does not have (``::1``) is left out.
    """
    for _ in range(_ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            chosen = port
            for address in addresses:
                sock = _bound(address, chosen)
                if sock is not None:
                    sockets.append(sock)
                    chosen = sock.getsockname()[1]
        except PermissionError:
            _close(sockets)
            raise
        except OSError as error:
            _close(sockets)
            if error.errno == errno.EADDRINUSE and port == 0:
                continue
            raise BindError(_explain(error, addresses, port, flag)) from error
        if sockets:
            return sockets
        raise BindError(f"none of the addresses {', '.join(addresses)} is on this machine; see --bind")
    raise BindError(f"no port is free on all of {', '.join(addresses)}; see --bind and {flag}")


def _bound(address: str, port: int) -> socket.socket | None:
    family, _, _, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        if address in DEFAULT_BIND:
            return None
        raise
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL and address in DEFAULT_BIND:
            return None
        raise
    return sock


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _explain(error: OSError, addresses: Sequence[str], port: int, flag: str) -> str:
    where = f"port {port} on {', '.join(addresses)}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken by another program; stop it or choose another port with {flag} (0: any free one)"
    return f"cannot listen on {where}: {error.strerror or error}"


HOW_TO_ALLOW_443 = (
    "port 443 needs a privilege here. Allow it once per boot with\n"
    "    sudo sysctl -w net.ipv4.ip_unprivileged_port_start=443\n"
    "or run as a service with AmbientCapabilities=CAP_NET_BIND_SERVICE. Until then HTTPS and WebSocket are on\n"
    f"port {FALLBACK_HTTPS_PORT}: MQTT on 8883 and AMQP on 5671 are not affected, but clients whose HTTPS port is\n"
    "fixed (WebSocket transports, file upload, Node's service SDK) cannot reach it."
)
"""Printed when 443 may not be bound (clients.md section 2 lists the ways and what is lost)."""
