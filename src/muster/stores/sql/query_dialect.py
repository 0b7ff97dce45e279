"""What differs between the databases that queries are compiled for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from muster.stores.sql.query_operands import NOTHING, NULL, Bindings, Operand, place_of
from muster.twins.query.fields import PROPERTIES, TAGS
from muster.twins.query.syntax import Path, Source, Steps

THUMBPRINTS = {"primaryThumbprint": "i.primary_thumbprint", "secondaryThumbprint": "i.secondary_thumbprint"}

WAITING = (
    "coalesce((SELECT q.depth FROM queues AS q WHERE q.hub = i.hub AND q.queue = "
    "CASE i.module_id WHEN '' THEN i.device_id ELSE i.device_id || '/' || i.module_id END), 0)"
)
"""How many messages wait for an identity, whose queue is named by its key."""


TABLES = {"i": "identities", "t": "twins"}


class Way(NamedTuple):
    """A way to the rows: the table ``outer`` (``i`` or ``t``) is gone through first, in the ``order`` of its key, as
    far as ``within`` says, by the index ``by`` if one serves. ``both``: the other table is needed too, ``beside``: of
    all identities, so it may be gone through in the same way.
    """

    outer: str
    within: str
    order: str
    by: str
    both: bool
    beside: bool

    @property
    def other(self) -> str:
        """The other table."""
        return "t" if self.outer == "i" else "i"

    @property
    def joined(self) -> str:
        """The condition that joins both."""
        o, x = self.outer, self.other
        return f"{x}.hub = :hub AND {x}.device_id = {o}.device_id AND {x}.module_id = {o}.module_id"


def upto(table: str) -> str:
    """A condition: ``table``'s key is not beyond the slice."""
    return f"({table}.device_id, {table}.module_id) <= (:last_device, :last_module)"


class Dialect(ABC):
    """One database's SQL. Fragments are over ``identities AS i`` and ``twins AS t``."""

    constants: ClassVar[Mapping[bool, str]]
    no_boolean: ClassVar[str] = NULL
    no_text: ClassVar[str] = NULL
    no_string: ClassVar[str]
    """A constant that no column of texts holds, to stand for NULL there."""

    functions: ClassVar[Mapping[str, str]]
    """By the language's names of functions and operators, their SQL with ``{0}``, ``{1}`` for the arguments, which are
    floating point or text; ``-1`` is the unary minus, ``SUBSTRING3`` that with a length."""

    contains: ClassVar[Mapping[str, str]]
    """Whether array ``{0}`` has the value ``{1}``, by the value's type; for ``null`` that is true or undefined."""

    fields: ClassVar[Mapping[str, Operand]]
    """Fields that are one value each; those that a query may name and that are not here are undefined."""

    tags: ClassVar[Operand]
    """All tags, undefined where there are none."""

    parent_scopes: ClassVar[str]

    identity_columns: ClassVar[str]
    twin_columns: ClassVar[str]
    """The columns of which the database's stores make identities and twins."""

    presence: ClassVar[str] = ""
    """Joins ``p``, what is known of the presence of a slice's identities, where fields are made from that."""

    @abstractmethod
    def indexed_by(self, index: str) -> str:
        """What says behind a table's name that ``index`` of it is to be used; empty where nothing needs to be said."""

    @abstractmethod
    def slice(self, way: Way) -> tuple[str, str]:
        """What stands behind FROM, and a condition: together they are the identities of a slice."""

    @abstractmethod
    def first_groups(self, groups: str) -> str:
        """The first ``:limit`` of ``groups`` behind ``:name``, by their names."""

    @abstractmethod
    def real(self, number: str) -> str:
        """A number in floating point."""

    @abstractmethod
    def compared(self, slot: str, left: str, operator: str, right: str) -> str:
        """Two values of type ``slot`` compared, texts by code points."""

    @abstractmethod
    def json_operand(self, column: str, steps: Steps, bindings: Bindings) -> Operand:
        """The value at ``steps`` in the JSON of ``column``; nulls do not occur in twins."""

    @abstractmethod
    def json_object(self, members: Mapping[str, str], *, booleans: bool = False) -> str:
        """An object of texts that may be NULL, or of booleans, by their names."""

    @abstractmethod
    def properties(self, part: str) -> str:
        """Desired or reported properties as a twin shows them."""

    @abstractmethod
    def both_properties(self) -> str:
        """All properties."""

    @abstractmethod
    def output(self, operand: Operand) -> str:
        """The value as JSON text, NULL when undefined; only for paths."""

    @abstractmethod
    def grouped(self, output: str) -> str:
        """``output`` of what is grouped by, for a whole group."""

    @abstractmethod
    def group_key(self, operands: Sequence[Operand]) -> tuple[str, str]:
        """What names a group, and what to group by. Equal numbers are one group, whole or not; only for paths."""

    @abstractmethod
    def largest(self, aggregate: str, slot: str, fragment: str) -> str:
        """``min`` or ``max`` over values of type ``slot``."""

    @abstractmethod
    def total(self, number: str) -> str:
        """The sum of numbers, in floating point."""


def operand_of(path: Path, source: Source, dialect: Dialect, bindings: Bindings) -> Operand:
    """What ``path`` is in SQL."""
    field, steps = path.field, path.steps
    place = place_of(path)
    if place is not None:
        return dialect.json_operand(*place, bindings)
    if field == TAGS:
        return dialect.tags
    if field == PROPERTIES:
        return _properties_operand(steps, dialect, bindings)
    if field == "parentScopes":
        return dialect.json_operand(dialect.parent_scopes, steps, bindings)
    if field == "capabilities" and source is Source.DEVICES:
        if not steps:
            return _object(dialect.json_object({"iotEdge": "i.iot_edge"}, booleans=True))
        return Operand(boolean="i.iot_edge") if steps == ("iotEdge",) else NOTHING
    if field == "x509Thumbprint":
        if not steps:
            return _object(dialect.json_object(THUMBPRINTS))
        column = THUMBPRINTS.get(str(steps[0])) if len(steps) == 1 else None
        return NOTHING if column is None else Operand(text=column, column=column)
    return NOTHING if steps else dialect.fields.get(field, NOTHING)


def _object(json: str) -> Operand:
    return Operand(fixed_kind="'object'", json=json)


def _properties_operand(steps: Steps, dialect: Dialect, bindings: Bindings) -> Operand:
    if not steps:
        return _object(dialect.both_properties())
    part, *below = steps
    if not below:
        return _object(dialect.properties(str(part)))
    if below[0] == "$version":
        return Operand(number=f"t.{part}_version") if len(below) == 1 else NOTHING
    return dialect.json_operand(f"t.{part}_metadata", tuple(below[1:]), bindings)
