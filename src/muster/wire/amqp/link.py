"""Links: the two ends that a server can have of one (AMQP 1.0 part 2, section 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from struct import Struct
from typing import TYPE_CHECKING, Any

from muster.wire.amqp.encoding import encode_uint
from muster.wire.amqp.events import Delivery, Event, LinkDetached
from muster.wire.amqp.performatives import (
    RECEIVER,
    SENDER,
    Attach,
    Detach,
    Disposition,
    Error,
    Flow,
    Transfer,
)

if TYPE_CHECKING:
    from muster.wire.amqp.session import Session

MASK = 0xFFFFFFFF
"""Delivery counts, ids and windows are serial numbers of 32 bits."""


class LinkState(Enum):
    """Where a link stands. ``CANCELLED``: the client detached before we had answered its attach."""

    ATTACHING = auto()
    ATTACHED = auto()
    CANCELLED = auto()
    DETACHING = auto()
    DETACHED = auto()


LIVE = frozenset((LinkState.ATTACHING, LinkState.ATTACHED))
"""States in which the user still has to do with the link."""


class Link:
    """What both ends have in common.

    ``attach`` is the client's; ``context`` is the user's to keep what it likes. After ``LinkDetached``, or once
    detached from here, every method is harmless and without effect.
    """

    __slots__ = ("attach", "context", "credit", "delivery_count", "handle", "name", "session", "state")

    role = SENDER

    def __init__(self, session: Session, attach: Attach) -> None:
        self.session = session
        self.attach = attach
        self.name = attach.name
        self.handle = attach.handle
        self.state = LinkState.ATTACHING
        self.credit = 0
        self.delivery_count = 0
        self.context: Any = None

    def _answer(
        self,
        max_message_size: int | None,
        snd_settle_mode: int | None,
        offered: tuple[str, ...],
        properties: dict[Any, Any] | None,
    ) -> None:
        asked = self.attach
        self.session.write(
            Attach(
                name=self.name,
                handle=self.handle,
                role=self.role,
                snd_settle_mode=asked.snd_settle_mode if snd_settle_mode is None else snd_settle_mode,
                rcv_settle_mode=asked.rcv_settle_mode,
                source=asked.source,
                target=asked.target,
                initial_delivery_count=0 if self.role == SENDER else None,
                max_message_size=max_message_size,
                offered_capabilities=offered or None,
                properties=properties,
            )
        )

    def accept(
        self,
        *,
        max_message_size: int | None = None,
        snd_settle_mode: int | None = None,
        offered: tuple[str, ...] = (),
        properties: dict[Any, Any] | None = None,
    ) -> None:
        """Answer the attach: source, target and settle modes as asked, save a ``snd_settle_mode`` given here.

        ``offered`` are capabilities; ``max_message_size`` in bytes bounds what a receiving link takes.
        """
        if self.state not in {LinkState.ATTACHING, LinkState.CANCELLED}:
            return
        self._answer(max_message_size, snd_settle_mode, offered, properties)
        if self.state is LinkState.CANCELLED:
            self.session.write(Detach(self.handle, True))
            self.session.release(self)
        else:
            self.state = LinkState.ATTACHED

    def refuse(self, error: Error) -> None:
        """Answer the attach and detach at once, with ``error``."""
        self.accept()
        self.detach(error)

    def detach(self, error: Error | None = None) -> None:
        """Close the link from this side. Frames that the client sends before it has seen that are ignored."""
        if self.state is LinkState.ATTACHED:
            self.session.write(Detach(self.handle, True, error))
            self.session.forget_deliveries(self)
            self.state = LinkState.DETACHING
            self.drop()

    def drop(self) -> None:
        """Forget what has come of a message that is not finished."""

    def _abort(self, condition: str, description: str, events: list[Event]) -> None:
        """Detach because the client broke a rule, and tell the user."""
        error = Error(condition, description)
        self.detach(error)
        events.append(LinkDetached(self, error))


class ReceivingLink(Link):
    """The end that takes what the client sends. ``credit`` is what the client may still send."""

    __slots__ = ("_first", "_parts", "_size", "max_message_size", "pattern")

    role = RECEIVER

    def __init__(self, session: Session, attach: Attach) -> None:
        super().__init__(session, attach)
        self.delivery_count = attach.initial_delivery_count or 0
        self.max_message_size: int | None = None
        self.pattern = b""
        """The key under which the session keeps what its transfers have in common."""
        self._first: Transfer | None = None
        self._parts: list[bytes] = []
        self._size = 0

    def accept(
        self,
        *,
        max_message_size: int | None = None,
        snd_settle_mode: int | None = None,
        offered: tuple[str, ...] = (),
        properties: dict[Any, Any] | None = None,
    ) -> None:
        """See ``Link.accept``."""
        self.max_message_size = max_message_size
        super().accept(
            max_message_size=max_message_size,
            snd_settle_mode=snd_settle_mode,
            offered=offered,
            properties=properties,
        )

    def grant(self, credit: int) -> None:
        """Let the client send ``credit`` messages from now on."""
        if self.state is LinkState.ATTACHED:
            self.credit = credit
            self.session.write_flow(self)

    def dispose(self, first: int, state: Any, *, last: int | None = None) -> None:
        """Settle the deliveries ``first`` to ``last`` (``first`` alone) with the outcome ``state``."""
        if self.state is LinkState.ATTACHED:
            self.session.write(Disposition(RECEIVER, first, last, True, state))

    def on_flow(self, flow: Flow) -> None:
        """The client's view of the link; matters when it gave up credit (drain)."""
        if flow.delivery_count is not None:
            given_up = (flow.delivery_count - self.delivery_count) & MASK
            if given_up <= self.credit:
                self.credit -= given_up
                self.delivery_count = flow.delivery_count

    def takes(self, size: int) -> bool:
        """Whether a whole message of ``size`` bytes may come now, in one transfer."""
        return (
            self.credit > 0
            and self._first is None
            and self.state is LinkState.ATTACHED
            and (not self.max_message_size or size <= self.max_message_size)
            and size >= 0
        )

    def on_transfer(self, transfer: Transfer, payload: bytes, events: list[Event]) -> None:
        """Take a transfer; when it completes a message, tell."""
        first = self._first
        if first is None:
            if transfer.delivery_id is None:
                self._abort("amqp:invalid-field", "a delivery's first transfer has no delivery-id", events)
                return
            if self.credit <= 0:
                self._abort("amqp:link:transfer-limit-exceeded", "a message was sent without credit", events)
                return
            first = self._first = transfer
        if self.max_message_size and self._size + len(payload) > self.max_message_size:
            self.drop()
            self._abort(
                "amqp:link:message-size-exceeded",
                f"a message is over the {self.max_message_size} bytes of the link's max-message-size",
                events,
            )
            return
        if transfer.more and not transfer.aborted:
            if payload:
                self._keep(payload, events)
            return
        if self._parts:
            self._parts.append(payload)
            payload = b"".join(self._parts)
        self.drop()
        self.credit -= 1
        self.delivery_count = (self.delivery_count + 1) & MASK
        if not transfer.aborted:
            settled = bool(first.settled or transfer.settled)
            events.append(
                Delivery(
                    self, first.delivery_id or 0, first.delivery_tag or b"", first.message_format or 0, settled, payload
                )
            )

    def _keep(self, part: bytes, events: list[Event]) -> None:
        """Keep a part of a message until the rest has come."""
        wire = self.session.wire
        if wire.unfinished + len(part) > wire.limits.unfinished_bytes:
            self.drop()
            self._abort("amqp:resource-limit-exceeded", "too many messages were begun and not finished", events)
            return
        wire.unfinished += len(part)
        self._size += len(part)
        self._parts.append(part)

    def drop(self) -> None:
        """See ``Link.drop``."""
        self._first = None
        if self._size:
            self.session.wire.unfinished -= self._size
            self._size = 0
            self._parts = []


