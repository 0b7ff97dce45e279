"""How a query gets at its rows: by which key or index, as far as its condition allows, else by going through all.

What is chosen only narrows the rows down; the whole condition is tried on each that is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from muster.stores.sql.property_indexes import PropertyIndexes
from muster.stores.sql.query_operands import Bindings
from muster.twins.query.syntax import (
    Array,
    Binary,
    Expression,
    In,
    Literal,
    Logical,
    Path,
    Query,
    Scalar,
    Source,
    Undefined,
)

_CAPABILITIES = "capabilities"
BY_ID, EVERYTHING = 1, 9
"""Ranks of ways: by the ids of devices, and without any narrowing."""


class Access(NamedTuple):
    """``outer`` is the table that is gone through first, ``i`` or ``t``, and ``by`` the index of it that serves, if
    any; ``constraint`` is what the key or index is asked for. The least ``rank`` leaves the fewest rows."""

    rank: int
    outer: str = "i"
    by: str = ""
    constraint: str = "1 = 1"


def access_of(query: Query, indexes: PropertyIndexes, bindings: Bindings) -> Access:
    """The best way to the rows of ``query``: the device's id, an indexed property, another field, everything."""
    ways = [Access(EVERYTHING)]
    for path, values in _equalities(query.condition):
        if path in indexes and values:
            ways.append(Access(2, "t", indexes.name_of(path), indexes.search(path, values, bindings)))
        elif not path.steps or path.field == _CAPABILITIES:
            ways += _by_field(path, values, query.source, indexes, bindings)
    return min(ways, key=lambda way: way.rank)


def _by_field(
    path: Path, values: Sequence[Scalar], source: Source, indexes: PropertyIndexes, bindings: Bindings
) -> Iterator[Access]:
    if path.field == _CAPABILITIES:
        if path.steps == ("iotEdge",) and list(values) == [True]:
            yield Access(5, "i", "identities_edge", f"i.iot_edge = {indexes.dialect.constants[True]}")
        return
    texts = [value for value in values if isinstance(value, str)]
    if not texts:
        return
    members = ", ".join(bindings.bind(text) for text in texts)
    match path.field:
        case "deviceId":
            yield Access(BY_ID, "i", "", f"i.device_id IN ({members})")
        case "deviceScope":
            yield Access(3, "i", "identities_by_scope", f"i.device_scope IN ({members})")
        case "moduleId" if source is Source.MODULES:
            yield Access(4, "i", "identities_by_module", f"i.module_id IN ({members}) AND i.module_id > ''")
        case "status" if texts == ["disabled"]:
            yield Access(6, "i", "identities_disabled", "i.status = 'disabled'")


def _equalities(condition: Expression | None) -> Iterator[tuple[Path, Sequence[Scalar]]]:
    """Paths that must equal one of some constants for ``condition`` to be true."""
    match condition:
        case Logical(operator="AND", operands=operands):
            for operand in operands:
                yield from _equalities(operand)
        case Binary(operator="=", left=Path() as path, right=Literal() as constant):
            yield path, _scalars([constant])
        case Binary(operator="=", left=Literal() as constant, right=Path() as path):
            yield path, _scalars([constant])
        case In(operand=Path() as path, array=array, negated=False):
            yield path, _scalars(array.items)
        case Path():
            yield condition, (True,)


def _scalars(items: Sequence[Literal | Array]) -> Sequence[Scalar]:
    values = [item.value for item in items if isinstance(item, Literal)]
    return [value for value in values if not isinstance(value, Undefined)]
