"""The statements that answer a query, made once for all its slices.

A result is read in *slices* of the tables' key, each in a transaction of its own: a reader that stayed for long would
keep the database from tidying up, and others get their turn between slices.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from muster.stores.sql.property_indexes import PropertyIndexes
from muster.stores.sql.query_access import BY_ID, EVERYTHING, Access, access_of
from muster.stores.sql.query_dialect import TABLES, WAITING, Dialect, Way
from muster.stores.sql.query_expressions import Expressions
from muster.stores.sql.query_operands import NULL, Bindings
from muster.twins.query.syntax import Item, Query, Source

_KEY = re.compile(r"\bi\.(device_id|module_id)\b")
_OF_PRESENCE = re.compile(r"\bp\.")
_OF = {"i": re.compile(r"\bi\."), "t": re.compile(r"\bt\.")}


class _Parts(NamedTuple):
    """Fragments of a statement."""

    where: str
    key: str
    grouping: str
    selected: str


@dataclass(frozen=True, slots=True)
class Statements:
    """``rows`` yields device id, module id and then, for each column, its JSON text or NULL; for ``*`` all columns of
    identity and twin and the number of waiting messages. For groups it yields the group's name first, and of an
    aggregate its parts.

    ``bound`` yields the key that a slice ends with, nothing when what is left is one slice; ``None`` when slices are
    not needed. ``keys`` yields all keys of a slice, for ``rows`` that joins what is known of their presence; else it is
    ``None``. Values for all: ``bindings``, with the hub, the key gone past, the slice's last and the limit.
    """

    query: Query
    rows: str
    bound: str | None
    keys: str | None
    bindings: Bindings


def statements_of(query: Query, hub: str, indexes: PropertyIndexes) -> Statements:
    """Compile ``query``."""
    dialect = indexes.dialect
    bindings = Bindings(hub=hub)
    access = access_of(query, indexes, bindings)
    expressions = Expressions(query.source, dialect, bindings)
    where = dialect.constants[True] if query.condition is None else expressions.condition(query.condition)
    columns = _columns(query, dialect, expressions)
    key, grouping = dialect.group_key([expressions.operand(path) for path in query.groups])
    parts = _Parts(where, key, grouping, ", ".join(columns))
    way, (where, key, grouping, selected) = _way(query, access, parts)
    o = way.outer
    source, in_slice = dialect.slice(way)
    present = _OF_PRESENCE.search(f"{where} {key} {selected}") is not None
    if present:
        source += f" {dialect.presence} ON p.device_id = {o}.device_id AND p.module_id = {o}.module_id"
    # only fragments that were made here go into these texts; every value is bound
    if query.aggregates:
        rows = f"SELECT {key} AS name, {selected} FROM {source} WHERE {in_slice} AND ({where})"  # noqa: S608
        if query.groups:
            rows = dialect.first_groups(f"{rows} GROUP BY {grouping}")
    else:
        rows = (
            f"SELECT {o}.device_id, {o}.module_id, {selected} FROM {source} "  # noqa: S608
            f"WHERE {in_slice} AND ({where}) {way.order} LIMIT :limit"
        )
    by = dialect.indexed_by(way.by)
    keys = f"SELECT {o}.device_id, {o}.module_id FROM {TABLES[o]} AS {o}{by} WHERE {way.within} {way.order} LIMIT"  # noqa: S608
    few = access.rank == BY_ID and query.source is Source.DEVICES
    sliced = present or (not few and (query.condition is not None or query.aggregates))
    return Statements(
        query, rows, f"{keys} 1 OFFSET :slice" if sliced else None, f"{keys} :slice" if present else None, bindings
    )


def _way(query: Query, access: Access, parts: _Parts) -> tuple[Way, _Parts]:
    """The way to the rows, and the parts with the key taken from the table that is gone through first."""
    # what is needed of every identity that is gone through; the rest is looked for where the condition is true
    decisive = f"{parts.where} {parts.key} {parts.selected}" if query.aggregates else parts.where
    o, everything = access.outer, access.rank == EVERYTHING
    if everything and _OF["t"].search(decisive) and not _OF["i"].search(_KEY.sub("", decisive)):
        o = "t"
    if o == "t":
        parts = _Parts(*(_KEY.sub(r"t.\1", text) for text in parts))
        decisive = _KEY.sub(r"t.\1", decisive)
    devices = query.source is Source.DEVICES
    within = f"{o}.hub = :hub AND {o}.module_id {'=' if devices else '>'} '' AND {access.constraint}"
    within += f" AND ({o}.device_id, {o}.module_id) > (:device, :module)"
    order = f"ORDER BY {o}.device_id" if devices else f"ORDER BY {o}.device_id, {o}.module_id"
    other = _OF["t" if o == "i" else "i"]
    both = other.search(" ".join(parts)) is not None
    return Way(o, within, order, access.by, both, everything and other.search(decisive) is not None), parts


def _columns(query: Query, dialect: Dialect, expressions: Expressions) -> list[str]:
    if query.items:
        return [column for item in query.items for column in _item(item, query, dialect, expressions)]
    tables = (("i", dialect.identity_columns), ("t", dialect.twin_columns))
    return [*(f"{table}.{column}" for table, columns in tables for column in columns.split(", ")), WAITING]


def _item(item: Item, query: Query, dialect: Dialect, expressions: Expressions) -> list[str]:
    if item.path is None:
        return ["count(*)"]
    operand = expressions.operand(item.path)
    number = operand.number or NULL
    match item.aggregate:
        case None:
            output = dialect.output(operand)
            return [dialect.grouped(output) if query.groups else output]
        case "SUM":
            return [dialect.total(number)]
        case "AVG":
            return [dialect.total(number), f"count({number})"]
        case aggregate:
            both = (("number", operand.number), ("text", operand.text))
            return [dialect.largest(aggregate.lower(), slot, fragment or NULL) for slot, fragment in both]
