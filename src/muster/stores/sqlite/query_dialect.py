"""Queries in SQLite's SQL: JSON is text there, a boolean 0 or 1, and what it lacks ``query_functions`` adds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from muster.stores.sql.query_dialect import TABLES, WAITING, Dialect, Way, upto
from muster.stores.sql.query_operands import NOTHING, NULL, Bindings, Operand, can_be, coalesce
from muster.stores.sqlite.identities import COLUMNS as IDENTITY_COLUMNS
from muster.stores.sqlite.twins import COLUMNS as TWIN_COLUMNS
from muster.twins.query.syntax import Steps


class SqliteDialect(Dialect):
    """See ``Dialect``. Connection state is asked of a function for each row that gets so far."""

    constants = {False: "0", True: "1"}  # noqa: RUF012
    no_string = "x''"
    functions = {  # noqa: RUF012
        "ABS": "abs({0})",
        "CEILING": "ceil({0})",
        "EXP": "exp({0})",
        "FLOOR": "floor({0})",
        "POWER": "pow({0}, {1})",
        "SIGN": "sign({0})",
        "SQRT": "sqrt({0})",
        "SQUARE": "pow({0}, 2.0)",
        "+": "({0} + {1})",
        "-": "({0} - {1})",
        "*": "({0} * {1})",
        "/": "({0} / {1})",
        "%": "mod({0}, {1})",
        "-1": "(- {0})",
        "AS_NUMBER": "q_number({0})",
        "CONTAINS": "(instr({0}, {1}) > 0)",
        "STARTS_WITH": "(instr({0}, {1}) = 1)",
        "ENDS_WITH": "q_ends_with({0}, {1})",
        "INDEX_OF": "(instr({0}, {1}) - 1)",
        "LENGTH": "q_length({0})",
        "LOWER": "q_lower({0})",
        "UPPER": "q_upper({0})",
        "SUBSTRING": "q_substring({0}, {1})",
        "SUBSTRING3": "q_substring({0}, {1}, {2})",
    }
    contains = {  # noqa: RUF012
        slot: f"q_array_contains({{0}}, '{slot}', {{1}})" for slot in ("number", "text", "boolean", "null")
    }
    fields = {  # noqa: RUF012
        "deviceId": Operand(text="i.device_id"),
        "moduleId": Operand(text="nullif(i.module_id, '')"),
        "etag": Operand(text="q_twin_etag(t.revision)"),
        "deviceEtag": Operand(text="q_identity_etag(i.version)"),
        "status": Operand(text="i.status"),
        "statusReason": Operand(text="i.status_reason", column="i.status_reason"),
        "statusUpdateTime": Operand(text="q_time_text(i.status_updated)"),
        "connectionState": Operand(text="q_connection_state(i.device_id, i.module_id)"),
        "lastActivityTime": Operand(text="q_last_activity(i.device_id, i.module_id)"),
        "cloudToDeviceMessageCount": Operand(number=WAITING),
        "authenticationType": Operand(text="i.authentication"),
        "modelId": Operand(text="coalesce(t.model_id, '')"),
        "version": Operand(number="t.version"),
        "deviceScope": Operand(text="i.device_scope"),
    }
    tags = Operand(fixed_kind="CASE WHEN t.tags <> '{}' THEN 'object' END", json="nullif(t.tags, '{}')")
    parent_scopes = "coalesce(i.parent_scopes, '[]')"
    identity_columns, twin_columns = IDENTITY_COLUMNS, TWIN_COLUMNS

    def indexed_by(self, index: str) -> str:
        """See ``Dialect``."""
        return f' INDEXED BY "{index}"' if index else ""

    def slice(self, way: Way) -> tuple[str, str]:
        """See ``Dialect``: CROSS JOIN keeps the tables in the order in which they are written."""
        source = f"{TABLES[way.outer]} AS {way.outer}{self.indexed_by(way.by)}"
        if way.both:
            source += f" CROSS JOIN {TABLES[way.other]} AS {way.other} ON {way.joined}"
        return source, f"{way.within} AND {upto(way.outer)}"

    def first_groups(self, groups: str) -> str:
        """See ``Dialect``."""
        return f"{groups} HAVING name > :name ORDER BY name LIMIT :limit"

    def real(self, number: str) -> str:
        """See ``Dialect``."""
        return f"CAST({number} AS REAL)"

    def compared(self, slot: str, left: str, operator: str, right: str) -> str:  # noqa: ARG002
        """See ``Dialect``: SQLite compares texts byte by byte."""
        return f"({left} {operator} {right})"

    def json_operand(self, column: str, steps: Steps, bindings: Bindings) -> Operand:
        """See ``Dialect``."""
        if not can_be(steps):
            return NOTHING
        path = bindings.bind(json_path(steps))
        kind, value = f"json_type({column}, {path})", f"json_extract({column}, {path})"
        return Operand(
            number=f"CASE WHEN {kind} IN ('integer', 'real') THEN {value} END",
            text=f"CASE {kind} WHEN 'text' THEN {value} END",
            boolean=f"CASE {kind} WHEN 'true' THEN 1 WHEN 'false' THEN 0 END",
            array=f"CASE {kind} WHEN 'array' THEN {value} END",
            fixed_kind=(
                f"CASE {kind} WHEN 'integer' THEN 'number' WHEN 'real' THEN 'number' WHEN 'true' THEN 'boolean' "
                f"WHEN 'false' THEN 'boolean' ELSE {kind} END"
            ),
            json=f"({column} -> {path})",
            value=value,
        )

    def json_object(self, members: Mapping[str, str], *, booleans: bool = False) -> str:
        """See ``Dialect``."""
        shown = "json(CASE {} WHEN 1 THEN 'true' ELSE 'false' END)" if booleans else "{}"
        named = [f"'{name}', {shown.format(value)}" for name, value in members.items()]
        return f"json_object({', '.join(named)})"

    def properties(self, part: str) -> str:
        """See ``Dialect``."""
        return f"json_set(t.{part}, '$.\"$metadata\"', json(t.{part}_metadata), '$.\"$version\"', t.{part}_version)"

    def both_properties(self) -> str:
        """See ``Dialect``."""
        return f"json_object('desired', {self.properties('desired')}, 'reported', {self.properties('reported')})"

    def output(self, operand: Operand) -> str:
        """See ``Dialect``."""
        if operand.json is not None:
            return operand.json
        if operand.column is not None:
            return f"json_quote({operand.column})"
        if operand.boolean is not None:
            return f"CASE {operand.boolean} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
        for _, fragment in operand.slots:
            return f"CASE WHEN {fragment} IS NOT NULL THEN json_quote({fragment}) END"
        return NULL

    def grouped(self, output: str) -> str:
        """See ``Dialect``: SQLite takes any row's."""
        return output

    def group_key(self, operands: Sequence[Operand]) -> tuple[str, str]:
        """See ``Dialect``: the name is made once for each group."""
        values = ", ".join(f"{operand.kind}, {_any(operand)}" for operand in operands)
        return f"q_group_key({values})", values

    def largest(self, aggregate: str, slot: str, fragment: str) -> str:  # noqa: ARG002
        """See ``Dialect``."""
        return f"{aggregate}({fragment})"

    def total(self, number: str) -> str:
        """See ``Dialect``."""
        return f"sum(CAST({number} AS REAL))"


def json_path(steps: Steps) -> str:
    """``steps`` in SQLite's notation, names quoted as JSON."""
    return "$" + "".join(
        f"[{step}]" if isinstance(step, int) else "." + json.dumps(step, ensure_ascii=False) for step in steps
    )


def _any(operand: Operand) -> str:
    """The value of whatever type, which ``kind`` tells."""
    if operand.value is not None:
        return operand.value
    return coalesce([*(fragment for _, fragment in operand.slots), *filter(None, (operand.json,))])
