"""The device query language over plain Python twins, written as its definition reads: slow, and with no SQL in it."""

from __future__ import annotations

import ctypes
import json
import math
import re
from collections.abc import Iterable
from typing import Any

from muster.twins.query.syntax import (
    UNDEFINED,
    Array,
    Binary,
    Call,
    Expression,
    In,
    Item,
    Literal,
    Logical,
    Negative,
    Not,
    Path,
    Query,
)

LIBM = ctypes.CDLL("libm.so.6")
for name, arity in (("pow", 2), ("exp", 1)):
    function = getattr(LIBM, name)
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double] * arity

NUMERIC = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def kind(value: Any) -> str:
    if value is UNDEFINED:
        return "undefined"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return {str: "string", list: "array", dict: "object"}[type(value)]


def number(value: float) -> Any:
    return UNDEFINED if math.isnan(value) else value


def path_value(path: Path, twin: dict[str, Any]) -> Any:
    here: Any = twin
    for step in (path.field, *path.steps):
        members = here if isinstance(here, dict) else dict(enumerate(here)) if isinstance(here, list) else {}
        if step not in members:
            return UNDEFINED
        here = members[step]
    return here


def equal(left: Any, right: Any) -> Any:
    kinds = {kind(left), kind(right)}
    if "undefined" in kinds:
        return UNDEFINED
    if "null" in kinds:
        return left is right
    if len(kinds) > 1 or kinds & {"array", "object"}:
        return UNDEFINED
    return left == right


def ordered(operator: str, left: Any, right: Any) -> Any:
    if kind(left) != kind(right) or kind(left) not in {"number", "string", "boolean"}:
        return UNDEFINED
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator]


def arithmetic(operator: str, left: Any, right: Any) -> Any:
    if {kind(left), kind(right)} != {"number"}:
        return UNDEFINED
    one, other = float(left), float(right)
    match operator:
        case "+":
            return number(one + other)
        case "-":
            return number(one - other)
        case "*":
            return number(one * other)
        case "/":
            return UNDEFINED if other == 0 else number(one / other)
    try:
        return number(math.fmod(one, other))
    except ValueError:
        return UNDEFINED


def negation(value: Any) -> Any:
    return not value if isinstance(value, bool) else UNDEFINED


def logical(operator: str, values: Iterable[Any]) -> Any:
    decisive = operator == "OR"
    known = [value if isinstance(value, bool) else UNDEFINED for value in values]
    if decisive in known:
        return decisive
    return UNDEFINED if UNDEFINED in known else not decisive


def call(name: str, values: list[Any]) -> Any:
    first = values[0]
    kinds = [kind(value) for value in values]
    match name:
        case "IS_DEFINED":
            return first is not UNDEFINED
        case "IS_PRIMITIVE":
            return kinds[0] in {"null", "boolean", "number", "string"}
        case "ARRAY_CONTAINS":
            if kinds[0] != "array" or kinds[1] in {"undefined", "array", "object"}:
                return UNDEFINED
            return any(kind(item) == kinds[1] and item == values[1] for item in first)
        case "AS_NUMBER":
            if kinds[0] == "number":
                return first
            return float(first) if kinds[0] == "string" and NUMERIC.fullmatch(first.strip(" \t\r\n")) else UNDEFINED
        case "SUBSTRING":
            if kinds[0] != "string" or set(kinds[1:]) != {"number"}:
                return UNDEFINED
            if any(position < 0 or position == math.inf or position != int(position) for position in values[1:]):
                return UNDEFINED
            start = int(values[1])
            return first[start:] if len(values) == 2 else first[start : start + int(values[2])]
    if name.startswith("IS_"):
        wanted = {"IS_BOOL": "boolean"}.get(name, name[3:].lower())
        return kinds[0] == wanted
    if set(kinds) == {"string"}:
        return text_call(name, values)
    if set(kinds) == {"number"}:
        return number_call(name, [float(value) for value in values])
    return UNDEFINED


