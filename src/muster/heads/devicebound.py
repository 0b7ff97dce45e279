"""``/messages/devicebound``: where services send cloud-to-device messages over AMQP (service.md 3.3)."""

from __future__ import annotations

import asyncio
import logging

from muster.access.roles import DataAction
from muster.core.ambient import tracking_id
from muster.core.errors import INVALID_OPERATION, SERVER_ERROR, HubError
from muster.core.limits import MESSAGE_BYTES
from muster.core.queue_limits import COMMANDS_ARRIVING
from muster.dialect.amqp import same_words, to_error
from muster.dialect.command_messages import read_command
from muster.heads.amqp import AmqpConnection
from muster.heads.amqp_links import LinkHandler
from muster.heads.amqp_roles import permit
from muster.heads.grants import Scope, scope_of
from muster.messages.commands import Commands
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import Delivery
from muster.wire.amqp.link import Link, ReceivingLink
from muster.wire.amqp.message import decode_message
from muster.wire.amqp.performatives import ACCEPTED, Accepted, Error, Rejected

log = logging.getLogger("muster.amqp")


class Devicebound:
    """The role that takes commands."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def attach(self, connection: AmqpConnection, link: Link, path: tuple[str, ...]) -> LinkHandler | None:
        """See ``heads.amqp_links.Role``."""
        if not same_words(path, "messages", "devicebound"):
            return None
        connection.require(scope_of(path), DataAction.C2D_SEND)
        if not isinstance(link, ReceivingLink):
            raise HubError(INVALID_OPERATION, "Services send to /messages/devicebound, they do not receive from it.")
        # More than a command may have: one that is too large shall be refused by itself, not with the link.
        link.accept(max_message_size=MESSAGE_BYTES.open)
        return _Sender(connection, link, self._commands, scope_of(path))


class _Sender(LinkHandler):
    """Stores what comes down one link; each message is settled once it is durable, or refused.

    The order of the messages is that of the link: each is handed to the store before the next is looked at, as long
    as nothing but the registry, which answers at once, is asked in between.
    """

    __slots__ = ("_commands", "_connection", "_link", "_tasks")

    def __init__(self, connection: AmqpConnection, link: ReceivingLink, commands: Commands, scope: Scope) -> None:
        super().__init__(scope, DataAction.C2D_SEND)
        self._connection = connection
        self._link = link
        self._commands = commands
        self._tasks: set[asyncio.Task[None]] = set()
        self._replenish()

    def delivery(self, event: Delivery) -> None:
        task = self._connection.head.loop.create_task(self._store(event))
        self._tasks.add(task)
        task.add_done_callback(self._stored)

    async def _store(self, event: Delivery) -> None:
        outcome: Accepted | Rejected = ACCEPTED
        try:
            key, command = read_command(decode_message(event.payload))
            sender = self._connection.grants.principal(self.scope or ())
            if self.scope is not None and not self._connection.grants.covers_all(self.scope, DataAction.C2D_SEND):
                await permit(self._connection, self.scope, DataAction.C2D_SEND, key.device_id)
            await self._commands.send(key, command, sender)
        except AmqpDecodeError as error:
            outcome = Rejected(Error(error.condition, str(error)))
        except HubError as problem:
            outcome = Rejected(to_error(self._traced(problem)))
        except Exception:
            failure = self._traced(HubError(SERVER_ERROR, "The hub failed, see its log under the tracking id."))
            log.exception("a command could not be stored (%s)", failure.tracking_id)
            outcome = Rejected(to_error(failure))
        if not event.settled:
            self._link.dispose(event.delivery_id, outcome)

    def _traced(self, problem: HubError) -> HubError:
        problem.tracking_id = problem.tracking_id or tracking_id(self._connection.head.ambient)
        log.debug("%s: a command was refused: %s (%s)", self._connection.peer, problem, problem.tracking_id)
        return problem

    def _stored(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._replenish()
        self._connection.flush()

    def _replenish(self) -> None:
        """Give credit anew where it runs low, for as many as may wait for the disk."""
        most, waiting = COMMANDS_ARRIVING.open, len(self._tasks)
        if self._link.credit + waiting <= most // 2:
            self._link.grant(most - waiting)