_TAILS = {True: b"\x43\x41\x42\x40\x40\x42\x42\x42", False: b"\x43\x42\x42\x40\x40\x42\x42\x42"}
"""By ``settled``: what follows the tag of a transfer that is a whole message of format 0."""


class SendingLink(Link):
    """The end that sends. ``credit`` is what the client still takes; ``drain``: it wants it used up or given back."""

    __slots__ = ("_bulk", "_head", "drain", "tracked")

    def __init__(self, session: Session, attach: Attach) -> None:
        super().__init__(session, attach)
        self.drain = False
        self.tracked = 0
        """Deliveries that await their outcome; kept by the session."""
        handle = encode_uint(self.handle)
        size = len(handle) + 18
        self._head = (
            b"\x02\x00" + session.channel.to_bytes(2) + b"\x00\x53\x14\xc0" + bytes((size, 11)) + handle + b"\x70"
        )
        self._bulk = Struct(f">I{len(self._head)}sI2sH8s")

    @property
    def ready(self) -> int:
        """How many messages may be sent now."""
        if self.state is not LinkState.ATTACHED:
            return 0
        return min(self.credit, self.session.room)

    def on_flow(self, flow: Flow) -> None:
        """Credit, as the client grants it."""
        if flow.link_credit is None:
            return
        in_flight = (self.delivery_count - (flow.delivery_count or 0)) & MASK
        self.credit = max(0, flow.link_credit - (in_flight if in_flight < 1 << 31 else 0))
        self.drain = flow.drain

    def drained(self) -> None:
        """Give back the credit left: there is nothing more to send now."""
        if self.state is LinkState.ATTACHED:
            self.delivery_count = (self.delivery_count + self.credit) & MASK
            self.credit = 0
            self.session.write_flow(self)
            self.drain = False

    def send(
        self, payload: bytes, *, tag: bytes, settled: bool, message_format: int = 0, tracked: bool = True
    ) -> int | None:
        """Send one message and return its delivery-id; ``None`` when it may not be sent now.

        Unless ``settled`` the delivery is ``tracked``: ``Outcome`` tells what became of it. The session tracks a
        bounded number; of others it answers outcomes by itself.
        """
        session = self.session
        if self.ready <= 0 or (tracked and not settled and not session.track(self)):
            return None
        delivery_id = session.next_delivery_id
        transfer = Transfer(self.handle, delivery_id, tag, message_format, settled)
        session.write_transfers(transfer, payload)
        self._sent(1)
        return delivery_id

    def send_many(self, payloads: Sequence[bytes], *, settled: bool) -> int:
        """Send the first of ``payloads``, as many as may be sent now; returns how many. None of them is tracked.

        Their tags repeat after 65,536 deliveries: nobody keeps them apart here, and a client that never settles
        (azure-eventhub) would otherwise collect tags without end.
        """
        total = len(payloads)
        sent = 0
        while sent < total and self.ready > 0:
            sent = self._send_run(payloads, sent, min(total, sent + self.ready), settled)
            if sent < total and self.ready > 0:
                delivery_id = self.session.next_delivery_id
                tag = (delivery_id & 0xFFFF).to_bytes(2)
                self.session.write_transfers(Transfer(self.handle, delivery_id, tag, 0, settled), payloads[sent])
                self._sent(1)
                sent += 1
        return sent

    def _send_run(self, payloads: Sequence[bytes], start: int, stop: int, settled: bool) -> int:
        """Send ``payloads[start:stop]`` up to the first that needs several frames; returns its index or ``stop``."""
        session = self.session
        pack, head, tail = self._bulk.pack, self._head, _TAILS[settled]
        overhead, limit = self._bulk.size, session.wire.max_frame_size
        append = session.wire.parts.append
        delivery_id = session.next_delivery_id
        index = start
        for payload in payloads[start:stop]:
            size = len(payload) + overhead
            if size > limit:
                break
            append(pack(size, head, delivery_id, b"\xa0\x02", delivery_id & 0xFFFF, tail))
            append(payload)
            delivery_id = (delivery_id + 1) & MASK
            index += 1
        session.count_transfers(index - start)
        session.next_delivery_id = delivery_id
        self._sent(index - start)
        return index

    def _sent(self, count: int) -> None:
        self.credit -= count
        self.delivery_count = (self.delivery_count + count) & MASK

    def settle(self, delivery_id: int, state: Any) -> None:
        """Answer an unsettled ``Outcome``: the delivery is settled with ``state``."""
        if self.session.untrack(delivery_id) and self.state is LinkState.ATTACHED:
            self.session.write(Disposition(SENDER, delivery_id, None, True, state))