def text_call(name: str, values: list[str]) -> Any:
    first, *rest = values
    match name:
        case "CONCAT":
            return "".join(values)
        case "CONTAINS":
            return rest[0] in first
        case "STARTS_WITH":
            return first.startswith(rest[0])
        case "ENDS_WITH":
            return first.endswith(rest[0])
        case "INDEX_OF":
            return first.find(rest[0])
        case "LENGTH":
            return len(first)
        case "LOWER":
            return first.lower()
        case "UPPER":
            return first.upper()
    return UNDEFINED


def number_call(name: str, values: list[float]) -> Any:
    first = values[0]
    match name:
        case "ABS":
            return abs(first)
        case "SIGN":
            return (first > 0) - (first < 0)
        case "CEILING":
            return first if math.isinf(first) else float(math.ceil(first))
        case "FLOOR":
            return first if math.isinf(first) else float(math.floor(first))
        case "SQRT":
            return math.sqrt(first) if first >= 0 else UNDEFINED
        case "EXP":
            return LIBM.exp(first)
        case "SQUARE":
            return LIBM.pow(first, 2.0)
        case "POWER":
            return number(LIBM.pow(*values))
    return UNDEFINED


def constants(array: Array) -> list[Any]:
    return [constants(item) if isinstance(item, Array) else item.value for item in array.items]


def value_of(expression: Expression, twin: dict[str, Any]) -> Any:
    match expression:
        case Path():
            return path_value(expression, twin)
        case Literal():
            return expression.value
        case Array():
            return constants(expression)
        case Not():
            return negation(value_of(expression.operand, twin))
        case Negative():
            value = value_of(expression.operand, twin)
            return -value if kind(value) == "number" else UNDEFINED
        case Logical():
            return logical(expression.operator, [value_of(one, twin) for one in expression.operands])
        case In():
            value = value_of(expression.operand, twin)
            found = logical("OR", [equal(value, constant) for constant in constants(expression.array)])
            return negation(found) if expression.negated else found
        case Call():
            return call(expression.function, [value_of(one, twin) for one in expression.arguments])
        case Binary(operator=operator):
            left, right = value_of(expression.left, twin), value_of(expression.right, twin)
            if operator in {"+", "-", "*", "/", "%"}:
                return arithmetic(operator, left, right)
            if operator == "=":
                return equal(left, right)
            return negation(equal(left, right)) if operator == "!=" else ordered(operator, left, right)


def aggregate(item: Item, twins: list[dict[str, Any]]) -> Any:
    if item.path is None:
        return len(twins)
    values = [path_value(item.path, twin) for twin in twins]
    numbers = [value for value in values if kind(value) == "number"]
    texts = [value for value in values if kind(value) == "string"]
    match item.aggregate:
        case None:
            return values[0]
        case "SUM":
            return sum(numbers) if numbers else UNDEFINED
        case "AVG":
            return sum(numbers) / len(numbers) if numbers else UNDEFINED
        case name:
            least_or_most = min if name == "MIN" else max
            found = numbers or texts
            return least_or_most(found) if found else UNDEFINED


def answer(query: Query, twins: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of ``query``; those of groups in no order."""
    found = [twin for twin in twins if query.condition is None or value_of(query.condition, twin) is True]
    if not query.items:
        rows = found
    elif query.aggregates:
        groups: dict[str, list[dict[str, Any]]] = {} if query.groups else {"": []}
        for twin in found:
            values = [path_value(path, twin) for path in query.groups]
            groups.setdefault("".join(map(group_name, values)), []).append(twin)
        rows = [{item.name: aggregate(item, group) for item in query.items} for group in groups.values()]
    else:
        rows = [{item.name: path_value(item.path, twin) for item in query.items if item.path} for twin in found]
    shown = [{name: value for name, value in row.items() if value is not UNDEFINED} for row in rows]
    return shown if query.top is None else shown[: query.top]


def group_name(value: Any) -> str:
    if kind(value) == "number":
        return f"number {float(value)!r};"
    return f"{kind(value)} {'' if value is UNDEFINED else json.dumps(value)};"
