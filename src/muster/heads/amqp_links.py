"""What stands behind the links of an AMQP connection: the part that a role of the hub plays on each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from muster.access.roles import Action
from muster.heads.grants import Scope
from muster.wire.amqp.events import Delivery, Outcome
from muster.wire.amqp.link import Link

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection


class LinkHandler:
    """Serves one attached link. Overrides what concerns it; ``scope`` must stay covered, for ``action`` too where the
    caller of a bearer token needs a role for it, or the link is detached."""

    __slots__ = ("action", "scope")

    def __init__(self, scope: Scope | None, action: Action | None = None) -> None:
        self.scope, self.action = scope, action

    def flow(self) -> None:
        """There is credit, or the client wants the link drained (sending links)."""

    def delivery(self, event: Delivery) -> None:
        """A message came (receiving links)."""

    def outcome(self, event: Outcome) -> None:
        """The client said what became of a tracked delivery (sending links)."""

    def writable(self) -> None:
        """The transport takes more again after it was full."""

    def detached(self) -> None:
        """The link is gone, for whatever reason. Called once; nothing else follows."""


class Role(Protocol):
    """One of the endpoints that share a connection; which one serves a link follows from its address alone."""

    def attach(self, connection: AmqpConnection, link: Link, path: tuple[str, ...]) -> LinkHandler | None:
        """Accept ``link`` and return its handler; ``None`` when ``path`` is not of this role.

        ``path`` is the address of the hub's end. Raises ``HubError`` to refuse the link.
        """
        ...
