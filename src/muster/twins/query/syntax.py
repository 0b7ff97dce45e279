"""The device query language as a tree.

Expressions yield a JSON value or *undefined*, which a missing path is and which no store can hold. ``None`` is JSON's
null here. Every node knows its place in the text (``at``, from 0) and how many levels deep it is, itself included.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final


class Undefined(Enum):
    """The type of ``UNDEFINED``."""

    UNDEFINED = "undefined"


UNDEFINED: Final = Undefined.UNDEFINED
"""No value at all: what a missing path yields, and an operation on values that it is not for."""

Scalar = None | bool | int | float | str
Steps = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Path:
    """A place in a twin: a field by its canonical name, and the way from there by members and positions."""

    at: int
    field: str
    steps: Steps = ()
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant. Numbers are whole up to 2^53, floating point beyond."""

    at: int
    value: Scalar | Undefined
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Array:
    """Constants in brackets, at least one."""

    at: int
    items: tuple[Literal | Array, ...]
    depth: int = 1


@dataclass(frozen=True, slots=True)
class Call:
    """A function of ``functions.FUNCTIONS``."""

    at: int
    function: str
    arguments: tuple[Expression, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class Not:
    """NOT."""

    at: int
    operand: Expression
    depth: int


@dataclass(frozen=True, slots=True)
class Negative:
    """The unary minus."""

    at: int
    operand: Expression
    depth: int


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic (``+ - * / %``) or a comparison (``= != < <= > >=``; ``<>`` is read as ``!=``)."""

    at: int
    operator: str
    left: Expression
    right: Expression
    depth: int


@dataclass(frozen=True, slots=True)
class In:
    """IN, or NIN when ``negated``: ``x IN [a, b]`` means ``x = a OR x = b``, and NIN its NOT."""

    at: int
    operand: Expression
    array: Array
    negated: bool
    depth: int


@dataclass(frozen=True, slots=True)
class Logical:
    """AND, or OR: two operands or more, so that long chains stay flat."""

    at: int
    operator: str
    operands: tuple[Expression, ...]
    depth: int


Expression = Path | Literal | Array | Call | Not | Negative | Binary | In | Logical

COMPARISONS = frozenset(("=", "!=", "<", "<=", ">", ">="))


class Source(StrEnum):
    """What a query reads."""

    DEVICES = "devices"
    MODULES = "devices.modules"
    JOBS = "devices.jobs"


class ItemType(StrEnum):
    """What the rows of an answer are, spelled as C# parses it (service.md 0.3)."""

    TWIN = "Twin"
    DEVICE_JOB = "DeviceJob"
    RAW = "Raw"


@dataclass(frozen=True, slots=True)
class Item:
    """One member of a result row: a path's value, or an aggregate over one; ``COUNT`` has no path."""

    name: str
    path: Path | None
    aggregate: str | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """A query that makes sense. ``items`` is empty for ``*``; ``top`` bounds the whole result."""

    source: Source
    items: tuple[Item, ...] = ()
    condition: Expression | None = None
    groups: tuple[Path, ...] = ()
    top: int | None = None

    @property
    def aggregates(self) -> bool:
        """Whether rows of the result are groups, not twins."""
        return bool(self.groups) or any(item.aggregate for item in self.items)

    @property
    def item_type(self) -> ItemType:
        """The type of the rows."""
        if self.source is Source.JOBS:
            return ItemType.DEVICE_JOB
        return ItemType.RAW if self.items else ItemType.TWIN
