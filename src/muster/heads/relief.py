"""Room for others when no more files may be opened: who has not said yet who he is gives way.

A connection costs a file from the first packet on, and a stranger may take a minute to say something. Without this a
few thousand silent connections would keep everybody out. Those that go are of the address with the most strangers, the
oldest first; who has proven himself is never dropped, whatever address he shares.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from muster.heads.tls import TlsTransport

if TYPE_CHECKING:
    from muster.heads.listener import TlsListener

log = logging.getLogger("muster.tls")

DROPPED_AT_ONCE = 256


class Relief:
    """What listeners of one process share, as they share its files."""

    def __init__(self) -> None:
        self._listeners: list[TlsListener] = []

    def join(self, listener: TlsListener) -> None:
        """From now on strangers of ``listener`` give way, too."""
        self._listeners.append(listener)

    def make_room(self) -> bool:
        """Drop strangers; whether there were any."""
        strangers: dict[str, list[TlsTransport]] = {}
        for listener in self._listeners:
            for transport in listener.transports:
                if is_stranger(transport):
                    strangers.setdefault(transport.get_extra_info("peername", ("",))[0], []).append(transport)
        if not strangers:
            return False
        address, most = max(strangers.items(), key=lambda one: len(one[1]))
        dropped = most[:DROPPED_AT_ONCE]
        for transport in dropped:
            transport.abort()
        log.warning("no more files may be open: %d silent connections of %s gave way to others", len(dropped), address)
        return True


def is_stranger(transport: TlsTransport) -> bool:
    """Whether nobody is there yet who has proven himself, or asks for something."""
    protocol = transport.get_protocol()
    return protocol is None or bool(getattr(protocol, "stranger", False))
