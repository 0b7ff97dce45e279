"""What the engine tells its user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from muster.wire.amqp.link import Link, ReceivingLink, SendingLink
    from muster.wire.amqp.performatives import Error, Open


class SaslStarted(NamedTuple):
    """The client chose a SASL mechanism, or has responded to a challenge. Answer with ``Connection.sasl_outcome`` or
    ``sasl_challenge``; nothing is read until then."""

    mechanism: str
    response: bytes
    hostname: str | None

    def __repr__(self) -> str:
        return f"SaslStarted(mechanism={self.mechanism!r}, hostname={self.hostname!r})"


class Opened(NamedTuple):
    """The client's open. Answer with ``Connection.open`` or ``close``; nothing is read until then."""

    open: Open


class LinkAttached(NamedTuple):
    """The client attached a link. Answer with ``accept`` or ``refuse``, now or later."""

    link: Link


class LinkFlow(NamedTuple):
    """The link may send: it has credit and the session's window is open, or it was asked to drain."""

    link: SendingLink


class Delivery(NamedTuple):
    """A whole message arrived. Unless ``settled``, tell its outcome with ``link.dispose``."""

    link: ReceivingLink
    delivery_id: int
    tag: bytes
    message_format: int
    settled: bool
    payload: bytes


class Outcome(NamedTuple):
    """The client said what became of a tracked delivery. Unless ``settled``, it waits for ``link.settle``."""

    link: SendingLink
    delivery_id: int
    state: Any
    settled: bool


class LinkDetached(NamedTuple):
    """The link is gone: by the client, with its session, or because it broke a rule. Nothing is to be answered."""

    link: Link
    error: Error | None


class Closed(NamedTuple):
    """The client closed the connection."""

    error: Error | None


class Failed(NamedTuple):
    """The client broke the protocol. Send what there is to send and close the transport."""

    error: Error


Event = SaslStarted | Opened | LinkAttached | LinkFlow | Delivery | Outcome | LinkDetached | Closed | Failed
