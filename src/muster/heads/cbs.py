"""The ``$cbs`` node: tokens put on a connection that is open already (service.md 3.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from muster.core.errors import UNAUTHORIZED, HubError
from muster.dialect.amqp import CBS, parse_put_token, same_words, status_reply
from muster.heads import amqp_login, amqp_network
from muster.heads.amqp_links import LinkHandler
from muster.heads.back_off import hold
from muster.heads.requests import Later, RequestNode, node_of
from muster.identity.sas import resource_hosts
from muster.identity.verdict import Verdict
from muster.wire.amqp.link import Link
from muster.wire.amqp.message import Message

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection


class Cbs:
    """The role that serves ``$cbs``, the one address that needs no token. Every connection has it."""

    def attach(self, connection: AmqpConnection, link: Link, path: tuple[str, ...]) -> LinkHandler | None:
        """See ``heads.amqp_links.Role``."""
        if not same_words(path, CBS):
            return None
        answer = partial(_put_token, connection)
        return node_of(connection, CBS, lambda: RequestNode(connection, answer, None)).attach(link)


def _put_token(connection: AmqpConnection, request: Message) -> Message | Later:
    try:
        asked = parse_put_token(request, connection.head.hubs.knows)
        entity = asked.audience[0] if asked.audience else ""
        connection.choose_hub(*resource_hosts(asked.token), asked.host, entity=entity)
        amqp_network.check(connection, asked.audience)
        verdict = amqp_login.put_token(connection, asked)
    except HubError as problem:
        return _refusal(request, problem)
    if isinstance(verdict, Verdict):
        if verdict.allowed or not connection.hub.refusals.back_off.wait(verdict.peer, verdict.principal):
            return _answer(request, verdict)
        return partial(_awaited, connection, request, partial(_known, verdict))
    return partial(_awaited, connection, request, verdict)


async def _known(verdict: Verdict) -> Verdict:
    return verdict


async def _awaited(connection: AmqpConnection, request: Message, judge: Callable[[], Awaitable[Verdict]]) -> Message:
    try:
        verdict = await judge()
        if not verdict.allowed:
            await hold(connection.hub.refusals, verdict.peer, verdict.principal)
        return _answer(request, verdict)
    except HubError as problem:
        return _refusal(request, problem)


def _answer(request: Message, verdict: Verdict) -> Message:
    if verdict.error is not None:
        description = f"{verdict.error.cause} TrackingId:{verdict.tracking_id}"
        # C# takes 403 for a limit and tries again.
        status = 401 if verdict.error.condition == UNAUTHORIZED.condition else verdict.error.status
        return status_reply(request, status, description, value=None)
    return status_reply(request, 200, "OK", value=None)


def _refusal(request: Message, problem: HubError) -> Message:
    return status_reply(request, problem.row.status, problem.message, value=None)
