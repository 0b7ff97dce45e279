"""A plain AMQP client that says exactly what a test wants said, over a socket, and shows what comes back."""

from __future__ import annotations

import socket
import ssl
import time
from typing import Any, NamedTuple, Self

from muster.identity.sas import make
from muster.wire.amqp.composite import encode_composite
from muster.wire.amqp.decoding import decode
from muster.wire.amqp.frames import AMQP_HEADER, SASL, SASL_HEADER, FrameBuffer, encode_frame
from muster.wire.amqp.message import Message, Properties, decode_message, encode_message
from muster.wire.amqp.performatives import (
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Detach,
    Flow,
    Open,
    Source,
    Target,
    Transfer,
    decode_performative,
    encode_performative,
)
from muster.wire.amqp.sasl import SaslInit
from muster.wire.amqp.values import Described, Symbol, ULong

WAIT = 10.0
FILTER = Symbol("apache.org:selector-filter:string")


class Came(NamedTuple):
    """One frame: its channel, performative (``None``: heartbeat) and payload."""

    channel: int
    body: Any
    payload: bytes


def _dialled(host: str, port: int, context: ssl.SSLContext | None) -> socket.socket:
    plain = socket.create_connection((host, port), WAIT)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return plain if context is None else context.wrap_socket(plain, server_hostname=host)


