"""The server's end of an AMQP 1.0 connection: bytes in, events out (AMQP 1.0 part 2, section 2.4).

Feed ``receive_data``, answer the events by the methods here and on the links, send what ``data_to_send``
returns. Where a decision decides what the following bytes mean (SASL, open) the engine reads no further until
it is taken; call ``receive_data(b"")`` after it, for more may have come already.

Nothing that a client sends raises: what breaks the protocol becomes ``Failed``, after which the engine only
has its last bytes to send. Sessions are answered by the engine itself.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, ClassVar

from muster.wire.amqp.composite import encode_composite
from muster.wire.amqp.decoding import AmqpDecodeError, AmqpFramingError
from muster.wire.amqp.events import Closed, Event, Failed, Opened, SaslStarted
from muster.wire.amqp.frames import AMQP, AMQP_HEADER, EMPTY, SASL, SASL_HEADER, FrameBuffer, encode_frame
from muster.wire.amqp.performatives import (
    Begin,
    Close,
    End,
    Error,
    Open,
    Performative,
    Transfer,
    decode_performative,
)
from muster.wire.amqp.repeats import SHORTEST
from muster.wire.amqp.sasl import (
    AUTH,
    MECHANISMS,
    OK,
    SaslChallenge,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    SaslResponse,
    decode_sasl,
)
from muster.wire.amqp.session import HANDLERS, Limits, Session, SessionFault, Wire


class State(Enum):
    """Where a connection stands; the table ``_STEPS`` says what is read in each."""

    START = auto()
    SASL_INIT = auto()
    SASL_RESPONSE = auto()
    SASL_DECISION = auto()
    HEADER = auto()
    OPENING = auto()
    OPEN_DECISION = auto()
    OPENED = auto()
    CLOSING = auto()
    CLOSED = auto()

    __hash__ = object.__hash__  # Enum's own is written in Python, and every read looks a state up


class _ProtocolFault(AmqpDecodeError):
    """Well-formed, but not what may come now."""

    condition: ClassVar[str] = "amqp:not-allowed"


class Connection:
    """One connection. ``remote`` is the client's open once there is one, ``sasl`` whether it came with a SASL layer."""

    __slots__ = (
        "_allowance",
        "_buffer",
        "_container_id",
        "_ended",
        "_mechanism",
        "_proven",
        "_wire",
        "remote",
        "sasl",
        "sessions",
        "state",
    )

    def __init__(self, container_id: str, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        self.state = State.START
        self.remote: Open | None = None
        self.sasl = False
        self.sessions: dict[int, Session] = {}
        self._container_id = container_id
        self._wire = Wire(limits)
        self._buffer = FrameBuffer(min(limits.before_open, limits.max_frame_size))
        self._allowance = limits.before_open
        """How many bytes may still come before the next proof of good will; -1 for any number."""
        self._proven = False
        self._ended: set[int] = set()
        self._mechanism: SaslInit | None = None

    # --- reading

    def receive_data(self, data: bytes) -> list[Event]:
        """Take what came from the client and tell what it means."""
        events: list[Event] = []
        if self.state is State.CLOSED:
            return events
        try:
            if self._allowance >= 0:
                self._allowance -= len(data)
                if self._allowance < 0:
                    missing = "authenticated" if self.state is State.OPENED else "open"
                    raise AmqpFramingError(f"too much was sent before the connection was {missing}")
            if data:
                self._buffer.feed(data)
            step = _STEPS.get(self.state)
            while step is not None and step(self, events):
                step = _STEPS.get(self.state)
        except AmqpDecodeError as fault:
            self._fail(Error(fault.condition, str(fault)), events)
        return events

    def _fail(self, error: Error, events: list[Event]) -> None:
        if self.state is State.OPENING:
            self._write_open()
        if self.state in {State.OPENING, State.OPEN_DECISION, State.OPENED}:
            self._wire.write(0, Close(error))
        self._end_sessions(events)
        self.state = State.CLOSED
        events.append(Failed(error))

    def _end_sessions(self, events: list[Event]) -> None:
        for session in self.sessions.values():
            session.end(events)
        self.sessions.clear()

    def _read_first_header(self, _: list[Event]) -> bool:
        header = self._buffer.header()
        if header is None:
            return False
        if header == SASL_HEADER:
            self.sasl = True
            self._wire.parts.append(SASL_HEADER)
            self._write_sasl(SaslMechanisms(MECHANISMS))
            self.state = State.SASL_INIT
            return True
        return self._take_header(header)

    def _read_header(self, _: list[Event]) -> bool:
        header = self._buffer.header()
        return header is not None and self._take_header(header)

    def _take_header(self, header: bytes) -> bool:
        # The answer to any header that is not served is the one that is (AMQP 1.0 part 2, section 2.2).
        self._wire.parts.append(AMQP_HEADER)
        if header != AMQP_HEADER:
            raise AmqpFramingError("the connection does not begin with an AMQP 1.0 header")
        self.state = State.OPENING
        return True

    def _read_sasl(self, events: list[Event]) -> bool:
        frame = self._buffer.frame()
        if frame is None:
            return False
        kind, _, data, start, end = frame
        if kind != SASL:
            raise AmqpFramingError("a frame of the SASL layer has another type")
        body = decode_sasl(data, start, end)
        if isinstance(body, SaslInit) and self.state is State.SASL_INIT:
            self._mechanism = body
            if body.mechanism == "PLAIN" and body.initial_response is None:
                self._write_sasl(SaslChallenge(b""))
                self.state = State.SASL_RESPONSE
                return True
            response = body.initial_response or b""
        elif isinstance(body, SaslResponse) and self.state is State.SASL_RESPONSE:
            response = body.response
        else:
            raise _ProtocolFault("this SASL frame may not come now")
        assert self._mechanism is not None
        self.state = State.SASL_DECISION
        events.append(SaslStarted(self._mechanism.mechanism, response, self._mechanism.hostname))
        return False

    def _read_frame(self, events: list[Event]) -> bool:
        frame = self._buffer.frame()
        if frame is None:
            return False
        kind, channel, data, start, end = frame
        if kind != AMQP:
            raise AmqpFramingError("a frame has an unknown type")
        if start == end:
            return True
        if end - start >= SHORTEST and self.state is State.OPENED:
            session = self.sessions.get(channel)
            if session is not None and session.on_repeat(data, start, end, events):
                return end < len(data)
        performative, payload = decode_performative(data, start, end)
        if isinstance(performative, Transfer) and self.state is State.OPENED:
            session = self.sessions.get(channel)
            if session is not None:
                try:
                    session.on_transfer(performative, data[payload:end], events)
                    session.learn(performative, data, start, payload, end)
                except SessionFault as fault:
                    self._end_by_fault(session, fault, events)
                return True
        elif payload != end:
            raise AmqpFramingError("bytes follow a performative that has no payload")
        self._dispatch(channel, performative, events)
        return self.state in _STEPS

    def _dispatch(self, channel: int, performative: Performative, events: list[Event]) -> None:
        if isinstance(performative, Close):
            self._on_close(performative, events)
        elif self.state is State.CLOSING:
            return
        elif self.state is State.OPENING:
            if not isinstance(performative, Open):
                raise _ProtocolFault("the first performative is not open")
            self.remote = performative
            self.state = State.OPEN_DECISION
            events.append(Opened(performative))
        elif isinstance(performative, Begin):
            self._on_begin(channel, performative)
        elif isinstance(performative, Open):
            raise _ProtocolFault("a second open")
        else:
            self._on_session(channel, performative, events)

    def _on_begin(self, channel: int, begin: Begin) -> None:
        if channel in self.sessions:
            raise _ProtocolFault(f"channel {channel} has a session already")
        if begin.remote_channel is not None:
            raise _ProtocolFault("a begin answers one that was never sent")
        if channel >= self._wire.limits.sessions:
            raise _ProtocolFault(f"channel {channel} is above the channel-max")
        if len(self.sessions) >= self._wire.most_sessions:
            raise _ProtocolFault(f"more than {self._wire.most_sessions} sessions before the client was authenticated")
        self._ended.discard(channel)
        self.sessions[channel] = Session(self._wire, channel, begin)

    def _on_session(self, channel: int, performative: Performative, events: list[Event]) -> None:
        session = self.sessions.get(channel)
        if session is None:
            if isinstance(performative, End) or channel in self._ended:
                # Late: the session was ended from here, or the client goes on after its own end (azure-eventhub).
                return
            raise _ProtocolFault(f"channel {channel} has no session")
        try:
            HANDLERS[type(performative)](session, performative, events)
        except SessionFault as fault:
            self._end_by_fault(session, fault, events)
        else:
            if isinstance(performative, End):
                session.write(End())
                self._ended.add(channel)
                del self.sessions[channel]

    def _end_by_fault(self, session: Session, fault: SessionFault, events: list[Event]) -> None:
        events += self.end_session(session, fault.error)

    def end_session(self, session: Session, error: Error) -> list[Event]:
        """End ``session`` from this side, with its links; what became of these. What still comes on it is ignored."""
        events: list[Event] = []
        if self.sessions.get(session.channel) is session:
            session.end(events)
            session.write(End(error))
            self._ended.add(session.channel)
            del self.sessions[session.channel]
        return events

    def _on_close(self, close: Close, events: list[Event]) -> None:
        self._end_sessions(events)
        if self.state is State.OPENING:
            raise _ProtocolFault("the first performative is not open")
        if self.state is State.OPENED:
            self._wire.write(0, Close())
        self.state = State.CLOSED
        events.append(Closed(close.error))

    # --- answering and sending

    def sasl_outcome(self, accepted: bool) -> None:
        """Answer ``SaslStarted``. After a refusal the engine is closed: send what there is and close the transport."""
        if self.state is not State.SASL_DECISION:
            return
        self._write_sasl(SaslOutcome(OK if accepted else AUTH))
        self.state = State.HEADER if accepted else State.CLOSED

    def sasl_challenge(self, challenge: bytes) -> None:
        """Ask for more instead, in answer to ``SaslStarted``; another one follows with the response."""
        if self.state is State.SASL_DECISION:
            self._write_sasl(SaslChallenge(challenge))
            self.state = State.SASL_RESPONSE

    def open(self, *, offered: tuple[str, ...] = (), properties: dict[Any, Any] | None = None) -> None:
        """Answer ``Opened``: offer capabilities and tell properties."""
        if self.state is not State.OPEN_DECISION:
            return
        self._write_open(offered, properties)
        self._allowance = -1 if self._proven else self._wire.limits.unproven_bytes
        self._buffer.max_frame_size = self._wire.limits.max_frame_size
        self.state = State.OPENED

    def _write_open(self, offered: tuple[str, ...] = (), properties: dict[Any, Any] | None = None) -> None:
        limits = self._wire.limits
        self._wire.write(
            0,
            Open(
                container_id=self._container_id,
                max_frame_size=limits.max_frame_size,
                channel_max=limits.sessions - 1,
                idle_time_out=limits.idle_time_out,
                offered_capabilities=offered or None,
                properties=properties,
            ),
        )
        if self.remote is not None:
            self._wire.max_frame_size = max(512, min(self.remote.max_frame_size, _LARGEST_SENT))

    def close(self, error: Error | None = None) -> None:
        """Close from this side, in answer to ``Opened`` too. What the client says until it answers is ignored.

        The sessions end first, each by a frame of its own: without, Node's device client waits for these for 45 s.
        """
        if self.state is State.OPEN_DECISION:
            self.open()
        if self.state is State.OPENED:
            for session in self.sessions.values():
                session.write(End())
            self._wire.write(0, Close(error))
            self._end_sessions([])
            self.state = State.CLOSING
        elif self.state is not State.CLOSING:
            self.state = State.CLOSED

    def prove(self) -> None:
        """The client is authenticated: it may have as many sessions and links as the limits say."""
        limits = self._wire.limits
        self._proven = True
        if self.state is State.OPENED:
            self._allowance = -1
        self._wire.most_sessions, self._wire.most_links = limits.sessions, limits.links

    def heartbeat(self) -> None:
        """Send an empty frame, so that the client does not think us gone."""
        if self.state is State.OPENED:
            self._wire.parts.append(EMPTY)

    def data_to_send(self) -> bytes:
        """What is to be sent since the last call."""
        parts = self._wire.parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return data

    def _write_sasl(self, body: Any) -> None:
        self._wire.parts.append(encode_frame(0, encode_composite(body), SASL))


_LARGEST_SENT = 1 << 20
"""Frames are not made larger than this, whatever the client takes (bytes)."""

_STEPS: dict[State, Callable[[Connection, list[Event]], bool]] = {
    State.START: Connection._read_first_header,
    State.SASL_INIT: Connection._read_sasl,
    State.SASL_RESPONSE: Connection._read_sasl,
    State.HEADER: Connection._read_header,
    State.OPENING: Connection._read_frame,
    State.OPENED: Connection._read_frame,
    State.CLOSING: Connection._read_frame,
}
"""What is read in each state; in the others nothing is. A step returns whether to go on."""
