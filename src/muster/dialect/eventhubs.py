"""How Event Hubs clients spell what they want of the built-in endpoint (service.md 4)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any, NamedTuple

from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, HubError
from muster.messages.contract import PartitionState
from muster.wire.amqp.encoding import encode_map
from muster.wire.amqp.message import DELIVERY_ANNOTATIONS
from muster.wire.amqp.performatives import Attach, Error, Source
from muster.wire.amqp.values import Described, Int, Symbol, Timestamp, strings

RUNTIME_METRIC = "com.microsoft:enable-receiver-runtime-metric"
"""The capability by which a receiver asks for the last enqueued event's properties with every event."""

_SHOWN = 120


class PartitionAddress(NamedTuple):
    """``{entity}/ConsumerGroups/{group}/Partitions/{partition}``, as the client wrote its parts."""

    entity: str
    group: str
    partition: str


def partition_address(path: tuple[str, ...]) -> PartitionAddress | None:
    """What ``path`` (see ``dialect.amqp.address_path``) names, ``None`` when it names no partition."""
    if len(path) < 5 or path[-4].lower() != "consumergroups" or path[-2].lower() != "partitions":
        return None
    return PartitionAddress("/".join(path[:-4]), path[-3], path[-1])


# --- positions


class Start(Enum):
    """What a position counts from."""

    BEGINNING = auto()
    END = auto()
    SEQUENCE = auto()
    TIME = auto()


class Position(NamedTuple):
    """Where a receiver starts: behind ``value`` (a sequence number, or milliseconds since 1970), or at it."""

    start: Start
    value: int = 0
    inclusive: bool = False


_FILTER = "apache.org:selector-filter:string"
_SELECTOR = re.compile(
    r"""\s*amqp\.annotation\.(x-opt-[a-z-]+)\s*(>=|>)\s*(?:'([^']*)'|"([^"]*)"|([^\s'"]+))\s*""", re.IGNORECASE
)
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_LAST = (1 << 63) - 1


def start_position(source: object) -> Position:
    """Where the filter of ``source`` says to start; without one at the beginning (service.md 4.4).

    The filter may be described by symbol or number, or stand alone. Raises ``HubError``: 400003 for a filter of
    another kind, 400004 for an expression that is not understood.
    """
    filters = source.filter if isinstance(source, Source) else None
    chosen = (filters or {}).get(_FILTER)
    if chosen is None:
        return Position(Start.BEGINNING)
    expression = chosen.value if isinstance(chosen, Described) else chosen
    if not isinstance(expression, str):
        raise HubError(INVALID_OPERATION, f"The filter {_FILTER} is no text; send the selector expression as a string.")
    return parse_selector(expression)


def parse_selector(expression: str) -> Position:
    """Read ``amqp.annotation.<name> > '<value>'``: with ``>=`` too, the value quoted or not, in any case.

    Names: x-opt-offset (-1, @latest or a number), x-opt-sequence-number, x-opt-enqueued-time and its old spelling
    x-opt-enqueuedtimeutc. Raises ``HubError`` 400004.
    """
    match = _SELECTOR.fullmatch(expression[:1000])
    if match is None:
        raise _bad(expression, "it is not of the form amqp.annotation.<name> > '<value>'")
    name, value = match[1].lower(), match[3] or match[4] or match[5] or ""
    inclusive = match[2] == ">="
    if name == "x-opt-offset" and value.lower() == "@latest":
        return Position(Start.END)
    number = int(value) if _NUMBER.fullmatch(value) else None
    if number is None or not -_LAST <= number <= _LAST:
        raise _bad(expression, f"{value!r} is no number")
    if name in {"x-opt-offset", "x-opt-sequence-number"}:
        return Position(Start.SEQUENCE, number, inclusive) if number >= 0 else Position(Start.BEGINNING)
    if name in {"x-opt-enqueued-time", "x-opt-enqueuedtimeutc"}:
        return Position(Start.TIME, number, inclusive)
    raise _bad(expression, f"there is no annotation {name} to filter by")


def _bad(expression: str, why: str) -> HubError:
    shown = expression if len(expression) <= _SHOWN else expression[:_SHOWN] + "..."
    return HubError(
        ARGUMENT_INVALID,
        f"The filter {shown!r} is not valid here: {why}. "
        "Filter by x-opt-offset, x-opt-sequence-number or x-opt-enqueued-time.",
    )


# --- link properties


def owner_level(attach: Attach) -> int | None:
    """The epoch that the receiver claims its partition with; ``None`` for a reader that shares it.

    Raises ``HubError`` 400004 when it is no number, or negative.
    """
    epoch = (attach.properties or {}).get("com.microsoft:epoch")
    if epoch is None:
        return None
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise HubError(ARGUMENT_INVALID, "The link property com.microsoft:epoch is not a number from 0 on.")
    return epoch


def receiver_name(attach: Attach) -> str:
    """What the receiver calls itself, else its link's name."""
    name = (attach.properties or {}).get("com.microsoft:receiver-name")
    return (name if isinstance(name, str) and name else attach.name)[:_SHOWN]


# --- what a client is told


def runtime_metrics(state: PartitionState, now_ms: int) -> bytes:
    """The delivery annotations of a receiver that asked for ``RUNTIME_METRIC``, as an encoded section."""
    return DELIVERY_ANNOTATIONS + encode_map(
        {
            Symbol("last_enqueued_sequence_number"): state.next - 1,
            Symbol("last_enqueued_offset"): str(state.next - 1),
            Symbol("last_enqueued_time_utc"): Timestamp(state.enqueued_ms),
            Symbol("runtime_info_retrieval_time_utc"): Timestamp(now_ms),
        }
    )


def hub_information(entity: str, created_at: float, partitions: int) -> dict[Any, Any]:
    """The body of the answer to READ com.microsoft:eventhub. ``created_at`` in seconds since 1970."""
    return {
        "name": entity,
        "type": "com.microsoft:eventhub",
        "created_at": Timestamp(created_at * 1000),
        "partition_count": Int(partitions),
        "partition_ids": strings(*(str(number) for number in range(partitions))),
    }


def partition_information(entity: str, partition: int, state: PartitionState) -> dict[Any, Any]:
    """The body of the answer to READ com.microsoft:partition.

    One that never had an event is told as Azure does: last sequence number and offset -1, time 1970.
    """
    return {
        "name": entity,
        "type": "com.microsoft:partition",
        "partition": str(partition),
        "begin_sequence_number": state.first,
        "last_enqueued_sequence_number": state.next - 1,
        "last_enqueued_offset": str(state.next - 1),
        "last_enqueued_time_utc": Timestamp(state.enqueued_ms),
        "is_partition_empty": state.first == state.next,
    }


def redirect(host: str, port: int, entity: str, rest: Iterable[str]) -> Error:
    """Sends a client from the hub's own ``messages/events/<rest>`` to the same of ``entity`` (service.md 4.5).

    The port always stands in the address: the JavaScript helper finds the entity behind it.
    """
    address = "/".join([f"amqps://{host}:{port}", entity, *rest])
    return Error(
        "amqp:link:redirect",
        f"The events of this hub are at {address}.",
        {
            Symbol("hostname"): host,
            Symbol("network-host"): host,
            Symbol("port"): Int(port),
            Symbol("address"): address,
        },
    )
