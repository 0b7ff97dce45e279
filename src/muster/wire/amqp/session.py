"""Sessions: windows, delivery ids, and the links of one channel (AMQP 1.0 part 2, section 2.5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from struct import Struct
from typing import Any, NamedTuple

from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import Delivery, Event, LinkAttached, LinkDetached, LinkFlow, Outcome
from muster.wire.amqp.frames import MIN_MAX_FRAME_SIZE, encode_frame
from muster.wire.amqp.link import LIVE, MASK, Link, LinkState, ReceivingLink, SendingLink
from muster.wire.amqp.performatives import (
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Performative,
    Transfer,
    encode_performative,
)
from muster.wire.amqp.repeats import KEY_SIZES, Pattern, delivery_id, key_of, pattern_of

_new: Any = tuple.__new__
"""Makes a named tuple without going through its class, which would call one function more."""
_ACCEPT = Struct(">IHH8sIBI8s")
_ACCEPT_HEAD, _ACCEPT_TAIL = b"\x00\x53\x15\xc0\x14\x06\x41\x70", b"\x41\x00\x53\x24\xc0\x01\x00\x42"
"""A disposition of the receiver, settled and accepted, around its first and last delivery id."""
_HALF = 1 << 31
_OUTGOING_WINDOW = 65_536


class Limits(NamedTuple):
    """What one connection may cost. ``before_open`` bounds all bytes up to and with the client's open.

    Until ``Connection.prove`` was called it has ``unproven_sessions`` and ``unproven_links`` at most, and after open
    may send ``unproven_bytes`` (-1: any number).
    ``unfinished_bytes`` bounds all messages of which parts have come. ``tracked_deliveries`` are those of a session.
    ``idle_time_out`` (milliseconds) is announced; to enforce it is up to the user, who has a clock.
    """

    max_frame_size: int = 65_536
    sessions: int = 256
    links: int = 1024
    unproven_sessions: int = 256
    unproven_links: int = 1024
    unproven_bytes: int = -1
    incoming_window: int = 2048
    tracked_deliveries: int = 2048
    unfinished_bytes: int = 16_777_216
    before_open: int = 16_384
    idle_time_out: int | None = 240_000


class Wire:
    """What the sessions of a connection share: the bytes on their way out, and the sizes agreed."""

    __slots__ = ("limits", "links", "max_frame_size", "most_links", "most_sessions", "parts", "unfinished")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.links = self.unfinished = 0
        self.most_sessions = min(limits.unproven_sessions, limits.sessions)
        self.most_links = min(limits.unproven_links, limits.links)
        self.max_frame_size = MIN_MAX_FRAME_SIZE
        self.parts: list[bytes] = []

    def write(self, channel: int, performative: Performative) -> None:
        """Send ``performative``."""
        self.parts.append(encode_frame(channel, encode_performative(performative)))


class SessionFault(Exception):
    """The client broke a rule of the session, which ends with ``error``."""

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(condition)
        self.error = Error(condition, description)


class Session:
    """One session. Made by the connection, which passes it what comes on its channel."""

    __slots__ = (
        "_backlog", "_incoming_left", "_names", "_past_handles", "_patterns", "_tracked", "channel", "ended", "links",
        "next_delivery_id", "next_incoming_id", "next_outgoing_id", "remote_window", "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, channel: int, begin: Begin) -> None:
        self.wire = wire
        self.channel = channel
        self.ended = False
        self.links: dict[int, Link] = {}
        self.next_delivery_id = 0
        self.next_outgoing_id = 0
        self.next_incoming_id = begin.next_outgoing_id
        self.remote_window = begin.incoming_window
        self._incoming_left = wire.limits.incoming_window
        self._backlog: deque[bytes] = deque()
        self._past_handles: set[int] = set()
        self._names: dict[tuple[str, bool], Link] = {}
        self._tracked: dict[int, SendingLink] = {}
        self._patterns: dict[bytes, Pattern] = {}
        """Of each receiving link the last one, by its key."""
        self.write(Begin(channel, 0, self._incoming_left, _OUTGOING_WINDOW, handle_max=wire.limits.links - 1))

    # --- towards the client

    def write(self, performative: Performative) -> None:
        """Send ``performative`` on this channel."""
        self.wire.write(self.channel, performative)

    @property
    def room(self) -> int:
        """How many transfers the client's window takes now."""
        return 0 if self._backlog else self.remote_window

    def write_flow(self, link: Link | None = None) -> None:
        """Tell the windows and, of ``link``, count and credit. That also opens the incoming window anew."""
        self._incoming_left = self.wire.limits.incoming_window
        flow = Flow(self.next_incoming_id, self._incoming_left, self.next_outgoing_id, _OUTGOING_WINDOW)
        if link is not None:
            flow = flow._replace(
                handle=link.handle,
                delivery_count=link.delivery_count,
                link_credit=link.credit,
                drain=isinstance(link, SendingLink) and link.drain,
            )
        self.write(flow)

    def count_transfers(self, count: int) -> None:
        """``count`` transfers went into the client's window."""
        self.remote_window -= count
        self.next_outgoing_id = (self.next_outgoing_id + count) & MASK

    def write_transfers(self, transfer: Transfer, payload: bytes) -> None:
        """Send one delivery in as many frames as it takes; those beyond the client's window wait here."""
        self.next_delivery_id = (self.next_delivery_id + 1) & MASK
        size = self.wire.max_frame_size - len(encode_performative(transfer)) - 8
        view = memoryview(payload)
        for start in range(0, max(len(payload), 1), size):
            more = start + size < len(payload)
            head = encode_performative(transfer._replace(more=more))
            frame = encode_frame(self.channel, head + view[start : start + size])
            if self.room > 0:
                self.count_transfers(1)
                self.wire.parts.append(frame)
            else:
                self._backlog.append(frame)

    def accept(self, first: int, last: int) -> None:
        """Settle the deliveries ``first`` to ``last``, of whichever links, as accepted."""
        self.wire.parts.append(
            _ACCEPT.pack(_ACCEPT.size, 0x200, self.channel, _ACCEPT_HEAD, first, 0x70, last, _ACCEPT_TAIL)
        )

    def track(self, link: SendingLink) -> bool:
        """Note that the delivery sent next on ``link`` awaits its outcome; false when too many do."""
        if self.room_to_track <= 0:
            return False
        self._tracked[self.next_delivery_id] = link
        link.tracked += 1
        return True

    @property
    def room_to_track(self) -> int:
        """How many further deliveries may await their outcome."""
        return self.wire.limits.tracked_deliveries - len(self._tracked)

    def untrack(self, delivery_id: int) -> bool:
        """The delivery awaits its outcome no longer; whether it did."""
        link = self._tracked.pop(delivery_id, None)
        if link is not None:
            link.tracked -= 1
        return link is not None

    def forget_deliveries(self, link: Link) -> None:
        """Nothing that was sent on ``link`` awaits its outcome any longer."""
        if isinstance(link, SendingLink) and link.tracked:
            link.tracked = 0
            self._tracked = {key: other for key, other in self._tracked.items() if other is not link}

    def release(self, link: Link) -> None:
        """``link`` is gone on both sides."""
        if self.links.pop(link.handle, None) is not None:
            self.wire.links -= 1
            link.drop()
        if isinstance(link, ReceivingLink):
            self._patterns.pop(link.pattern, None)
        if self._names.get((link.name, link.role)) is link:
            del self._names[link.name, link.role]
        self._past_handles.add(link.handle)
        self.forget_deliveries(link)
        link.state = LinkState.DETACHED

    def end(self, events: list[Event]) -> None:
        """All links go with the session."""
        self.ended = True
        for link in list(self.links.values()):
            if link.state in LIVE:
                events.append(LinkDetached(link, None))
            self.release(link)
        self._backlog.clear()

    # --- from the client

    def on_attach(self, attach: Attach, events: list[Event]) -> None:
        """A new link; an older one of the same name and direction in this session is pushed out."""
        wire = self.wire
        if attach.handle >= wire.limits.links or wire.links >= wire.most_links:
            raise SessionFault("amqp:resource-limit-exceeded", "there are too many links, or the handle is too high")
        if attach.handle in self.links:
            raise SessionFault("amqp:session:handle-in-use", f"handle {attach.handle} is attached already")
        link: Link
        if attach.role == RECEIVER:
            link = SendingLink(self, attach)
        else:
            if attach.initial_delivery_count is None:
                raise AmqpDecodeError("attach: a sender gives an initial-delivery-count")
            link = ReceivingLink(self, attach)
        other = self._names.get((link.name, link.role))
        if other is not None and other.state is LinkState.ATTACHED:
            error = Error("amqp:link:stolen", "the link was attached again")
            other.detach(error)
            events.append(LinkDetached(other, error))
        self._names[link.name, link.role] = link
        self.links[attach.handle] = link
        wire.links += 1
        events.append(LinkAttached(link))

    def _link(self, handle: int) -> Link | None:
        """The link of ``handle``; ``None`` when what came is late and to be ignored."""
        link = self.links.get(handle)
        if link is None and handle not in self._past_handles:
            raise SessionFault("amqp:session:unattached-handle", f"handle {handle} was never attached")
        return None if link is None or link.state is LinkState.DETACHING else link

    def on_flow(self, flow: Flow, events: list[Event]) -> None:
        """Windows, and a link's credit."""
        blocked = self.room <= 0
        in_flight = (self.next_outgoing_id - (flow.next_incoming_id or 0)) & MASK
        self.remote_window = max(0, flow.incoming_window - (in_flight if in_flight < _HALF else 0))
        while self._backlog and self.remote_window > 0:
            self.count_transfers(1)
            self.wire.parts.append(self._backlog.popleft())
        link = None if flow.handle is None else self._link(flow.handle)
        if isinstance(link, (SendingLink, ReceivingLink)):
            link.on_flow(flow)
        if blocked and self.room > 0:
            events.extend(LinkFlow(each) for each in self._sending() if each is not link and each.ready > 0)
        if isinstance(link, SendingLink) and flow.link_credit is not None:
            events.append(LinkFlow(link))
        if flow.echo and (flow.handle is None or link is not None):
            self.write_flow(link)

    def _sending(self) -> Iterable[SendingLink]:
        return (link for link in self.links.values() if isinstance(link, SendingLink))

    def on_transfer(self, transfer: Transfer, payload: bytes, events: list[Event]) -> None:
        """A message or a part of one."""
        self.next_incoming_id = (self.next_incoming_id + 1) & MASK
        self._incoming_left -= 1
        if self._incoming_left < 0:
            raise SessionFault("amqp:session:window-violation", "more transfers than the session's incoming window")
        link = self._link(transfer.handle)
        if isinstance(link, ReceivingLink) and link.state is LinkState.ATTACHED:
            link.on_transfer(transfer, payload, events)
        elif link is not None:
            raise SessionFault("amqp:session:errant-link", "a transfer on a link that takes none")
        if self._incoming_left <= self.wire.limits.incoming_window >> 1:
            self.write_flow()

    def learn(self, transfer: Transfer, data: bytes, start: int, payload: int, end: int) -> None:
        """Keep what ``transfer``, the frame's body from ``start`` to ``end``, has in common with those to come."""
        key, link = key_of(data, start, end), self.links.get(transfer.handle)
        if key and isinstance(link, ReceivingLink):
            pattern = pattern_of(link, transfer, data, start, payload)
            if pattern is not None:
                self._patterns.pop(link.pattern, None)
                self._patterns[key] = pattern
                link.pattern = key

    def on_repeat(self, data: bytes, start: int, end: int, events: list[Event]) -> bool:
        """Take the body between ``start`` and ``end`` if it is a transfer like an earlier one, and a whole message.

        False when it has to be decoded.
        """
        pattern = self._patterns.get(data[start : start + KEY_SIZES.get(data[start + 6], 0)])
        if pattern is None:
            return False
        link, id_at, before_tag, tag_at, tag_end, rest, payload_at, message_format, settled = pattern
        payload_at += start
        tag_at += start
        if (
            data[start + id_at + 4 : tag_at] != before_tag
            or data[start + tag_end : payload_at] != rest
            or not link.takes(end - payload_at)
        ):
            return False
        self.next_incoming_id = (self.next_incoming_id + 1) & MASK
        self._incoming_left -= 1
        link.credit -= 1
        link.delivery_count = (link.delivery_count + 1) & MASK
        number: int = delivery_id(data, start + id_at)[0]
        events.append(
            _new(
                Delivery,
                (link, number, data[tag_at : start + tag_end], message_format, settled, data[payload_at:end]),
            )
        )
        if self._incoming_left <= self.wire.limits.incoming_window >> 1:
            self.write_flow()
        return True

    def on_disposition(self, disposition: Disposition, events: list[Event]) -> None:
        """Outcomes of what was sent from here. Of what is not tracked, only the wish to be settled is answered."""
        if disposition.role == SENDER:
            return
        first = disposition.first
        last = first if disposition.last is None else disposition.last
        count = ((last - first) & MASK) + 1
        tracked = self._tracked
        known: list[int]
        if count <= len(tracked):
            known = [key for key in ((first + index) & MASK for index in range(count)) if key in tracked]
        else:
            known = [key for key in tracked if (key - first) & MASK < count]
        for key in known:
            events.append(Outcome(tracked[key], key, disposition.state, disposition.settled))
            if disposition.settled:
                self.untrack(key)
        if not known and not disposition.settled:
            self.write(Disposition(SENDER, first, last, True, disposition.state))

    def on_detach(self, detach: Detach, events: list[Event]) -> None:
        """The client lets go of a link, or answers our detach."""
        link = self.links.get(detach.handle)
        if link is None:
            self._link(detach.handle)
        elif link.state is LinkState.ATTACHING:
            link.state = LinkState.CANCELLED
            events.append(LinkDetached(link, detach.error))
        elif link.state is LinkState.ATTACHED:
            self.write(Detach(detach.handle, detach.closed))
            self.release(link)
            events.append(LinkDetached(link, detach.error))
        elif link.state is LinkState.DETACHING:
            self.release(link)

    def on_end(self, _: End, events: list[Event]) -> None:
        """The client ends the session; the connection answers."""
        self.end(events)


HANDLERS: dict[type, Any] = {
    Attach: Session.on_attach,
    Flow: Session.on_flow,
    Disposition: Session.on_disposition,
    Detach: Session.on_detach,
    End: Session.on_end,
}
"""Performative to its handler; transfer, with its payload, has its own way."""
