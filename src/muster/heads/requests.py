"""Request nodes: a link for requests and one for their answers, as ``$cbs`` and ``$management`` have them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from muster.core.amqp_limits import AMQP_REQUEST_BYTES
from muster.core.errors import HubError
from muster.dialect.amqp import to_error
from muster.heads.amqp_links import LinkHandler
from muster.heads.grants import Scope
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import Delivery
from muster.wire.amqp.link import Link, ReceivingLink, SendingLink
from muster.wire.amqp.message import Message, decode_message, encode_message
from muster.wire.amqp.performatives import ACCEPTED, Error, Rejected, Target

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection

log = logging.getLogger("muster.amqp")

_REQUESTS = 16
"""Requests that a client may have under way on a link; no credit is given for more until answers have gone out."""


Later = Callable[[], Awaitable[Message]]
"""How to come to a reply that has to be awaited."""
Answer = Callable[[Message], Message | Later]


class RequestNode:
    """The links of one node on one connection.

    ``answer`` turns a request into its reply, which may have to be awaited; a ``HubError`` from it rejects the
    request's delivery.
    """

    def __init__(self, connection: AmqpConnection, answer: Answer, scope: Scope | None) -> None:
        self._connection = connection
        self._answer = answer
        self._scope = scope
        self._requests: list[_RequestLink] = []
        self._replies: list[_ReplyLink] = []
        self._sent = 0
        self._awaited = 0

    def attach(self, link: Link) -> LinkHandler:
        """Accept ``link``, of either direction."""
        if isinstance(link, SendingLink):
            link.accept()
            reply = _ReplyLink(self, link, self._scope)
            self._replies.append(reply)
            return reply
        assert isinstance(link, ReceivingLink)
        link.accept(max_message_size=AMQP_REQUEST_BYTES.open)
        request = _RequestLink(self, link, self._scope)
        self._requests.append(request)
        self.replenish()
        return request

    def links(self) -> list[Link]:
        """All its links."""
        return [request.link for request in self._requests] + [reply.link for reply in self._replies]

    def replenish(self) -> None:
        """Give credit anew where it runs low, unless too many answers wait to be fetched."""
        if self._awaited + sum(len(reply.waiting) for reply in self._replies) < _REQUESTS:
            for request in self._requests:
                if request.link.credit <= _REQUESTS // 2:
                    request.link.grant(_REQUESTS)

    def serve(self, link: ReceivingLink, event: Delivery) -> None:
        """Answer one request."""
        outcome: object = ACCEPTED
        try:
            request = decode_message(event.payload)
            reply = self._answer(request)
        except AmqpDecodeError as error:
            outcome = Rejected(Error(error.condition, str(error)))
        except HubError as problem:
            outcome = Rejected(to_error(problem))
        else:
            if isinstance(reply, Message):
                self._reply(link, request, reply)
            else:
                self._awaited += 1
                self._connection.run(self._reply_later(link, request, reply))
        if not event.settled:
            link.dispose(event.delivery_id, outcome)
        self.replenish()

    async def _reply_later(self, link: ReceivingLink, request: Message, reply: Later) -> None:
        try:
            self._reply(link, request, await reply())
        finally:
            self._awaited -= 1
            self.replenish()

    def _reply(self, link: ReceivingLink, request: Message, reply: Message) -> None:
        wanted = None if request.properties is None else request.properties.reply_to
        chosen = self._choose(link, wanted)
        if chosen is None:
            log.debug("an answer has no link to go out on")
            return
        chosen.waiting.append(encode_message(reply))
        chosen.flow()

    def _choose(self, link: ReceivingLink, wanted: object) -> _ReplyLink | None:
        """The link whose target or name is the reply-to; else the newest of the session, else of the connection."""
        best: _ReplyLink | None = None
        for reply in reversed(self._replies):
            target = reply.link.attach.target
            if wanted and wanted in (target.address if isinstance(target, Target) else None, reply.link.name):
                return reply
            if best is None or (reply.link.session is link.session and best.link.session is not link.session):
                best = reply
        return best

    def tag(self) -> bytes:
        """A tag for the next answer."""
        self._sent = (self._sent + 1) & 0xFFFFFFFF
        return self._sent.to_bytes(4)

    def forget(self, handler: LinkHandler) -> None:
        """A link is gone."""
        self._requests = [request for request in self._requests if request is not handler]
        self._replies = [reply for reply in self._replies if reply is not handler]


class _RequestLink(LinkHandler):
    __slots__ = ("_node", "link")

    def __init__(self, node: RequestNode, link: ReceivingLink, scope: Scope | None) -> None:
        super().__init__(scope)
        self._node = node
        self.link = link

    def delivery(self, event: Delivery) -> None:
        self._node.serve(self.link, event)

    def detached(self) -> None:
        self._node.forget(self)


class _ReplyLink(LinkHandler):
    __slots__ = ("_node", "link", "waiting")

    def __init__(self, node: RequestNode, link: SendingLink, scope: Scope | None) -> None:
        super().__init__(scope)
        self._node = node
        self.link = link
        self.waiting: deque[bytes] = deque()

    def flow(self) -> None:
        while self.waiting and self.link.send(self.waiting[0], tag=self._node.tag(), settled=True) is not None:
            self.waiting.popleft()
        if self.link.drain:
            self.link.drained()
        self._node.replenish()

    def detached(self) -> None:
        self._node.forget(self)


def node_of(connection: AmqpConnection, name: str, make: Callable[[], RequestNode]) -> RequestNode:
    """The connection's node ``name``, made by ``make`` at first use."""
    node = connection.nodes.get(name)
    if node is None:
        node = connection.nodes[name] = make()
    assert isinstance(node, RequestNode)
    return node
