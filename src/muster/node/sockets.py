"""Binding: the addresses and ports of a node, with a word of help when one cannot be had."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

from muster.heads.listener import BACKLOG
from muster.node.settings import DEFAULT_BIND

HTTPS_PORT, FALLBACK_HTTPS_PORT = 443, 8443
_ATTEMPTS = 20


class BindError(Exception):
    """A port cannot be had; the text says which and what to do."""


def bind(addresses: Sequence[str], port: int, flag: str, *, shared: bool = False) -> list[socket.socket]:
    """A bound TCP socket for each address, all on the same port; 0 takes one that is free on all of them.

    An address that stands twice, or that ``0.0.0.0`` or ``::`` includes, gets no socket of its own. ``flag`` names the
    option that chose the port, for the error. Raises ``PermissionError`` when the port needs a privilege, else
    ``BindError``. A default address that the machine does not have (``::1``) is left out.

    A port that was named can be had again at once after an end (``SO_REUSEADDR``). With that option two programs may
    be bound to one port until either listens, so one that the kernel chose gets it only in ``listen``. ``shared``:
    other processes of this user may have the same port too, and the kernel deals connections out among them.
    """
    targets = _targets(addresses, flag)
    for _ in range(_ATTEMPTS):
        sockets: list[socket.socket] = []
        try:
            chosen = port
            for target in targets:
                sock = _bound(target, chosen, reuse=port != 0, shared=shared)
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


def listen(sockets: Sequence[socket.socket], flag: str) -> None:
    """Have bound sockets listen. Raises ``BindError`` when another program has been faster."""
    for sock in sockets:
        address, port = sock.getsockname()[:2]
        try:
            sock.listen(BACKLOG)
        except OSError as error:
            raise BindError(_explain(error, [address], port, flag)) from error
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections have it from here: see ``bind``


class _Target(NamedTuple):
    """Where to bind: a socket address whose port is still open. ``optional``: the machine may lack it."""

    family: int
    address: tuple[Any, ...]
    optional: bool

    @property
    def everywhere(self) -> bool:
        return self.address[0] in ("0.0.0.0", "::")  # noqa: S104  asked for, not chosen


def _targets(addresses: Sequence[str], flag: str) -> list[_Target]:
    """Each of ``addresses`` that no other one includes, once."""
    found: dict[tuple[Any, ...], _Target] = {}
    for name in addresses:
        try:
            family, _, _, _, address = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        except (socket.gaierror, UnicodeError) as error:
            raise BindError(f"{name!r} is no address of this machine: {error}; see --bind and {flag}") from error
        found.setdefault((family, *address), _Target(family, address, name in DEFAULT_BIND))
    everywhere = {target.family for target in found.values() if target.everywhere}
    return [target for target in found.values() if target.everywhere or target.family not in everywhere]


def _bound(target: _Target, port: int, *, reuse: bool, shared: bool) -> socket.socket | None:
    host, _, *rest = target.address
    try:
        sock = socket.socket(target.family, socket.SOCK_STREAM)
    except OSError:
        if target.optional:
            return None
        raise
    try:
        if reuse:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if target.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port, *rest))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRNOTAVAIL and target.optional:
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
