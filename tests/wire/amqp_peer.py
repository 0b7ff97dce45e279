"""A client's side to drive the engine with: writes frames, reads frames, and answers events as a head would."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from muster.wire.amqp.connection import Connection
from muster.wire.amqp.decoding import decode
from muster.wire.amqp.events import Event, LinkAttached, Opened, SaslStarted
from muster.wire.amqp.frames import AMQP_HEADER, SASL, SASL_HEADER, FrameBuffer, encode_frame
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.performatives import (
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Flow,
    Open,
    Performative,
    Source,
    Target,
    Transfer,
    decode_performative,
    encode_performative,
)
from muster.wire.amqp.session import Limits


def frame(performative: Performative, payload: bytes = b"", channel: int = 0) -> bytes:
    """``performative`` and ``payload`` as one frame."""
    return encode_frame(channel, encode_performative(performative) + payload)


def begin(**fields: Any) -> Begin:
    return Begin(
        **{"remote_channel": None, "next_outgoing_id": 0, "incoming_window": 100, "outgoing_window": 100, **fields}
    )


def receiver(handle: int = 0, address: str = "a", **fields: Any) -> Attach:
    """The attach of a client that wants to receive."""
    name = fields.pop("name", f"r{handle}")
    return Attach(name, handle, RECEIVER, source=Source(address), target=Target("here"), **fields)


def sender(handle: int = 1, address: str = "a", **fields: Any) -> Attach:
    """The attach of a client that wants to send."""
    name = fields.pop("name", f"s{handle}")
    fields = {"initial_delivery_count": 0, **fields}
    return Attach(name, handle, SENDER, source=Source("here"), target=Target(address), **fields)


def credit(handle: int, amount: int, **fields: Any) -> Flow:
    return Flow(
        **{
            "next_incoming_id": 0,
            "incoming_window": 100,
            "next_outgoing_id": 0,
            "outgoing_window": 100,
            "handle": handle,
            "delivery_count": 0,
            "link_credit": amount,
            **fields,
        }
    )


def transfer(handle: int = 1, delivery_id: int | None = 0, **fields: Any) -> Transfer:
    return Transfer(handle, delivery_id, b"tag", 0, **fields)


class Peer:
    """An engine and a user of it that accepts whatever comes, granting ``grant`` to every sender."""

    def __init__(self, limits: Limits | None = None, grant: int = 10, max_message_size: int | None = None) -> None:
        self.engine = Connection("server", limits or Limits())
        self.grant = grant
        self.max_message_size = max_message_size
        self.events: list[Event] = []
        self.links: dict[str, Any] = {}
        self._frames = FrameBuffer(1 << 30)
        self._headers: list[bytes] = []

    @classmethod
    def opened(cls, *, remote: Open | None = None, begin_fields: dict[str, Any] | None = None, **options: Any) -> Peer:
        """A peer after open and begin on channel 0, with what was said until then cleared away."""
        peer = cls(**options)
        peer.send(AMQP_HEADER, frame(remote or Open("client")), frame(begin(**(begin_fields or {}))))
        peer.events.clear()
        assert peer.read(header=True)[-1][1].remote_channel == 0
        return peer

    def send(self, *chunks: bytes) -> list[Event]:
        """Feed ``chunks`` one by one, answering as we go; returns the events of this call."""
        events: list[Event] = []
        for chunk in chunks:
            batch = self.engine.receive_data(chunk)
            while batch:
                for event in batch:
                    self._answer(event)
                events += batch
                batch = self.engine.receive_data(b"")
        self.events += events
        return events

    def _answer(self, event: Event) -> None:
        if isinstance(event, SaslStarted):
            self.engine.sasl_outcome(True)
        elif isinstance(event, Opened):
            self.engine.open()
        elif isinstance(event, LinkAttached):
            link = event.link
            self.links[link.name] = link
            link.accept(max_message_size=self.max_message_size)
            if isinstance(link, ReceivingLink) and self.grant:
                link.grant(self.grant)

    def read(self, *, header: bool = False) -> list[tuple[int, Any, bytes]]:
        """The frames the engine has sent since: channel, performative, payload. Heartbeats are ``None``."""
        self._frames.feed(self.engine.data_to_send())
        if header:
            assert self._frames.header() == AMQP_HEADER
        frames = []
        while (taken := self._frames.frame()) is not None:
            _, channel, data, start, end = taken
            if start == end:
                frames.append((channel, None, b""))
                continue
            performative, position = decode_performative(data, start, end)
            frames.append((channel, performative, data[position:end]))
        return frames

    def said(self) -> list[Any]:
        """The performatives alone."""
        return [performative for _, performative, _ in self.read()]


def sasl_frames(data: bytes) -> list[Any]:
    """The decoded bodies of the SASL frames in ``data``, which begins with the SASL header."""
    assert data[:8] == SASL_HEADER
    position, bodies = 8, []
    while position < len(data) and data[position : position + 4] != b"AMQP":
        size = int.from_bytes(data[position : position + 4])
        assert data[position + 5] == SASL
        bodies.append(decode(data, position + 8, position + size)[0])
        position += size
    return bodies


def told(events: Iterable[Event]) -> list[Any]:
    """``events`` in a form that can be compared between two runs."""
    flat = []
    for event in events:
        parts = [getattr(part, "name", part) for part in event]
        flat.append((type(event).__name__, *parts))
    return flat
