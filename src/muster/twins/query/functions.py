"""The functions of the query language (service.md 5.1 and 5.2): their names and how many arguments each takes."""

from __future__ import annotations

from typing import NamedTuple


class Function(NamedTuple):
    """One function; ``most`` is ``None`` where any number goes."""

    name: str
    least: int
    most: int | None


MANY = None

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for function in (
        Function("ABS", 1, 1),
        Function("ARRAY_CONTAINS", 2, 2),
        Function("AS_NUMBER", 1, 1),
        Function("CEILING", 1, 1),
        Function("CONCAT", 2, MANY),
        Function("CONTAINS", 2, 2),
        Function("ENDS_WITH", 2, 2),
        Function("EXP", 1, 1),
        Function("FLOOR", 1, 1),
        Function("INDEX_OF", 2, 2),
        Function("IS_ARRAY", 1, 1),
        Function("IS_BOOL", 1, 1),
        Function("IS_DEFINED", 1, 1),
        Function("IS_NULL", 1, 1),
        Function("IS_NUMBER", 1, 1),
        Function("IS_OBJECT", 1, 1),
        Function("IS_PRIMITIVE", 1, 1),
        Function("IS_STRING", 1, 1),
        Function("LENGTH", 1, 1),
        Function("LOWER", 1, 1),
        Function("POWER", 2, 2),
        Function("SIGN", 1, 1),
        Function("SQRT", 1, 1),
        Function("SQUARE", 1, 1),
        Function("STARTS_WITH", 2, 2),
        Function("SUBSTRING", 2, 3),
        Function("UPPER", 1, 1),
    )
}

OTHER_SPELLINGS = {"STARTSWITH": "STARTS_WITH", "ENDSWITH": "ENDS_WITH"}

AGGREGATES = ("COUNT", "AVG", "SUM", "MIN", "MAX")


def function_named(name: str) -> Function | None:
    """The function that ``name`` means, in any case."""
    upper = name.upper()
    return FUNCTIONS.get(OTHER_SPELLINGS.get(upper, upper))
