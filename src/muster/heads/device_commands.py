"""Cloud-to-device messages on AMQP: sent as far as credit goes, settled as the device says (device.md 4.5)."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from muster.core.amqp_limits import AMQP_COMMANDS_IN_FLIGHT, AMQP_UNREAD_BYTES
from muster.core.errors import SERVER_ERROR, TAKEN_OVER, HubError
from muster.core.queue_limits import COMMAND_BYTES
from muster.dialect.device_amqp_messages import command_message
from muster.heads.device_link import DeviceLink, rejected
from muster.messages.commands import Received
from muster.messages.queue import Settlement
from muster.wire.amqp.events import Outcome
from muster.wire.amqp.link import SendingLink
from muster.wire.amqp.performatives import ACCEPTED, SETTLED, Accepted, Modified, Rejected, Released
from muster.wire.amqp.performatives import Received as ReceivedState

if TYPE_CHECKING:
    from muster.heads.device_links import DeviceSession

SETTLEMENTS: dict[type, Settlement] = {
    Accepted: Settlement.COMPLETE,
    Rejected: Settlement.REJECT,
    Released: Settlement.ABANDON,
    Modified: Settlement.ABANDON,
}
"""Outcome to what becomes of the message."""

_MOST = AMQP_COMMANDS_IN_FLIGHT.open
_MOST_REMEMBERED = 4 * _MOST
_UNREAD_BYTES = AMQP_UNREAD_BYTES.open


class CommandLink(DeviceLink):
    """The link on which a device takes commands. A newer one of the same session takes its place."""

    __slots__ = ("_in_flight",)

    link: SendingLink

    def __init__(self, device: DeviceSession, link: Any) -> None:
        super().__init__(device, link)
        self._in_flight: dict[int, tuple[int, UUID]] = {}
        """Delivery id to number and lock token of the message."""

    def open(self) -> None:
        device, older = self.device, self.device.commands
        self.link.accept()
        if older is not None:
            device.connection.detach(older.link, HubError(TAKEN_OVER, "A newer link receives the commands."))
        device.commands = self
        assert device.session is not None, "links are opened within a session"
        device.services.sessions.take_commands(device.session, device.services.commands, can_abandon=True)
        assert device.session.commands is not None, "it was given just now"
        device.session.commands.when_idle = self._drained
        self._drained()

    def detached(self) -> None:
        device = self.device
        if device.commands is self:
            device.commands = None
            if device.session is not None:
                device.services.sessions.leave_commands(device.session)
        super().detached()

    # --- to the device

    def flow(self) -> None:
        session = self.device.session
        if session is not None and session.commands is not None and self.device.commands is self:
            session.commands.pull()
        self._drained()

    def writable(self) -> None:
        self.flow()
        self.device.connection.flush()

    def room(self, held: int) -> int:
        """See ``sessions.commands.CommandSink.command_room``."""
        connection = self.device.connection
        if not connection.writable:
            return 0
        unread: int = (_UNREAD_BYTES - connection.transport.get_write_buffer_size()) // COMMAND_BYTES.open
        return min(self.link.ready, self.link.session.room_to_track, _MOST - held, unread)

    def send(self, command: Received) -> None:
        """Send ``command``. On a link whose messages go out settled it is complete with that, as nothing else tells."""
        device, link = self.device, self.link
        assert device.session is not None, "what is delivered comes from the session's flow"
        flow = device.session.commands
        assert flow is not None, "what is delivered comes from the flow"
        settled = link.attach.snd_settle_mode == SETTLED
        # .NET takes the tag for a GUID, and its bytes stand in this order.
        delivery_id = link.send(command_message(device.key, command), tag=command.token.bytes_le, settled=settled)
        if delivery_id is None:
            flow.give_back(command)
        elif settled:
            flow.settle(command.number, command.token, Settlement.COMPLETE)
        else:
            self._in_flight[delivery_id] = command.number, command.token
            if len(self._in_flight) > _MOST_REMEMBERED:  # of a device that settles nothing, the oldest have lapsed
                oldest = next(iter(self._in_flight))
                del self._in_flight[oldest]
                link.session.untrack(oldest)
        device.connection.flush()

    def _drained(self) -> None:
        """Give credit back that there is nothing for."""
        link = self.link
        if link.drain:
            session = self.device.session
            flow = None if session is None else session.commands
            if flow is None or not flow.busy:
                link.drained()
                self.device.connection.flush()

    # --- from the device

    def outcome(self, event: Outcome) -> None:
        how = SETTLEMENTS.get(type(event.state))
        if how is None:
            if isinstance(event.state, ReceivedState) or not event.settled:
                return
            how = Settlement.ABANDON  # settled without an outcome: the device did nothing with it
        known = self._in_flight.pop(event.delivery_id, None)
        session = self.device.session
        if known is None or session is None or session.commands is None:
            return
        self.device.active()
        session.commands.settle(*known, how).add_done_callback(partial(self._settled, event))

    def _settled(self, event: Outcome, future: asyncio.Future[None]) -> None:
        """It is durable. Who waits for that hears that it was done, whatever it was: C# takes nothing else for it."""
        error = None if future.cancelled() else future.exception()
        if event.settled or self.device.connection.closing:
            return
        state: Any = ACCEPTED
        if error is not None:
            state = rejected(self.device, error if isinstance(error, HubError) else HubError(SERVER_ERROR))
        self.link.settle(event.delivery_id, state)
        self.device.connection.flush()
