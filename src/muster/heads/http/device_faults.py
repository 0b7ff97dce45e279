"""Faults over HTTPS, where no connection is a session: they strike the requests of a device (``sessions.faults``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from muster.core.errors import HubError
from muster.heads.faults import REASON, cut, passed_over, wanted_fault
from muster.identity.model import IdentityKey
from muster.sessions.faults import Fault, Faults, Target


def ask(faults: Faults, key: IdentityKey, application: Mapping[str, object], transport: Any) -> None:
    """Have the fault begin, its delay too, that a stored message with these properties asks for, if any.

    ``transport`` is the connection that the message came on.
    """
    fault = wanted_fault(application, key)
    if fault is None:
        return
    if fault.refusal is None and fault.target is not Target.TRANSPORT:
        passed_over(key, fault, "HTTPS")
    else:
        faults.inject(key, fault, partial(_strike, transport))


def _strike(transport: Any, fault: Fault) -> None:
    if fault.target is Target.TRANSPORT:
        cut(transport, fault)


def break_off(faults: Faults, key: IdentityKey, transport: Any) -> None:
    """Cut the connection of a request of ``key`` while such a fault lasts: raises ``ConnectionAbortedError`` then."""
    lasting = faults.lasting(key, Target.TRANSPORT)
    if lasting is not None:
        cut(transport, lasting.fault)
        raise ConnectionAbortedError("the client asked for this fault")


def refuse(faults: Faults, key: IdentityKey) -> None:
    """Refuse a message of ``key`` while such a fault lasts: raises ``HubError``."""
    row = faults.refusal(key)
    if row is not None:
        raise HubError(row, REASON)
