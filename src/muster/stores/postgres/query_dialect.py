"""Queries in PostgreSQL's SQL: JSON is jsonb there, all numbers are floating point, texts are kept as ``texts`` says.

What PostgreSQL has not, or what raises there, is made by functions of migration 0006. Types are said wherever a
fragment alone would have none, and the order of texts is said to be that of their code points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from muster.stores.postgres.identities import COLUMNS as IDENTITY_COLUMNS
from muster.stores.postgres.texts import spelled
from muster.stores.postgres.twins import COLUMNS as TWIN_COLUMNS
from muster.stores.sql.query_dialect import TABLES, WAITING, Dialect, Way, upto
from muster.stores.sql.query_operands import NOTHING, Bindings, Operand, can_be
from muster.twins.query.syntax import Steps

_TYPES = {"number": "float8", "text": "text", "boolean": "boolean"}


class PostgresDialect(Dialect):
    """See ``Dialect``. Connection state is joined, for a slice at a time."""

    constants = {False: "false", True: "true"}  # noqa: RUF012
    no_boolean = "CAST(NULL AS boolean)"
    no_text = "CAST(NULL AS text)"
    no_string = "chr(1)"  # in texts as they are kept something always follows it
    functions = {  # noqa: RUF012
        "ABS": "abs({0})",
        "CEILING": "ceil({0})",
        "EXP": "query_exp({0})",
        "FLOOR": "floor({0})",
        "POWER": "query_power({0}, {1})",
        "SIGN": "sign({0})",
        "SQRT": "query_sqrt({0})",
        "SQUARE": "query_power({0}, 2)",
        "+": "query_add({0}, {1})",
        "-": "query_subtract({0}, {1})",
        "*": "query_multiply({0}, {1})",
        "/": "query_divide({0}, {1})",
        "%": "query_modulo({0}, {1})",
        "-1": "(- {0})",
        "AS_NUMBER": "query_number({0})",
        "CONTAINS": "(query_index_of({0}, {1}) >= 0)",
        "STARTS_WITH": "starts_with({0}, {1})",
        "ENDS_WITH": "query_ends_with({0}, {1})",
        "INDEX_OF": "query_index_of({0}, {1})",
        "LENGTH": "query_length({0})",
        "LOWER": '(lower({0} COLLATE "und-x-icu") COLLATE "C")',
        "UPPER": '(upper({0} COLLATE "und-x-icu") COLLATE "C")',
        "SUBSTRING": "query_substring({0}, {1})",
        "SUBSTRING3": "query_substring({0}, {1}, {2})",
    }
    contains = {  # noqa: RUF012
        "number": "query_array_has({0}, {1})",
        "text": "jsonb_exists({0}, {1})",
        "boolean": "({0} @> to_jsonb({1}))",
        "null": "CASE WHEN {1} THEN {0} @> 'null' END",
    }
    fields = {  # noqa: RUF012
        "deviceId": Operand(text="i.device_id"),
        "moduleId": Operand(text="nullif(i.module_id, '')"),
        "etag": Operand(text="encode(int8send(t.revision), 'base64')"),
        "deviceEtag": Operand(text="encode(convert_to(CAST(i.version AS text), 'UTF8'), 'base64')"),
        "status": Operand(text="i.status"),
        "statusReason": Operand(text="i.status_reason", column="i.status_reason"),
        "statusUpdateTime": Operand(text="query_time(i.status_updated)"),
        "connectionState": Operand(text="CASE WHEN p.connected THEN 'Connected' ELSE 'Disconnected' END"),
        "lastActivityTime": Operand(text="query_time(coalesce(p.last_activity, 0))"),
        "cloudToDeviceMessageCount": Operand(number=WAITING),
        "authenticationType": Operand(text="i.authentication"),
        "modelId": Operand(text="coalesce(t.model_id, '')"),
        "version": Operand(number="t.version"),
        "deviceScope": Operand(text="i.device_scope"),
    }
    tags = Operand(fixed_kind="CASE WHEN t.tags <> '{}' THEN 'object' END", json="nullif(t.tags, '{}')")
    parent_scopes = "coalesce(i.parent_scopes, '[]')"
    identity_columns, twin_columns = IDENTITY_COLUMNS, TWIN_COLUMNS
    presence = (
        "LEFT JOIN unnest(:present_devices, :present_modules, :present_connected, :present_activity) "
        "AS p (device_id, module_id, connected, last_activity)"
    )

    def indexed_by(self, index: str) -> str:  # noqa: ARG002
        """See ``Dialect``: the planner finds them."""
        return ""

    def slice(self, way: Way) -> tuple[str, str]:
        """See ``Dialect``. The tables' own queries with their limits say how few rows there are, and that they are
        wanted in order, whatever the planner believes of tables that were empty a moment ago; and a condition is not
        planned for each partition anew."""
        o, x = way.outer, way.other
        source = _limited(o, way.within, way.order)
        if not way.both:
            return source, "true"
        if way.beside:  # their keys are the same
            other = _limited(x, *(re.sub(rf"\b{o}\.", f"{x}.", text) for text in (way.within, way.order)))
            return f"{source} JOIN {other} ON {way.joined}", "true"
        one = f"(SELECT * FROM {TABLES[x]} AS {x} WHERE {way.joined} LIMIT 1)"  # noqa: S608
        return f"{source} JOIN LATERAL {one} AS {x} ON true", "true"

    def first_groups(self, groups: str) -> str:
        """See ``Dialect``."""
        order = 'name COLLATE "C"'
        once = f"({groups} OFFSET 0) AS groups"  # else the name would be made for each row, to be compared
        return f"SELECT * FROM {once} WHERE {order} > :name ORDER BY {order} LIMIT :limit"  # noqa: S608

    def real(self, number: str) -> str:
        """See ``Dialect``."""
        return f"CAST({number} AS float8)"

    def compared(self, slot: str, left: str, operator: str, right: str) -> str:
        """See ``Dialect``."""
        collation = ' COLLATE "C"' if slot == "text" else ""
        return f"({left}{collation} {operator} {right})"

    def json_operand(self, column: str, steps: Steps, bindings: Bindings) -> Operand:
        """See ``Dialect``."""
        if not can_be(steps):
            return NOTHING
        value = column
        for step in steps:
            value = item_of(value, step, bindings.bind(step) if isinstance(step, str) else "")
        kind = f"jsonb_typeof({value})"
        return Operand(
            number=f"CASE {kind} WHEN 'number' THEN CAST({value} AS float8) END",
            text=f"CASE {kind} WHEN 'string' THEN {value} #>> '{{}}' END",
            boolean=f"CASE {value} WHEN 'true' THEN true WHEN 'false' THEN false END",
            array=f"CASE {kind} WHEN 'array' THEN {value} END",
            fixed_kind=f"replace({kind}, 'string', 'text')",
            json=value,
            value=value,
        )

    def json_object(self, members: Mapping[str, str], *, booleans: bool = False) -> str:  # noqa: ARG002
        """See ``Dialect``."""
        named = [f"'{name}', {value}" for name, value in members.items()]
        return f"jsonb_build_object({', '.join(named)})"

    def properties(self, part: str) -> str:
        """See ``Dialect``."""
        return f"(t.{part} || jsonb_build_object('$metadata', t.{part}_metadata, '$version', t.{part}_version))"

    def both_properties(self) -> str:
        """See ``Dialect``."""
        return self.json_object({part: self.properties(part) for part in ("desired", "reported")})

    def output(self, operand: Operand) -> str:
        """See ``Dialect``."""
        if operand.json is not None:
            return f"CAST({operand.json} AS text)"
        if operand.column is not None:
            return f"coalesce(CAST(to_json({operand.column}) AS text), 'null')"
        for _, fragment in operand.slots:
            return f"CAST(to_json({fragment}) AS text)"
        return self.no_text

    def grouped(self, output: str) -> str:
        """See ``Dialect``: what is grouped by is not the text of it, but equal where that is."""
        return f'min({output} COLLATE "C")'

    def group_key(self, operands: Sequence[Operand]) -> tuple[str, str]:
        """See ``Dialect``."""
        pairs = [(f"CAST({operand.kind} AS text)", _shown(operand)) for operand in operands]
        parts = [f"concat({kind}, char_length({shown}), ':', {shown})" for kind, shown in pairs]
        key = f"query_group_key({' || '.join(parts)})" if parts else "''"
        return key, ", ".join(f"{kind}, {shown}" for kind, shown in pairs)

    def largest(self, aggregate: str, slot: str, fragment: str) -> str:
        """See ``Dialect``."""
        collation = ' COLLATE "C"' if slot == "text" else ""
        return f"{aggregate}(CAST({fragment} AS {_TYPES[slot]}){collation})"

    def total(self, number: str) -> str:
        """See ``Dialect``."""
        return f"query_sum(CAST({number} AS float8))"


def _limited(table: str, within: str, order: str) -> str:
    return (
        f"(SELECT * FROM {TABLES[table]} AS {table} WHERE {within} AND {upto(table)} "  # noqa: S608
        f"{order} LIMIT :slice) AS {table}"
    )


def item_of(value: str, step: str | int, name: str) -> str:
    """The member ``name``, a fragment, of the object ``value``; or the item of the array, where ``step`` is a position.

    A scalar is to ``->`` its own item 0.
    """
    if isinstance(step, str):
        return f"({value} -> {name})"
    return f"({value} -> {step})" if step else f"jsonb_path_query_first({value}, 'strict $[0]', '{{}}', true)"


def quoted(text: str) -> str:
    """A constant, for the expressions of indexes, which cannot have parameters."""
    return "CAST('" + spelled(text).replace("'", "''") + "' AS text)"


def _shown(operand: Operand) -> str:
    """The value as text, the same for equal numbers."""
    if operand.value is not None:
        number = f"CAST(CAST({operand.value} AS float8) AS text)"
        kind = f"jsonb_typeof({operand.value})"
        return f"CASE {kind} WHEN 'number' THEN {number} ELSE CAST({operand.value} AS text) END"
    if operand.json is not None:
        return f"CAST({operand.json} AS text)"
    if operand.number is not None:
        return f"CAST(CAST({operand.number} AS float8) AS text)"
    for _, fragment in operand.slots:
        return f"CAST({fragment} AS text)"
    return "CAST(NULL AS text)"
