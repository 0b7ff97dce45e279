"""Conditions of queries as SQL. See ``query_operands`` for how values and *undefined* are represented."""

from __future__ import annotations

from collections.abc import Sequence

from muster.stores.sqlite.query_operands import NOTHING, NULL, Bindings, Operand, balanced, coalesce, operand_of
from muster.twins.query.syntax import (
    UNDEFINED,
    Array,
    Binary,
    Call,
    Expression,
    In,
    Literal,
    Logical,
    Negative,
    Not,
    Path,
    Scalar,
    Source,
    Undefined,
)

_NO = "0"
_NULLS = "null"
_JSON_NULL = Operand(fixed_kind="'null'", null=True)
_MATHEMATICS = {"ABS": "abs", "CEILING": "ceil", "EXP": "exp", "FLOOR": "floor", "SIGN": "sign", "SQRT": "sqrt"}
_KINDS = {
    "IS_ARRAY": "= 'array'",
    "IS_BOOL": "= 'boolean'",
    "IS_NULL": "= 'null'",
    "IS_NUMBER": "= 'number'",
    "IS_OBJECT": "= 'object'",
    "IS_PRIMITIVE": "IN ('number', 'text', 'boolean', 'null')",
    "IS_STRING": "= 'text'",
}


class Expressions:
    """Compiles expressions over ``source``; values go into ``bindings``."""

    def __init__(self, source: Source, bindings: Bindings) -> None:
        self._source = source
        self._bindings = bindings

    def condition(self, expression: Expression) -> str:
        """A fragment that is 1 where ``expression`` yields true."""
        return self.operand(expression).boolean or NULL

    def operand(self, expression: Expression) -> Operand:
        """``expression`` as an operand."""
        match expression:
            case Path():
                return operand_of(expression, self._source, self._bindings)
            case Literal(value=value):
                return self._literal(value)
            case Array():
                return Operand(fixed_kind="'array'")
            case Not(operand=inner):
                return Operand(boolean=f"(NOT {self.condition(inner)})")
            case Negative(operand=inner):
                return Operand(number=f"(- {self._real(inner)})")
            case Logical(operator=operator, operands=operands):
                return Operand(boolean=balanced(operator, [self.condition(one) for one in operands]))
            case In(operand=inner, array=array, negated=negated):
                found = self._in(self.operand(inner), array)
                return Operand(boolean=f"(NOT {found})" if negated else found)
            case Binary():
                return self._binary(expression)
            case Call():
                return self._call(expression)

    def _literal(self, value: Scalar | Undefined) -> Operand:
        if value is UNDEFINED:
            return NOTHING
        if value is None:
            return _JSON_NULL
        if isinstance(value, bool):
            return Operand(boolean="1" if value else "0")
        parameter = self._bindings.bind(value)
        return Operand(text=parameter) if isinstance(value, str) else Operand(number=parameter)

    def _binary(self, expression: Binary) -> Operand:
        operator = expression.operator
        match operator:
            case "=" | "!=":
                equal = _equal(self.operand(expression.left), self.operand(expression.right))
                return Operand(boolean=equal if operator == "=" else f"(NOT {equal})")
            case "<" | "<=" | ">" | ">=":
                left, right = self.operand(expression.left), self.operand(expression.right)
                return Operand(boolean=_compared(left, operator, right))
            case "%":
                return Operand(number=f"mod({self._real(expression.left)}, {self._real(expression.right)})")
            case _:
                return Operand(number=f"({self._real(expression.left)} {operator} {self._real(expression.right)})")

    def _real(self, expression: Expression) -> str:
        """A number in floating point: SQLite's whole numbers divide without a fraction and overflow."""
        return f"CAST({self.operand(expression).number or NULL} AS REAL)"

    def _text(self, expression: Expression) -> str:
        return self.operand(expression).text or NULL

    # --- arrays

    def _in(self, operand: Operand, array: Array) -> str:
        """``operand`` equal to one item of ``array``: an OR of comparisons, items of one type taken together."""
        if operand.column is not None or operand.null:
            return balanced("OR", [_equal(operand, self.operand(item)) for item in array.items])
        members = self._members(array)
        slots = dict(operand.slots)
        parts = [
            f"({slots[slot]} IN ({', '.join(found)}))" if slot in slots else NULL
            for slot, found in members.items()
            if slot != _NULLS
        ]
        return balanced("OR", parts or [f"({operand.kind} = 'null')"])

    def _members(self, array: Array) -> dict[str, list[str]]:
        """The items of ``array`` by their types, as parameters."""
        members: dict[str, list[str]] = {}
        for item in array.items:
            value = item.value if isinstance(item, Literal) else UNDEFINED
            members.setdefault(_slot_of(value), []).append(NULL if value in {UNDEFINED, None} else self._bound(value))
        return members

    def _bound(self, value: Scalar | Undefined) -> str:
        return self._bindings.bind(int(value) if isinstance(value, bool) else value)

    def _array_contains(self, call: Call) -> str:
        """An item equals the value; items of other types do not, and an object or array equals nothing."""
        haystack, value = call.arguments[0], self.operand(call.arguments[1])
        if isinstance(haystack, Array):
            members = self._members(haystack)
            parts = [_among(fragment, members.get(slot)) for slot, fragment in value.slots]
            if value.null or value.column is not None:
                null = "1" if _NULLS in members else _NO
                parts.append(null if value.column is None else f"CASE WHEN {value.column} IS NULL THEN {null} END")
            return coalesce(parts)
        array = self.operand(haystack).array
        if array is None:
            return NULL
        parts = [f"q_array_contains({array}, '{slot}', {fragment})" for slot, fragment in value.slots]
        if value.null:
            parts.append(f"q_array_contains({array}, 'null', 1)")
        elif value.column is not None:
            parts.append(f"q_array_contains({array}, 'null', CASE WHEN {value.column} IS NULL THEN 1 END)")
        return coalesce(parts)

    # --- functions

    def _call(self, call: Call) -> Operand:
        name, arguments = call.function, call.arguments
        if name in _KINDS:
            return Operand(boolean=f"coalesce({self.operand(arguments[0]).kind} {_KINDS[name]}, 0)")
        if name in _MATHEMATICS:
            return Operand(number=f"{_MATHEMATICS[name]}({self._real(arguments[0])})")
        match name:
            case "IS_DEFINED":
                return Operand(boolean=f"({self.operand(arguments[0]).kind} IS NOT NULL)")
            case "ARRAY_CONTAINS":
                return Operand(boolean=self._array_contains(call))
            case "AS_NUMBER":
                operand = self.operand(arguments[0])
                texts = [f"q_number({operand.text})"] if operand.text is not None else []
                return Operand(number=coalesce([*filter(None, (operand.number,)), *texts]))
            case "POWER":
                return Operand(number=f"pow({self._real(arguments[0])}, {self._real(arguments[1])})")
            case "SQUARE":
                return Operand(number=f"pow({self._real(arguments[0])}, 2.0)")
            case "SUBSTRING":
                positions = ", ".join(self._real(argument) for argument in arguments[1:])
                return Operand(text=f"q_substring({self._text(arguments[0])}, {positions})")
        return self._text_call(name, [self._text(argument) for argument in arguments])

    def _text_call(self, name: str, texts: Sequence[str]) -> Operand:
        """Functions of texts only."""
        joined = ", ".join(texts)
        match name:
            case "CONCAT":
                return Operand(text=balanced("||", texts))
            case "CONTAINS":
                return Operand(boolean=f"(instr({joined}) > 0)")
            case "STARTS_WITH":
                return Operand(boolean=f"(instr({joined}) = 1)")
            case "ENDS_WITH":
                return Operand(boolean=f"q_ends_with({joined})")
            case "INDEX_OF":
                return Operand(number=f"(instr({joined}) - 1)")
            case "LENGTH":
                return Operand(number=f"q_length({joined})")
            case _:
                return Operand(text=f"q_{name.lower()}({joined})")


