"""What an operand of a query is in SQL: a fragment for each type that its value may have.

*Undefined* is SQL's NULL, so that NULL's rules are the language's: a comparison with it yields it, and AND, OR and NOT
have three values. Each fragment yields NULL where the value is of another type; JSON's null has no fragment. So neither
a database's conversions nor what its JSON functions make of booleans and objects can show.

An expression that is not a plain path has one type, and only paths have several fragments: a fragment may be written
twice only when it is a path's, else nested expressions would double the text at each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from muster.twins.query.fields import PROPERTIES, TAGS
from muster.twins.query.syntax import Path, Steps

NULL = "NULL"
LARGEST_POSITION = 100_000
"""No array in a twin is so long; no database's own arithmetic on positions is tried."""


class Bindings(dict[str, Any]):
    """The values of a statement by the names of their parameters: no value of a user ever is part of the text."""

    def bind(self, value: Any) -> str:
        """The parameter that stands for ``value``."""
        name = f"p{len(self)}"
        self[name] = value
        return f":{name}"


@dataclass(frozen=True, slots=True)
class Operand:
    """An operand. ``None`` says that its value never has that type.

    ``column`` is set where NULL in that column means JSON's null, ``array`` yields an array as the database keeps
    them, ``fixed_kind`` the kind where it does not follow from the fragments, ``value`` the value of whatever type
    where one fragment yields that; ``null`` is the constant.
    """

    number: str | None = None
    text: str | None = None
    boolean: str | None = None
    array: str | None = None
    column: str | None = None
    fixed_kind: str | None = None
    json: str | None = None
    value: str | None = None
    null: bool = False

    @property
    def kind(self) -> str:
        """A fragment for the name of the type, NULL when undefined: ``number``, ``text``, ``boolean``, ``null``,
        ``object`` or ``array``."""
        if self.fixed_kind is not None:
            return self.fixed_kind
        if self.column is not None:
            return f"CASE WHEN {self.column} IS NULL THEN 'null' ELSE 'text' END"
        for name, fragment in self.slots:
            return f"CASE WHEN {fragment} IS NOT NULL THEN '{name}' END"
        return NULL

    @property
    def slots(self) -> tuple[tuple[str, str], ...]:
        """The types that may be compared, with their fragments."""
        named = (("number", self.number), ("text", self.text), ("boolean", self.boolean))
        return tuple((name, fragment) for name, fragment in named if fragment is not None)


NOTHING = Operand()
"""Undefined."""


def coalesce(fragments: Sequence[str], nothing: str = NULL) -> str:
    """The first of ``fragments`` that is not NULL."""
    if len(fragments) > 1:
        return f"coalesce({', '.join(fragments)})"
    return fragments[0] if fragments else nothing


def balanced(operator: str, fragments: Sequence[str]) -> str:
    """``fragments`` joined by an associative ``operator``, nested evenly: databases bound how deep expressions are."""
    if len(fragments) == 1:
        return fragments[0]
    half = len(fragments) // 2
    return f"({balanced(operator, fragments[:half])} {operator} {balanced(operator, fragments[half:])})"


def place_of(path: Path) -> tuple[str, Steps] | None:
    """The JSON column of ``twins AS t`` that holds ``path``, and the steps within it; ``None`` when it lies in none."""
    if path.field == TAGS and path.steps:
        return "t.tags", path.steps
    if path.field == PROPERTIES and len(path.steps) > 1:
        part, *below = path.steps
        return (f"t.{part}", tuple(below)) if below[0] not in {"$version", "$metadata"} else None
    return None


def can_be(steps: Steps) -> bool:
    """Whether a document can have such a place."""
    return all(isinstance(step, str) or step <= LARGEST_POSITION for step in steps)
