"""Faults that messages ask for, as every head meets them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from muster.core.errors import ErrorRow, HubError
from muster.dialect.faults import OPERATION, read_fault
from muster.identity.model import IdentityKey
from muster.sessions.faults import Fault

REASON = f"The client asked for this fault ({OPERATION})."
EXPECTED = "what the client itself asked for"
"""What a client is told, and what `muster why` says that was expected."""

log = logging.getLogger("muster.faults")


class InjectedError(Exception):
    """A message is to be refused with ``row``, for its sender asked for that."""

    def __init__(self, row: ErrorRow) -> None:
        super().__init__(row.name)
        self.row = row


def wanted_fault(application: Mapping[str, object], key: IdentityKey) -> Fault | None:
    """The fault that a message of ``key`` asks for; one that is not understood is told in the log, and is none."""
    try:
        return read_fault(application)
    except HubError as error:
        log.warning("%s: a fault is passed over: %s", key, error.message)
        return None


def cut(transport: Any, fault: Fault) -> None:
    """End a connection as ``fault`` says: with what is queued and a goodbye, or at once."""
    if fault.graceful:
        transport.close()
    else:
        transport.abort()


def passed_over(key: IdentityKey, fault: Fault, transport: str) -> None:
    """Tell in the log that ``fault`` has nothing to strike on a connection of this kind."""
    log.warning("%s: a fault is passed over: it strikes %s, there is none over %s", key, fault.target, transport)