def _slot_of(value: Scalar | Undefined) -> str:
    if value is None:
        return _NULLS
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def _among(fragment: str, members: Sequence[str] | None) -> str:
    """Whether ``fragment`` is one of ``members``; NULL when it is NULL, also when there are none."""
    return f"({fragment} IN ({', '.join(members)}))" if members else f"CASE WHEN {fragment} IS NOT NULL THEN {_NO} END"


def _compared(left: Operand, operator: str, right: Operand) -> str:
    """``left`` compared with ``right`` where they are of one type."""
    others = dict(right.slots)
    return coalesce([f"({one} {operator} {others[slot]})" for slot, one in left.slots if slot in others])


def _equal(left: Operand, right: Operand) -> str:
    """Whether two operands are equal: NULL where they are of different types, unless one is JSON's null, which
    equals itself and nothing else."""
    if left.null:
        left, right = right, left
    if right.null:
        return f"({left.kind} = 'null')"
    if left.column is None:
        left, right = right, left
    if left.column is None:
        return _compared(left, "=", right)
    null_as_blob = f"coalesce({left.column}, x'')"
    if right.column is not None:
        return f"({null_as_blob} = coalesce({right.column}, x''))"
    if right.text is not None and right.fixed_kind is None:
        return f"({null_as_blob} = {right.text})"
    return f"CASE WHEN {left.column} IS NULL THEN {right.kind} = 'null' ELSE {left.column} = {right.text or NULL} END"
