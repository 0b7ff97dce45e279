"""The statements that answer a query, made once for all its slices.

A result is read in *slices* of the tables' key, each in a transaction of its own: a reader that stayed for long would
keep the write-ahead log from starting over, and others get their turn between slices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from muster.stores.sqlite.identities import COLUMNS as IDENTITY_COLUMNS
from muster.stores.sqlite.property_indexes import PropertyIndexes
from muster.stores.sqlite.query_access import access_of
from muster.stores.sqlite.query_expressions import Expressions
from muster.stores.sqlite.query_operands import NULL, WAITING, Bindings
from muster.stores.sqlite.twins import COLUMNS as TWIN_COLUMNS
from muster.twins.query.syntax import Item, Query, Source

_OF_TWINS = re.compile(r"\bt\.")
_TABLES = {"i": "identities", "t": "twins"}


@dataclass(frozen=True, slots=True)
class Statements:
    """``rows`` yields device id, module id and then, for each column, its JSON text or NULL; for ``*`` all columns of
    identity and twin and the number of waiting messages. For groups it yields the group's name first, and of an
    aggregate its parts.

    ``bound`` yields the key that a slice ends with, nothing when what is left is one slice; ``None`` when slices are
    not needed. Values for both: ``bindings``, with the hub, the key gone past, the slice's last and the limit.
    """

    query: Query
    rows: str
    bound: str | None
    bindings: dict[str, object]


def statements_of(query: Query, hub: str, indexes: PropertyIndexes) -> Statements:
    """Compile ``query``."""
    bindings = Bindings(hub=hub)
    access = access_of(query, indexes, bindings)
    expressions = Expressions(query.source, bindings)
    where = "1" if query.condition is None else expressions.condition(query.condition)
    columns = _columns(query, expressions)
    values = _group_values(query, expressions)
    o = access.outer
    indexed = f" INDEXED BY {access.by}" if access.by else ""
    outer = f"{_TABLES[o]} AS {o}{indexed}"
    kind = "=" if query.source is Source.DEVICES else ">"
    within = f"{o}.hub = :hub AND {o}.module_id {kind} '' AND {access.constraint}"
    within += f" AND ({o}.device_id, {o}.module_id) > (:device, :module)"
    order = f"ORDER BY {o}.device_id, {o}.module_id"
    source = outer
    other = "t" if o == "i" else "i"
    if o == "t" or _OF_TWINS.search(" ".join((where, values, *columns))):
        source += (
            f" CROSS JOIN {_TABLES[other]} AS {other} ON {other}.hub = :hub AND {other}.device_id = {o}.device_id "
            f"AND {other}.module_id = {o}.module_id"
        )
    upto = f"({o}.device_id, {o}.module_id) <= (:last_device, :last_module)"
    selected = ", ".join(columns)
    # only fragments that were made here go into these texts; every value is bound
    if query.aggregates:
        rows = (
            f"SELECT q_group_key({values}) AS name, {selected} FROM {source} "  # noqa: S608
            f"WHERE {within} AND {upto} AND ({where})"
        )
        if query.groups:
            rows += f" GROUP BY {values} HAVING name > :name ORDER BY name LIMIT :limit"
    else:
        rows = (
            f"SELECT {o}.device_id, {o}.module_id, {selected} FROM {source} "  # noqa: S608
            f"WHERE {within} AND {upto} AND ({where}) {order} LIMIT :limit"
        )
    bound = f"SELECT {o}.device_id, {o}.module_id FROM {outer} WHERE {within} {order} LIMIT 1 OFFSET :slice"  # noqa: S608
    return Statements(query, rows, None if query.condition is None and not query.aggregates else bound, bindings)


def _columns(query: Query, expressions: Expressions) -> list[str]:
    if query.items:
        return [column for item in query.items for column in _item(item, expressions)]
    tables = (("i", IDENTITY_COLUMNS), ("t", TWIN_COLUMNS))
    return [*(f"{table}.{column}" for table, columns in tables for column in columns.split(", ")), WAITING]


def _item(item: Item, expressions: Expressions) -> list[str]:
    if item.path is None:
        return ["count(*)"]
    operand = expressions.operand(item.path)
    number = operand.number or NULL
    match item.aggregate:
        case None:
            return [operand.output]
        case "SUM":
            return [f"sum(CAST({number} AS REAL))"]
        case "AVG":
            return [f"sum(CAST({number} AS REAL))", f"count({number})"]
        case aggregate:
            return [f"{aggregate.lower()}({number})", f"{aggregate.lower()}({operand.text or NULL})"]


def _group_values(query: Query, expressions: Expressions) -> str:
    """What makes a group: kind and value of each path. Equal numbers are one group, whole or not."""
    operands = [expressions.operand(path) for path in query.groups]
    return ", ".join(f"{operand.kind}, {operand.any}" for operand in operands)
