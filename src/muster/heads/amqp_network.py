"""From where AMQP clients may come: asked for each token and each link, and again when the rules are changed.

The built-in Event Hubs-compatible endpoint may be left out of the rules, so what a connection is for decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.core.errors import HubError
from muster.dialect.amqp import MANAGEMENT, same_words

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection, AmqpHead, AmqpHub


def check(connection: AmqpConnection, path: tuple[str, ...]) -> None:
    """Raise ``HubError`` 401002, and keep the refusal, unless the client may be where it is to use ``path``."""
    network = connection.hub.network
    if network is not None and network.watches:
        network.require(connection.transport_name, connection.peer, events=_is_events(connection, path))


def admits(connection: AmqpConnection, user: str) -> bool:
    """Whether the client may be where it is to log in as ``user``; a refusal is kept."""
    network = connection.hub.network
    return network is None or network.refusal(connection.transport_name, connection.peer, principal=user) is None


def end_refused(head: AmqpHead, hub: AmqpHub) -> None:
    """The rules of ``hub`` were changed: end the connections of clients that could not come now."""
    network = hub.network
    if network is None or not network.watches:
        return
    for connection in tuple(head.connections):
        if connection.hub is not hub or connection.closing or not connection.settled:
            continue
        for_events = not connection.device_grants and connection.grants.only_below(hub.authenticator.hub.name)
        try:
            network.require(connection.transport_name, connection.peer, events=for_events)
        except HubError as refused:
            connection.end(refused)


def _is_events(connection: AmqpConnection, path: tuple[str, ...]) -> bool:
    """Whether ``path`` is that of the built-in endpoint. Under the hub's own name for it one is only sent there."""
    if not path:
        return False
    return path[0].lower() == connection.hub.authenticator.hub.name.lower() or same_words(path, MANAGEMENT)
