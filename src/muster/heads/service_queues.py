"""``/messages/servicebound/...``: queues that services read over AMQP, a row of a table each (service.md 3.4, 3.5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from muster.access.roles import DataAction
from muster.core.ambient import tracking_id
from muster.core.errors import INVALID_OPERATION, LOCK_LOST, SERVER_ERROR, HubError
from muster.core.queue_limits import SERVICE_MESSAGES_AT_ONCE
from muster.dialect.amqp import to_error
from muster.dialect.command_messages import FEEDBACK_TYPE, FILE_NOTIFICATION_TYPE, service_message
from muster.heads.amqp import AmqpConnection
from muster.heads.amqp_links import LinkHandler
from muster.heads.grants import Scope, scope_of
from muster.messages.queue import Settlement
from muster.messages.queue_contract import Edited
from muster.messages.queues import ServiceQueue, Taken, taken
from muster.wire.amqp.events import Outcome
from muster.wire.amqp.link import Link, SendingLink
from muster.wire.amqp.performatives import ACCEPTED, SETTLED, Accepted, Modified, Received, Rejected, Released

log = logging.getLogger("muster.amqp")

_SETTLEMENTS: dict[type, Settlement] = {
    Accepted: Settlement.COMPLETE,
    Rejected: Settlement.REJECT,
    Released: Settlement.ABANDON,
    Modified: Settlement.ABANDON,
}


class Endpoint(NamedTuple):
    """One queue at one address."""

    queue: ServiceQueue
    content_type: str
    action: DataAction


def service_endpoints(feedback: ServiceQueue, file_notifications: ServiceQueue) -> dict[Scope, Endpoint]:
    """The hub's table. File notifications have a second name, which a page of the documentation uses."""
    files = Endpoint(file_notifications, FILE_NOTIFICATION_TYPE, DataAction.UPLOAD_NOTIFICATIONS)
    return {
        ("messages", "servicebound", "feedback"): Endpoint(feedback, FEEDBACK_TYPE, DataAction.C2D_FEEDBACK),
        ("messages", "servicebound", "filenotifications"): files,
        ("messages", "servicebound", "fileuploadnotifications"): files,
    }


class ServiceQueues:
    """The role that gives services what is in their queues. Receivers of a queue compete."""

    def __init__(self, hub: str, endpoints: Mapping[Scope, Endpoint]) -> None:
        """``hub`` is the name that messages bear as their ``user-id``."""
        self._hub = hub
        self._endpoints = endpoints

    def attach(self, connection: AmqpConnection, link: Link, path: tuple[str, ...]) -> LinkHandler | None:
        """See ``heads.amqp_links.Role``."""
        scope = scope_of(path)
        endpoint = self._endpoints.get(scope)
        if endpoint is None:
            return None
        connection.require(scope, endpoint.action)
        if not isinstance(link, SendingLink):
            raise HubError(INVALID_OPERATION, f"Services receive from /{'/'.join(path)}, they do not send to it.")
        link.accept()
        return _Receiver(connection, link, endpoint, self._hub, scope)


class _Receiver(LinkHandler):
    """Sends down one link what its queue holds, as far as credit goes, and settles as the client says.

    What the client has in hand when the link ends goes back at once, and does not count as a failed delivery: tools
    look for one message among all (``az iot hub monitor-feedback``).
    """

    __slots__ = (
        "_again",
        "_connection",
        "_encode",
        "_ended",
        "_held",
        "_holder",
        "_leave",
        "_link",
        "_queue",
        "_taking",
    )

    def __init__(
        self, connection: AmqpConnection, link: SendingLink, endpoint: Endpoint, hub: str, scope: Scope
    ) -> None:
        super().__init__(scope, endpoint.action)
        self._connection = connection
        self._link = link
        self._queue = endpoint.queue
        self._encode: Callable[[Taken], bytes] = lambda one: service_message(
            one.entry, one.body, endpoint.content_type, hub
        )
        self._holder = connection.head.ambient.uuid().hex
        self._held: dict[int, UUID] = {}
        """Delivery id to lock token."""
        self._taking = self._again = self._ended = False
        self._leave = self._queue.watch(self._pull)

    def flow(self) -> None:
        self._pull()

    def writable(self) -> None:
        self._pull()

    def detached(self) -> None:
        self._ended = True
        self._leave()
        if self._held or self._taking:
            self._queue.release(self._holder, counted=False)

    # --- to the client

    def _pull(self) -> None:
        if self._ended:
            return
        if self._taking:
            self._again = True
            return
        room = min(self._link.ready, SERVICE_MESSAGES_AT_ONCE.open - len(self._held))
        if room > 0 and self._connection.writable and self._waiting():
            self._taking, self._again = True, False
            self._queue.take(room, self._holder).add_done_callback(self._taken)
        else:
            self._drained()

    def _waiting(self) -> bool:
        try:
            return self._queue.waiting() != 0
        except HubError as error:
            self._failed(error)
            return False

    def _taken(self, future: asyncio.Future[list[Edited]]) -> None:
        self._taking = False
        if self._ended or future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._failed(error)
            return
        found = taken(future.result())
        self._send(found)
        if found or self._again:
            self._pull()
        else:
            self._drained()

    def _send(self, found: Sequence[Taken]) -> None:
        settled = self._link.attach.snd_settle_mode == SETTLED
        for one in found:
            # .NET reads the tag as a GUID, whose bytes stand in this order.
            delivery_id = self._link.send(self._encode(one), tag=one.token.bytes_le, settled=settled)
            if delivery_id is None:
                self._queue.give_back(one.token)
            elif settled:
                self._queue.settle(one.token, Settlement.COMPLETE).add_done_callback(_passed_over)
            else:
                self._held[delivery_id] = one.token
        self._connection.flush()

    def _drained(self) -> None:
        if self._link.drain:
            self._link.drained()
            self._connection.flush()

    def _failed(self, error: BaseException) -> None:
        log.error("%s cannot be read: %s", self._queue.name, error)
        self._connection.detach(self._link, error if isinstance(error, HubError) else HubError(SERVER_ERROR))

    # --- from the client

    def outcome(self, event: Outcome) -> None:
        how = _SETTLEMENTS.get(type(event.state))
        if how is None:
            if isinstance(event.state, Received) or not event.settled:
                return
            how = Settlement.ABANDON  # settled without an outcome: the client did nothing with it
        token = self._held.pop(event.delivery_id, None)
        if token is None:
            return
        self._queue.settle(token, how).add_done_callback(partial(self._settled, event))
        self._pull()

    def _settled(self, event: Outcome, future: asyncio.Future[None]) -> None:
        """It is durable. Who waits for that hears that it was done, whatever it was: C# takes nothing else for it."""
        error = None if future.cancelled() else future.exception()
        if error is not None:
            _passed_over(future)
        if event.settled or self._ended:
            return
        state: Any = ACCEPTED
        if error is not None:
            problem = error if isinstance(error, HubError) else HubError(SERVER_ERROR)
            problem.tracking_id = tracking_id(self._connection.head.ambient)
            state = Rejected(to_error(problem))
        self._link.settle(event.delivery_id, state)
        self._connection.flush()


def _passed_over(future: asyncio.Future[None]) -> None:
    """A failure that nobody waits to hear of: its message will come again."""
    error = None if future.cancelled() else future.exception()
    if error is not None:
        lost = isinstance(error, HubError) and error.row is LOCK_LOST
        log.log(logging.DEBUG if lost else logging.ERROR, "a message was not settled: %s", error)