class AmqpClient:
    """A connection. Sessions are begun on channels as they are used; handles count up within each."""

    def __init__(
        self, port: int, *, sasl: SaslInit | None = None, host: str = "127.0.0.1", hostname: str = "localhost",
        context: ssl.SSLContext | None = None, connection: Any = None, **fields: Any,
    ) -> None:  # fmt: skip
        """To a port without TLS, or with that of ``context``, or over ``connection``, which is like a socket;
        ``hostname`` stands in open."""
        self.socket: Any = connection or _dialled(host, port, context)
        self.buffer = FrameBuffer(1 << 30)
        self.came: list[Came] = []
        self._handles = 0
        self._begun: set[int] = set()
        self.outcome: int | None = None
        if sasl is not None:
            self.socket.sendall(SASL_HEADER + encode_frame(0, encode_composite(sasl), SASL))
            assert self._header() == SASL_HEADER
            self._sasl_frame()
            self.outcome = self._sasl_frame().value[0]
            if self.outcome != 0:
                return
        self.socket.sendall(AMQP_HEADER)
        self.send(Open("test", hostname, **fields))
        assert self._header() == AMQP_HEADER
        self.open = self.wait_for(Open).body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _more(self, timeout: float = WAIT) -> bool:
        """Read once; false at the end of the stream."""
        self.socket.settimeout(timeout)
        data = self.socket.recv(1 << 20)
        self.buffer.feed(data)
        return bool(data)

    def _header(self) -> bytes:
        while (header := self.buffer.header()) is None:
            assert self._more(), "the server hung up"
        return header

    def _sasl_frame(self) -> Any:
        while (frame := self.buffer.frame()) is None:
            assert self._more(), "the server hung up"
        return decode(frame[2], frame[3], frame[4])[0]

    # --- saying

    def send(self, performative: Any, payload: bytes = b"", channel: int = 0) -> None:
        """Send one frame."""
        self.socket.sendall(encode_frame(channel, encode_performative(performative) + payload))

    def attach(self, *, source: Any = None, target: Any = None, channel: int = 0, **fields: Any) -> int:
        """Attach a receiver (``source``) or else a sender; its handle. Nothing is waited for."""
        if channel not in self._begun:
            self._begun.add(channel)
            self.send(Begin(None, 0, 1 << 20, 1 << 20), channel=channel)
        handle = self._handles
        self._handles += 1
        role = RECEIVER if source is not None else SENDER
        own = f"own-{handle}"
        self.send(
            Attach(
                **{
                    "name": f"link-{handle}",
                    "handle": handle,
                    "role": role,
                    "source": source if isinstance(source, Source) else Source(own if source is None else source),
                    "target": target if isinstance(target, Target) else Target(own if target is None else target),
                    "initial_delivery_count": None if role else 0,
                    **fields,
                }
            ),
            channel=channel,
        )
        return handle

    def credit(self, handle: int, amount: int, channel: int = 0, **fields: Any) -> None:
        """Grant credit; ``delivery_count`` must be told once something was received."""
        self.send(
            Flow(
                **{
                    "next_incoming_id": None,
                    "incoming_window": 1 << 20,
                    "next_outgoing_id": 0,
                    "outgoing_window": 1 << 20,
                    "handle": handle,
                    "delivery_count": 0,
                    "link_credit": amount,
                    **fields,
                }
            ),
            channel=channel,
        )

    # --- hearing

    def next(self, timeout: float = WAIT) -> Came | None:
        """The next frame; ``None`` at the end of the stream. Raises ``TimeoutError``."""
        deadline = time.monotonic() + timeout
        while (frame := self.buffer.frame()) is None:
            if not self._more(max(0.001, deadline - time.monotonic())):
                return None
        _, channel, data, start, end = frame
        if start == end:
            came = Came(channel, None, b"")
        else:
            performative, position = decode_performative(data, start, end)
            came = Came(channel, performative, data[position:end])
        self.came.append(came)
        return came

    def wait_for(self, kind: Any, timeout: float = WAIT) -> Came:
        """The next frame with a performative of ``kind`` (``type(None)``: a heartbeat); others are passed over."""
        while True:
            came = self.next(timeout)
            assert came is not None, f"the server hung up before {kind.__name__}"
            if isinstance(came.body, kind):
                return came

    def silent(self, seconds: float = 0.15, kind: Any = Transfer) -> bool:
        """Whether no frame of ``kind`` comes for so long."""
        deadline = time.monotonic() + seconds
        try:
            while (came := self.next(deadline - time.monotonic())) is not None:
                if isinstance(came.body, kind):
                    return False
        except TimeoutError:
            return True
        return False

    def hung_up(self, timeout: float = WAIT) -> bool:
        """Whether the server ends the connection in time."""
        try:
            while self.next(timeout) is not None:
                pass
        except ConnectionError:
            pass
        return True

    def refusal(self, timeout: float = WAIT) -> Any:
        """The error of the next detach."""
        return self.wait_for(Detach, timeout).body.error

    def messages(self, count: int) -> list[Message]:
        """The next ``count`` messages, whichever link they come on."""
        found: list[Message] = []
        parts: list[bytes] = []
        while len(found) < count:
            came = self.wait_for(Transfer)
            parts.append(came.payload)
            if not came.body.more:
                found.append(decode_message(b"".join(parts)))
                parts = []
        return found

    def numbers(self, count: int) -> list[int]:
        """The sequence numbers of the next ``count`` events."""
        return [(message.message_annotations or {})["x-opt-sequence-number"] for message in self.messages(count)]

    # --- Azure's ways

    def request(self, node: str, message: Message, channel: int = 0) -> Message:
        """Ask ``node`` by a fresh pair of links; its answer."""
        receiver = self.attach(source=node, channel=channel)
        self.credit(receiver, 10, channel)
        sender = self.attach(target=node, channel=channel)
        names = {f"link-{receiver}", f"link-{sender}"}
        while names:  # answers to earlier attaches may come between
            names.discard(self.wait_for(Attach).body.name)
        self.send(Transfer(sender, 0, b"1", 0, False), encode_message(message), channel)
        return self.messages(1)[0]

    def put_token(
        self, key: str, *, policy: str = "service", audience: str = "sb://localhost/events", seconds: float = 3600,
        now: float | None = None, message_id: Any = "1", channel: int = 0,
    ) -> Message:  # fmt: skip
        """Put a SAS token for ``audience``; the answer."""
        expiry = int((time.time() if now is None else now) + seconds)
        token = make(audience, expiry, key.encode(), policy)
        properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": audience}
        request = Message(properties=Properties(message_id=message_id), application_properties=properties, value=token)
        return self.request("$cbs", request, channel)


def partition(number: int | str = 0, group: str = "$Default", entity: str = "events") -> str:
    """A partition's address."""
    return f"{entity}/ConsumerGroups/{group}/Partitions/{number}"


def events_from(selector: str | None, address: str | None = None, *, described: Any = FILTER) -> Source:
    """A source with a selector filter; ``described`` by symbol, by number, or (``None``) bare."""
    if selector is None:
        return Source(address or partition())
    value = selector if described is None else Described(described, selector)
    return Source(address or partition(), filter={FILTER: value})


SELECTOR_CODE = ULong(0x468C00000004)
