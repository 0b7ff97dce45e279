"""What the callers of bearer tokens may do on an AMQP connection: judged when a token is put, and when roles change.

Links ask ``AmqpConnection.require``. To whom a command goes is known with each message only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.access.roles import Action, DataAction, StreamAction
from muster.core.access_errors import FORBIDDEN
from muster.core.errors import UNAUTHORIZED, HubError
from muster.heads.grants import Scope
from muster.identity.bearer_gate import BearerAttempt, BearerGate
from muster.identity.verdict import Verdict

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection, AmqpHead, AmqpHub

_LINK_ACTIONS = (
    DataAction.C2D_SEND,
    DataAction.C2D_FEEDBACK,
    DataAction.UPLOAD_NOTIFICATIONS,
    StreamAction.RECEIVE,
)
"""All that a service may attach links for."""
_LOST = "The token's caller has no role for this link any more."
_BY_DEVICE: frozenset[Action] = frozenset({DataAction.C2D_SEND})


async def admit(connection: AmqpConnection, gate: BearerGate, token: str, scope: Scope) -> Verdict:
    """Judge the bearer token of a service, put for ``scope``. What it allows may be used from then on.

    Raises ``HubError`` 403005 when there are too many tokens.
    """
    hub = connection.hub
    attempt = BearerAttempt(
        transport=connection.transport_name, peer=connection.peer, token=token, actions=_LINK_ACTIONS
    )
    verdict = await gate.admit(attempt, _BY_DEVICE)
    if verdict.allowed and connection.hub is hub and not connection.closing:
        connection.grants.add(scope, verdict)
        connection.proven()
        connection.check_links(_LOST)
    return verdict


def without_role(connection: AmqpConnection, admitted: Verdict, action: Action) -> HubError:
    """The refusal of a link to the caller of a bearer token who has no role for ``action``; it is kept."""
    gate = connection.hub.authenticator.bearer
    assert gate is not None, "it admitted the caller"
    return _forbidden(gate.refused(admitted, action), action)


async def permit(connection: AmqpConnection, scope: Scope, action: Action, device_id: str) -> None:
    """Raise ``HubError`` 403000, and keep the refusal, unless ``action`` may be done to the device."""
    gate, refused = connection.hub.authenticator.bearer, None
    for verdict in connection.grants.of(scope):
        if gate is not None and verdict.admission is not None and verdict.admission.admits(action):
            refused = await gate.refuse(verdict, action, device_id)
            if refused is None:
                return
    raise HubError(UNAUTHORIZED) if refused is None else _forbidden(refused, action)


def readmit(head: AmqpHead, hub: AmqpHub) -> None:
    """Roles have changed: end the links of ``hub`` that their callers may not have any more."""
    for connection in tuple(head.connections):
        if connection.hub is hub and not connection.closing and connection.grants.admitted():
            connection.run(_readmit(connection))


async def _readmit(connection: AmqpConnection) -> None:
    gate = connection.hub.authenticator.bearer
    for scope, verdict in connection.grants.admitted():
        if gate is not None:
            connection.grants.replace(scope, verdict, await gate.again(verdict, _BY_DEVICE))
    connection.check_links(_LOST)


def _forbidden(refused: Verdict, action: Action) -> HubError:
    message = f"Principal {refused.principal} is not authorized for {action} due to no assigned permissions."
    return HubError(FORBIDDEN, message, tracking_id=refused.tracking_id)
