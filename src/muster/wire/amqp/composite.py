"""Composite types: lists whose fields have names, kinds and defaults (AMQP 1.0 part 1, section 1.4).

Each is a ``NamedTuple`` registered with its descriptor and the kinds of its fields. A field without a default
is mandatory. Writing gives every field, nulls included, because azure-eventhub indexes without looking at the
length (clients.md 1).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, repeat
from typing import Any, NamedTuple

from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.encoding import (
    NULL,
    encode,
    encode_binary,
    encode_boolean,
    encode_compound,
    encode_map,
    encode_string,
    encode_symbol,
    encode_uint,
    encode_ulong,
)
from muster.wire.amqp.values import Described, Symbol, Timestamp, UByte, ULong, UShort, symbols


class Kind(NamedTuple):
    """What a field holds. ``accept`` is given what was decoded (never null); ``ValueError`` says it is wrong."""

    name: str
    encode: Callable[[Any], bytes]
    accept: Callable[[Any], Any]
    nullable: bool = False

    def or_null(self) -> Kind:
        """The same for a field that may be null although mandatory ones follow it."""
        return self._replace(nullable=True)


class Layout(NamedTuple):
    """A composite type. ``code`` is its numeric descriptor without the domain (0x10 for open)."""

    code: int
    name: str
    make: Callable[..., Any]
    fields: tuple[str, ...]
    kinds: tuple[Kind, ...]
    accepts: tuple[Callable[[Any], Any], ...]
    otherwise: tuple[Any, ...]
    """What stands for null: the default, or ``_MISSING`` where something must be given."""


_MISSING: Any = object()

LAYOUTS: dict[type, Layout] = {}
BY_DESCRIPTOR: dict[object, Layout] = {}
"""Keyed by the number and by the symbol ``amqp:<name>:list``."""


def register(composite: Any, code: int, name: str, *kinds: Kind) -> None:
    """Make ``composite``, a ``NamedTuple`` class, known with the kinds of its fields in order."""
    if len(kinds) != len(composite._fields):
        raise ValueError(f"{name}: {len(composite._fields)} fields, {len(kinds)} kinds")
    defaults = composite._field_defaults
    otherwise = [
        defaults.get(field, None if kind.nullable else _MISSING)
        for field, kind in zip(composite._fields, kinds, strict=True)
    ]
    accepts = tuple(kind.accept for kind in kinds)
    layout = Layout(code, name, composite, composite._fields, kinds, accepts, tuple(otherwise))
    LAYOUTS[composite] = BY_DESCRIPTOR[code] = BY_DESCRIPTOR[f"amqp:{name}:list"] = layout


def layout_named(value: object) -> Layout | None:
    """The layout that ``value``, the descriptor as decoded, names."""
    return BY_DESCRIPTOR.get(value) if isinstance(value, (ULong, Symbol)) else None


def encode_composite(value: Any) -> bytes:
    """A registered composite as a described list with all its fields."""
    layout = LAYOUTS[type(value)]
    content = b"".join(
        [NULL if field is None else kind.encode(field) for kind, field in zip(layout.kinds, value, strict=True)]
    )
    return bytes((0x00, 0x53, layout.code)) + encode_compound(0xC0, len(layout.kinds), content)


def make_composite(layout: Layout, items: object) -> Any:
    """The composite of ``layout`` from the list it was sent as.

    Trailing fields may be absent, and null stands for the default. Raises ``AmqpDecodeError`` that names the field.
    """
    if not isinstance(items, list):
        raise AmqpDecodeError(f"{layout.name} is not a list")
    if len(items) > len(layout.kinds):
        raise AmqpDecodeError(f"{layout.name} has more than its {len(layout.kinds)} fields")
    given = chain(items, repeat(None))
    try:
        values = [
            default if item is None else accept(item)
            for accept, default, item in zip(layout.accepts, layout.otherwise, given, strict=False)
        ]
    except ValueError:
        raise _fault(layout, items) from None
    if any(value is _MISSING for value in values):
        raise _fault(layout, items)
    return layout.make(*values)


def _fault(layout: Layout, items: list[Any]) -> AmqpDecodeError:
    """What is wrong with the first of ``items`` that does not fit."""
    for index, kind in enumerate(layout.kinds):
        item = items[index] if index < len(items) else None
        if item is None and layout.otherwise[index] is _MISSING:
            return AmqpDecodeError(f"{layout.name} lacks its {layout.fields[index]}")
        if item is not None:
            try:
                kind.accept(item)
            except ValueError:
                return AmqpDecodeError(f"{layout.name}: {layout.fields[index]} is no {kind.name}")
    raise AssertionError("all of it fits")


def _of(*types: type) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        if not isinstance(value, types):
            raise ValueError
        return value

    return accept


def _unsigned(bits: int) -> Callable[[Any], Any]:
    """Any integer that fits: some clients are careless about the width."""
    limit = 1 << bits

    def accept(value: Any) -> Any:
        if not isinstance(value, int) or isinstance(value, (bool, Timestamp)) or not 0 <= value < limit:
            raise ValueError
        return value

    return accept


def _many(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else (value,)
    if not all(isinstance(item, Symbol) for item in items):
        raise ValueError
    return tuple(items)


def _nested(value: Any) -> Any:
    """A composite inside another; one that is not known here stays as it came."""
    if not isinstance(value, Described):
        raise ValueError
    layout = layout_named(value.descriptor)
    return value if layout is None else make_composite(layout, value.value)


def _encode_nested(value: Any) -> bytes:
    return encode(value) if type(value) is Described else encode_composite(value)


def _only(code: int) -> Callable[[Any], Any]:
    def accept(value: Any) -> Any:
        nested = _nested(value)
        if type(nested) is not BY_DESCRIPTOR[code].make:
            raise ValueError
        return nested

    return accept


ANY = Kind("value", encode, lambda value: value)
BOOLEAN = Kind("boolean", encode_boolean, _of(bool))
UBYTE = Kind("ubyte", lambda value: encode(UByte(value)), _unsigned(8))
USHORT = Kind("ushort", lambda value: encode(UShort(value)), _unsigned(16))
UINT = Kind("uint", encode_uint, _unsigned(32))
ULONG = Kind("ulong", encode_ulong, _unsigned(64))
TIMESTAMP = Kind("timestamp", lambda value: encode(Timestamp(value)), _of(Timestamp))
BINARY = Kind("binary", encode_binary, _of(bytes))
STRING = Kind("string", encode_string, _of(str))
SYMBOL = Kind("symbol", encode_symbol, _of(str))
SYMBOLS = Kind("array of symbols", lambda names: encode(symbols(*names)) if names else NULL, _many)
MAP = Kind("map", encode_map, _of(dict))
COMPOSITE = Kind("described list", _encode_nested, _nested)
ERROR = Kind("error", _encode_nested, _only(0x1D))
