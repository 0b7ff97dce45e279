"""What the links of a device have in common."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from muster.core.ambient import tracking_id
from muster.core.errors import SERVER_ERROR, HubError
from muster.dialect.amqp import to_error
from muster.heads.amqp_links import LinkHandler
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import Delivery
from muster.wire.amqp.link import Link, ReceivingLink, SendingLink
from muster.wire.amqp.performatives import ACCEPTED, SETTLED, UNSETTLED, Error, Rejected

if TYPE_CHECKING:
    from muster.heads.device_links import DeviceSession

log = logging.getLogger("muster.amqp")


class DeviceLink(LinkHandler):
    """A link of ``device``. Until ``open`` is called it waits for its identity to be judged."""

    __slots__ = ("device", "link")

    link: Link

    def __init__(self, device: DeviceSession, link: Any) -> None:
        super().__init__(None)  # it ends with the session of its identity, see ``DeviceSession``
        self.device = device
        self.link = link

    def open(self) -> None:
        """The identity is in: accept the link and begin to serve it."""
        raise NotImplementedError

    def detached(self) -> None:
        self.device.left(self)


class RequestLink(DeviceLink):
    """A link on which a device sends messages that are looked at one by one, and accepted or rejected."""

    __slots__ = ("_most",)

    link: ReceivingLink

    def __init__(self, device: DeviceSession, link: Any, most: int) -> None:
        super().__init__(device, link)
        self._most = most
        """So many messages may be under way."""

    def pending(self) -> int:
        """How many are under way."""
        return 0

    def replenish(self) -> None:
        """Give credit anew where it runs low."""
        pending = self.pending()
        if self.link.credit + pending <= self._most // 2:
            self.link.grant(self._most - pending)

    def take(self, payload: bytes) -> None:
        """Serve one message. Raises ``HubError`` or ``AmqpDecodeError`` to reject it."""
        raise NotImplementedError

    def delivery(self, event: Delivery) -> None:
        self.device.active()
        outcome: Any = ACCEPTED
        try:
            self.take(event.payload)
        except (AmqpDecodeError, HubError) as problem:
            outcome = rejected(self.device, problem)
        if not event.settled:
            self.link.dispose(event.delivery_id, outcome)
        self.replenish()


class PushLink(DeviceLink):
    """A link on which a device is sent what cannot be taken back: answers and requests. They wait for its credit."""

    __slots__ = ("waiting",)

    link: SendingLink

    def __init__(self, device: DeviceSession, link: Any) -> None:
        super().__init__(device, link)
        self.waiting: deque[bytes] = deque()

    def open(self) -> None:
        # Nothing is done with an outcome; so who leaves the choice to us gets messages that are settled.
        mode = self.link.attach.snd_settle_mode
        self.link.accept(snd_settle_mode=mode if mode == UNSETTLED else SETTLED)
        self.flow()

    def push(self, payload: bytes) -> None:
        """Send ``payload``, now or when there is credit."""
        self.waiting.append(payload)
        self.flow()
        self.device.connection.flush()

    def flow(self) -> None:
        link, ambient = self.link, self.device.services.ambient
        settled = link.attach.snd_settle_mode != UNSETTLED
        while self.waiting and self.device.connection.writable:
            # .NET takes each tag for a GUID.
            tag = ambient.uuid().bytes_le
            if link.send(self.waiting[0], tag=tag, settled=settled, tracked=False) is None:
                break
            self.waiting.popleft()
        if link.drain and not self.waiting:
            link.drained()

    def writable(self) -> None:
        self.flow()
        self.device.connection.flush()


class InputLink(DeviceLink):
    """Inputs of a module: only an edge hub sends to these, so nothing ever comes."""

    __slots__ = ()

    link: SendingLink

    def open(self) -> None:
        self.link.accept()

    def flow(self) -> None:
        if self.link.drain:
            self.link.drained()


def rejected(device: DeviceSession, problem: Exception) -> Rejected:
    """The outcome of a message that was refused because of ``problem``."""
    if isinstance(problem, AmqpDecodeError):
        return Rejected(Error(problem.condition, str(problem)))
    told = problem if isinstance(problem, HubError) else HubError(SERVER_ERROR)
    told.tracking_id = told.tracking_id or tracking_id(device.services.ambient)
    log.debug("%s: a message was refused: %s (%s)", device.key, told, told.tracking_id)
    return Rejected(to_error(told))
