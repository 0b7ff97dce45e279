"""The nine performatives and what they carry (AMQP 1.0 part 2, sections 2.7 and 2.8; part 3, 3.4 and 3.5)."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from muster.wire.amqp.composite import (
    ANY,
    BINARY,
    BOOLEAN,
    COMPOSITE,
    ERROR,
    MAP,
    STRING,
    SYMBOL,
    SYMBOLS,
    UBYTE,
    UINT,
    ULONG,
    USHORT,
    encode_composite,
    layout_named,
    make_composite,
    register,
)
from muster.wire.amqp.decoding import AmqpDecodeError, decode
from muster.wire.amqp.values import Described

SENDER, RECEIVER = False, True
"""Roles, as attach and disposition have them."""

UNSETTLED, SETTLED, MIXED = 0, 1, 2
"""Sender settle modes."""

FIRST, SECOND = 0, 1
"""Receiver settle modes."""


class Error(NamedTuple):
    """Why something ended or was refused."""

    condition: str
    description: str | None = None
    info: dict[Any, Any] | None = None


class Open(NamedTuple):
    """Begins a connection. ``idle_time_out`` in milliseconds."""

    container_id: str
    hostname: str | None = None
    max_frame_size: int = 0xFFFFFFFF
    channel_max: int = 0xFFFF
    idle_time_out: int | None = None
    outgoing_locales: tuple[str, ...] | None = None
    incoming_locales: tuple[str, ...] | None = None
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: dict[Any, Any] | None = None


class Begin(NamedTuple):
    """Begins a session."""

    remote_channel: int | None
    next_outgoing_id: int
    incoming_window: int
    outgoing_window: int
    handle_max: int = 0xFFFFFFFF
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: dict[Any, Any] | None = None


class Source(NamedTuple):
    """Where a link takes its messages from."""

    address: Any = None
    durable: int = 0
    expiry_policy: str = "session-end"
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: dict[Any, Any] | None = None
    distribution_mode: str | None = None
    filter: dict[Any, Any] | None = None
    default_outcome: Any = None
    outcomes: tuple[str, ...] | None = None
    capabilities: tuple[str, ...] | None = None


class Target(NamedTuple):
    """Where a link brings its messages to."""

    address: Any = None
    durable: int = 0
    expiry_policy: str = "session-end"
    timeout: int = 0
    dynamic: bool = False
    dynamic_node_properties: dict[Any, Any] | None = None
    capabilities: tuple[str, ...] | None = None


class Attach(NamedTuple):
    """Attaches a link. ``source`` and ``target`` of a kind not known here stay ``Described``."""

    name: str
    handle: int
    role: bool
    snd_settle_mode: int = MIXED
    rcv_settle_mode: int = FIRST
    source: Source | Described | None = None
    target: Target | Described | None = None
    unsettled: dict[Any, Any] | None = None
    incomplete_unsettled: bool = False
    initial_delivery_count: int | None = None
    max_message_size: int | None = None
    offered_capabilities: tuple[str, ...] | None = None
    desired_capabilities: tuple[str, ...] | None = None
    properties: dict[Any, Any] | None = None


class Flow(NamedTuple):
    """Tells the state of a session's windows and, with a handle, of a link's credit."""

    next_incoming_id: int | None
    incoming_window: int
    next_outgoing_id: int
    outgoing_window: int
    handle: int | None = None
    delivery_count: int | None = None
    link_credit: int | None = None
    available: int | None = None
    drain: bool = False
    echo: bool = False
    properties: dict[Any, Any] | None = None


class Transfer(NamedTuple):
    """Carries a message or a part of one; the payload follows."""

    handle: int
    delivery_id: int | None = None
    delivery_tag: bytes | None = None
    message_format: int | None = None
    settled: bool | None = None
    more: bool = False
    rcv_settle_mode: int | None = None
    state: Any = None
    resume: bool = False
    aborted: bool = False
    batchable: bool = False


class Disposition(NamedTuple):
    """Tells what became of deliveries ``first`` to ``last``. ``role`` is that of the side that says so."""

    role: bool
    first: int
    last: int | None = None
    settled: bool = False
    state: Any = None
    batchable: bool = False


class Detach(NamedTuple):
    """Detaches a link."""

    handle: int
    closed: bool = False
    error: Error | None = None


class End(NamedTuple):
    """Ends a session."""

    error: Error | None = None


class Close(NamedTuple):
    """Ends a connection."""

    error: Error | None = None


class Received(NamedTuple):
    """Delivery state: received this far."""

    section_number: int
    section_offset: int


class Accepted(NamedTuple):
    """Outcome: done."""


class Rejected(NamedTuple):
    """Outcome: invalid."""

    error: Error | None = None


class Released(NamedTuple):
    """Outcome: not processed."""


class Modified(NamedTuple):
    """Outcome: not processed, with changes."""

    delivery_failed: bool = False
    undeliverable_here: bool = False
    message_annotations: dict[Any, Any] | None = None


register(Error, 0x1D, "error", SYMBOL, STRING, MAP)
register(
    Open, 0x10, "open",
    STRING, STRING, UINT, USHORT, UINT, SYMBOLS, SYMBOLS, SYMBOLS, SYMBOLS, MAP,
)  # fmt: skip
register(Begin, 0x11, "begin", USHORT.or_null(), UINT, UINT, UINT, UINT, SYMBOLS, SYMBOLS, MAP)
register(
    Attach, 0x12, "attach",
    STRING, UINT, BOOLEAN, UBYTE, UBYTE, COMPOSITE, COMPOSITE, MAP, BOOLEAN, UINT, ULONG, SYMBOLS, SYMBOLS, MAP,
)  # fmt: skip
register(Flow, 0x13, "flow", UINT.or_null(), UINT, UINT, UINT, UINT, UINT, UINT, UINT, BOOLEAN, BOOLEAN, MAP)
register(
    Transfer, 0x14, "transfer",
    UINT, UINT, BINARY, UINT, BOOLEAN, BOOLEAN, UBYTE, COMPOSITE, BOOLEAN, BOOLEAN, BOOLEAN,
)  # fmt: skip
register(Disposition, 0x15, "disposition", BOOLEAN, UINT, UINT, BOOLEAN, COMPOSITE, BOOLEAN)
register(Detach, 0x16, "detach", UINT, BOOLEAN, ERROR)
register(End, 0x17, "end", ERROR)
register(Close, 0x18, "close", ERROR)
register(
    Source, 0x28, "source",
    ANY, UINT, SYMBOL, UINT, BOOLEAN, MAP, SYMBOL, MAP, COMPOSITE, SYMBOLS, SYMBOLS,
)  # fmt: skip
register(Target, 0x29, "target", ANY, UINT, SYMBOL, UINT, BOOLEAN, MAP, SYMBOLS)
register(Received, 0x23, "received", UINT, ULONG)
register(Accepted, 0x24, "accepted")
register(Rejected, 0x25, "rejected", ERROR)
register(Released, 0x26, "released")
register(Modified, 0x27, "modified", BOOLEAN, BOOLEAN, MAP)

Performative = Open | Begin | Attach | Flow | Transfer | Disposition | Detach | End | Close
_PERFORMATIVES = (Open, Begin, Attach, Flow, Transfer, Disposition, Detach, End, Close)

ACCEPTED = Accepted()
RELEASED = Released()


def decode_performative(data: bytes, position: int, end: int) -> tuple[Performative, int]:
    """The performative at ``position`` and where its payload begins. Raises ``AmqpDecodeError``."""
    if data[position : position + 4] == b"\x00\x53\x14\xc0":
        quick = _quick_transfer(data, position, end)
        if quick is not None:
            return quick
    described, position = decode(data, position, end)
    layout = layout_named(described.descriptor) if isinstance(described, Described) else None
    if layout is None or layout.make not in _PERFORMATIVES:
        raise AmqpDecodeError("a frame's body is no performative")
    assert isinstance(described, Described)
    performative: Performative = make_composite(layout, described.value)
    return performative, position


def _quick_transfer(data: bytes, position: int, end: int) -> tuple[Transfer, int] | None:
    """A transfer as nearly all clients write it, read several times faster; ``None`` when it is not of that form."""
    head = _TRANSFER_HEAD(data, position, end)
    if head is None:
        return None
    size, count, handle, delivery_id, tag_size = head.groups()
    stop = position + 5 + size[0]
    start = head.end()
    tag = None
    if tag_size is not None:
        tag = data[start : start + tag_size[0]]
        start += tag_size[0]
    if stop > end or start > stop:
        return None
    rest = _TRANSFER_REST(data, start, stop)
    if rest is None:
        return None
    message_format, settled, more, others = rest.groups()
    fields = 3 + (message_format is not None) + (settled is not None) + (more is not None) + len(others)
    if fields != count[0]:
        return None
    transfer = Transfer(
        _uint(handle) or 0, _uint(delivery_id), tag, _uint(message_format), _FLAGS[settled], more == b"\x41"
    )
    return transfer, stop


def _uint(encoded: bytes | None) -> int | None:
    if encoded is None or encoded == b"\x40":
        return None
    if len(encoded) == 2:
        return encoded[1]
    return 0 if len(encoded) == 1 else int.from_bytes(encoded[1:])


_UINT = rb"\x43|\x52.|\x70.{4}"
_TRANSFER_HEAD = re.compile(rb"\x00\x53\x14\xc0(.)(.)(%b)(\x40|%b)(?:\x40|\xa0(.))" % (_UINT, _UINT), re.DOTALL).match
_TRANSFER_REST = re.compile(rb"(\x40|%b)?([\x40-\x42])?([\x40-\x42])?([\x40\x42]*)" % _UINT, re.DOTALL).fullmatch
_FLAGS = {None: None, b"\x40": None, b"\x41": True, b"\x42": False}


def encode_performative(performative: Performative) -> bytes:
    """``performative`` with every one of its fields."""
    return encode_composite(performative)
