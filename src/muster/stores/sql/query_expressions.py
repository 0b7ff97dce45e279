"""Conditions of queries as SQL. See ``query_operands`` for how values and *undefined* are represented."""

from __future__ import annotations

from collections.abc import Sequence

from muster.stores.sql.query_dialect import Dialect, operand_of
from muster.stores.sql.query_operands import NOTHING, NULL, Bindings, Operand, balanced, coalesce
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

_NULLS = "null"
_JSON_NULL = Operand(fixed_kind="'null'", null=True)
_OF_NUMBERS = frozenset(("ABS", "CEILING", "EXP", "FLOOR", "POWER", "SIGN", "SQRT", "SQUARE"))
_YIELD_BOOLEANS = frozenset(("CONTAINS", "STARTS_WITH", "ENDS_WITH"))
_YIELD_NUMBERS = frozenset(("INDEX_OF", "LENGTH"))
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
    """Compiles expressions over ``source`` to ``dialect``; values go into ``bindings``."""

    def __init__(self, source: Source, dialect: Dialect, bindings: Bindings) -> None:
        self._source = source
        self._dialect = dialect
        self._bindings = bindings

    def condition(self, expression: Expression) -> str:
        """A fragment that is true where ``expression`` yields true."""
        return self.operand(expression).boolean or self._dialect.no_boolean

    def operand(self, expression: Expression) -> Operand:
        """``expression`` as an operand."""
        match expression:
            case Path():
                return operand_of(expression, self._source, self._dialect, self._bindings)
            case Literal(value=value):
                return self._literal(value)
            case Array():
                return Operand(fixed_kind="'array'")
            case Not(operand=inner):
                return Operand(boolean=f"(NOT {self.condition(inner)})")
            case Negative(operand=inner):
                return Operand(number=self._function("-1", self._real(inner)))
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
            return Operand(boolean=self._dialect.constants[value])
        parameter = self._bindings.bind(value)
        return Operand(text=parameter) if isinstance(value, str) else Operand(number=parameter)

    def _binary(self, expression: Binary) -> Operand:
        operator = expression.operator
        match operator:
            case "=" | "!=":
                equal = self._equal(self.operand(expression.left), self.operand(expression.right))
                return Operand(boolean=equal if operator == "=" else f"(NOT {equal})")
            case "<" | "<=" | ">" | ">=":
                left, right = self.operand(expression.left), self.operand(expression.right)
                return Operand(boolean=self._compared(left, operator, right))
            case _:
                sides = self._real(expression.left), self._real(expression.right)
                return Operand(number=self._function(operator, *sides))

    def _function(self, name: str, *arguments: str) -> str:
        return self._dialect.functions[name].format(*arguments)

    def _real(self, expression: Expression) -> str:
        """A number in floating point: whole ones would divide without a fraction and overflow."""
        return self._dialect.real(self.operand(expression).number or NULL)

    def _text(self, expression: Expression) -> str:
        return self.operand(expression).text or self._dialect.no_text

    # --- comparisons

    def _compared(self, left: Operand, operator: str, right: Operand) -> str:
        """``left`` compared with ``right`` where they are of one type."""
        others = dict(right.slots)
        compared = self._dialect.compared
        fragments = [compared(slot, one, operator, others[slot]) for slot, one in left.slots if slot in others]
        return coalesce(fragments, self._dialect.no_boolean)

    def _equal(self, left: Operand, right: Operand) -> str:
        """Whether two operands are equal: NULL where they are of different types, unless one is JSON's null, which
        equals itself and nothing else."""
        if left.null:
            left, right = right, left
        if right.null:
            return f"({left.kind} = 'null')"
        if left.column is None:
            left, right = right, left
        if left.column is None:
            return self._compared(left, "=", right)
        no_string = self._dialect.no_string
        null_as_string = f"coalesce({left.column}, {no_string})"
        if right.column is not None:
            return f"({null_as_string} = coalesce({right.column}, {no_string}))"
        if right.text is not None and right.fixed_kind is None:
            return f"({null_as_string} = {right.text})"
        other = right.text or self._dialect.no_text
        return f"CASE WHEN {left.column} IS NULL THEN {right.kind} = 'null' ELSE {left.column} = {other} END"

    # --- arrays

    def _in(self, operand: Operand, array: Array) -> str:
        """``operand`` equal to one item of ``array``: an OR of comparisons, items of one type taken together."""
        if operand.column is not None or operand.null:
            return balanced("OR", [self._equal(operand, self.operand(item)) for item in array.items])
        members = self._members(array)
        slots = dict(operand.slots)
        parts = [
            f"({slots[slot]} IN ({', '.join(found)}))" if slot in slots else self._dialect.no_boolean
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
        return self._dialect.constants[value] if isinstance(value, bool) else self._bindings.bind(value)

    def _array_contains(self, call: Call) -> str:
        """An item equals the value; items of other types do not, and an object or array equals nothing."""
        haystack, value = call.arguments[0], self.operand(call.arguments[1])
        constants = self._dialect.constants
        if isinstance(haystack, Array):
            members = self._members(haystack)
            parts = [self._among(fragment, members.get(slot)) for slot, fragment in value.slots]
            if value.null or value.column is not None:
                null = constants[_NULLS in members]
                parts.append(null if value.column is None else f"CASE WHEN {value.column} IS NULL THEN {null} END")
            return coalesce(parts, self._dialect.no_boolean)
        array = self.operand(haystack).array
        if array is None:
            return self._dialect.no_boolean
        contains = self._dialect.contains
        parts = [contains[slot].format(array, fragment) for slot, fragment in value.slots]
        if value.null:
            parts.append(contains[_NULLS].format(array, constants[True]))
        elif value.column is not None:
            is_null = f"CASE WHEN {value.column} IS NULL THEN {constants[True]} END"
            parts.append(contains[_NULLS].format(array, is_null))
        return coalesce(parts, self._dialect.no_boolean)

    def _among(self, fragment: str, members: Sequence[str] | None) -> str:
        """Whether ``fragment`` is one of ``members``; NULL when it is NULL, also when there are none."""
        if members:
            return f"({fragment} IN ({', '.join(members)}))"
        return f"CASE WHEN {fragment} IS NOT NULL THEN {self._dialect.constants[False]} END"

    # --- functions

    def _call(self, call: Call) -> Operand:
        name, arguments = call.function, call.arguments
        if name in _KINDS:
            no = self._dialect.constants[False]
            return Operand(boolean=f"coalesce({self.operand(arguments[0]).kind} {_KINDS[name]}, {no})")
        if name in _OF_NUMBERS:
            return Operand(number=self._function(name, *map(self._real, arguments)))
        match name:
            case "IS_DEFINED":
                return Operand(boolean=f"({self.operand(arguments[0]).kind} IS NOT NULL)")
            case "ARRAY_CONTAINS":
                return Operand(boolean=self._array_contains(call))
            case "AS_NUMBER":
                operand = self.operand(arguments[0])
                texts = [self._function(name, operand.text)] if operand.text is not None else []
                return Operand(number=coalesce([*filter(None, (operand.number,)), *texts]))
            case "SUBSTRING":
                positions = map(self._real, arguments[1:])
                function = name if len(arguments) == 2 else f"{name}3"
                return Operand(text=self._function(function, self._text(arguments[0]), *positions))
        texts = [self._text(argument) for argument in arguments]
        if name == "CONCAT":
            return Operand(text=balanced("||", texts))
        fragment = self._function(name, *texts)
        if name in _YIELD_BOOLEANS:
            return Operand(boolean=fragment)
        return Operand(number=fragment) if name in _YIELD_NUMBERS else Operand(text=fragment)


def _slot_of(value: Scalar | Undefined) -> str:
    if value is None:
        return _NULLS
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"
