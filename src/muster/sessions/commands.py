"""Commands on their way to one session, whatever it speaks: taken as the head has room, settled by token.

The locks on what is in the device's hands bear the session's name and end with it. A lock that lapses meanwhile
makes its message visible again; it is then taken anew, so it reaches the same device a second time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol
from uuid import UUID

from muster.core.ambient import Ambient
from muster.core.errors import LOCK_LOST, HubError
from muster.identity.model import IdentityKey
from muster.messages.commands import Received, received
from muster.messages.queue import Settlement
from muster.messages.queue_contract import Edited
from muster.messages.queues import RETRY_SECONDS

log = logging.getLogger("muster.sessions")


class CommandSource(Protocol):
    """The part of ``messages.commands.Commands`` that a session needs; see there."""

    def take(self, key: IdentityKey, limit: int, holder: str = "") -> asyncio.Future[list[Edited]]:
        """Lock commands."""
        ...

    def settle(self, key: IdentityKey, token: UUID, how: Settlement) -> asyncio.Future[None]:
        """Settle one."""
        ...

    def release(self, key: IdentityKey) -> None:
        """End the locks of connections."""
        ...

    def give_back(self, key: IdentityKey, token: UUID, *, sent: bool) -> None:
        """End one lock."""
        ...

    def waiting(self, key: IdentityKey) -> int | None:
        """How many there are; ``None``: take, and see."""
        ...

    def watch(self, key: IdentityKey, listener: Callable[[], None]) -> Callable[[], None]:
        """Be told of more."""
        ...


class CommandSink(Protocol):
    """The head's end, as far as commands go."""

    def command_room(self, held: int) -> int:
        """How many further commands the connection takes now, while the device has ``held`` in hand."""
        ...

    def deliver(self, command: Received) -> None:
        """Send a command to the device. It is settled by ``CommandFlow.settle``, or given back if it cannot be sent.

        Called on the loop, no more often than there was room; again with the same number when its lock has lapsed.
        """
        ...


class CommandFlow:
    """The commands of one session. ``pull`` when there is room again; nothing polls."""

    __slots__ = (
        "_again", "_ambient", "_can_abandon", "_ended", "_held", "_holder", "_key", "_leave", "_sink", "_source",
        "_taking", "when_idle",
    )  # fmt: skip

    def __init__(
        self, source: CommandSource, key: IdentityKey, sink: CommandSink, ambient: Ambient, *, can_abandon: bool = False
    ) -> None:
        """Begins at once. What an earlier connection had in hand when the hub itself ended comes first.

        ``can_abandon``: the device has a word for giving a command back, so that to be cut off is no failed delivery.
        """
        self._can_abandon = can_abandon
        self.when_idle: Callable[[], None] | None = None
        """Called when what was asked for has come, and all that there was is delivered."""
        self._source = source
        self._key = key
        self._sink = sink
        self._ambient = ambient
        self._holder = ambient.uuid().hex
        self._held: dict[int, tuple[UUID, float]] = {}
        """By number: lock token, and until when."""
        self._taking = self._again = self._ended = False
        self._leave = source.watch(key, self.pull)
        if self._waiting():
            source.release(key)
            self.pull()

    def pull(self) -> None:
        """Take what there is, as far as there is room."""
        if self._ended:
            return
        if self._taking:
            self._again = True
            return
        now = self._ambient.now()
        self._held = {number: held for number, held in self._held.items() if held[1] > now}
        room = self._sink.command_room(len(self._held))
        if room > 0 and self._waiting():
            self._taking, self._again = True, False
            self._source.take(self._key, room, self._holder).add_done_callback(self._taken)

    @property
    def busy(self) -> bool:
        """Whether commands are being taken at this moment."""
        return self._taking

    def settle(self, number: int, token: UUID, how: Settlement) -> asyncio.Future[None]:
        """Settle the command ``number``, delivered with ``token``, and take further ones. Done once that is durable.

        Raises ``HubError`` 412002; who is not interested need not look.
        """
        self._held.pop(number, None)
        settled = self._source.settle(self._key, token, how)
        settled.add_done_callback(self._settled)
        return settled

    def give_back(self, command: Received) -> None:
        """A command that was delivered here could not be sent."""
        self._held.pop(command.number, None)
        self._source.give_back(self._key, command.token, sent=False)

    def end(self) -> None:
        """The connection is gone: what it had in hand goes back into the queue at once."""
        self._ended = True
        self._leave()
        for token, _ in self._held.values():
            self._source.give_back(self._key, token, sent=not self._can_abandon)

    def _waiting(self) -> bool:
        try:
            return self._source.waiting(self._key) != 0
        except HubError as error:
            log.error("%s: its queue cannot be read: %s", self._key, error)
            return False

    def _taken(self, future: asyncio.Future[list[Edited]]) -> None:
        self._taking = False
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            log.error("%s: its messages cannot be taken: %s", self._key, error)
            self._ambient.at(self._ambient.now() + RETRY_SECONDS, self.pull)
            return
        found: Sequence[Received] = received(future.result())
        for command in found:
            if self._ended:  # meanwhile, or by the delivery of another
                self._source.give_back(self._key, command.token, sent=False)
            else:
                self._held[command.number] = command.token, command.until
                self._sink.deliver(command)
        if found or self._again:
            self.pull()
        if not self._taking and self.when_idle is not None:
            self.when_idle()

    def _settled(self, future: asyncio.Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            known = isinstance(error, HubError) and error.row is LOCK_LOST
            log.log(logging.DEBUG if known else logging.ERROR, "%s: a message was not settled: %s", self._key, error)
        self.pull()
