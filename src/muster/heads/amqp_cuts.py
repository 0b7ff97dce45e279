"""AMQP connections cut by a fault that a client asked for (``sessions.faults``), when it begins and at each login."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.core.errors import SERVER_ERROR, HubError
from muster.heads.faults import REASON, cut
from muster.identity.model import IdentityKey
from muster.sessions.faults import Fault, Faults, Target

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection

WHOLE_CONNECTION = (Target.TRANSPORT, Target.CONNECTION, Target.AMQP_GOODBYE)
"""The faults that end a connection with all that is on it."""


def end_connection(connection: AmqpConnection, fault: Fault) -> None:
    """End a connection as ``fault``, one of these, says.

    The error of an AMQP connection is one after which Node's client comes back; it gives up after
    ``amqp:connection:forced``.
    """
    if fault.target is Target.TRANSPORT:
        connection.closing = True
        cut(connection.transport, fault)
    elif fault.target is Target.CONNECTION:
        connection.end(HubError(SERVER_ERROR, REASON))
    else:
        connection.end(None)


def break_off(connection: AmqpConnection, faults: Faults, key: IdentityKey) -> None:
    """End the connection on which ``key`` logs in, if it has asked for that and the fault lasts."""
    lasting = faults.lasting(key, *WHOLE_CONNECTION)
    if lasting is not None and not connection.closing:
        end_connection(connection, lasting.fault)
