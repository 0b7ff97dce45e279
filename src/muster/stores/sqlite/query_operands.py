"""What an operand of a query is in SQL: a fragment for each type that its value may have.

*Undefined* is SQL's NULL, so that NULL's rules are the language's: a comparison with it yields it, and AND, OR and NOT
have three values. Each fragment yields NULL where the value is of another type; a boolean is 0 or 1, JSON's null has no
fragment. So neither SQLite's type affinity nor what ``json_extract`` makes of booleans and objects can show.

An expression that is not a plain path has one type, and only paths have several fragments: a fragment may be written
twice only when it is a path's, else nested expressions would double the text at each level.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from muster.twins.query.fields import PROPERTIES, TAGS
from muster.twins.query.syntax import Path, Source, Steps

NULL = "NULL"
LARGEST_POSITION = 100_000
"""No array in a twin is so long; SQLite's own arithmetic on positions is not tried."""


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

    ``column`` is set where NULL in that column means JSON's null, ``array`` yields an array as JSON text,
    ``fixed_kind`` the kind where it does not follow from the fragments, ``value`` the value of whatever type where one
    fragment yields that; ``null`` is the constant.
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
        for name, fragment in (("number", self.number), ("text", self.text), ("boolean", self.boolean)):
            if fragment is not None:
                return f"CASE WHEN {fragment} IS NOT NULL THEN '{name}' END"
        return NULL

    @property
    def slots(self) -> tuple[tuple[str, str], ...]:
        """The types that may be compared, with their fragments."""
        named = (("number", self.number), ("text", self.text), ("boolean", self.boolean))
        return tuple((name, fragment) for name, fragment in named if fragment is not None)

    @property
    def any(self) -> str:
        """The value of whatever type, which ``kind`` tells; only for paths."""
        if self.value is not None:
            return self.value
        return coalesce([*(fragment for _, fragment in self.slots), *filter(None, (self.json,))])

    @property
    def output(self) -> str:
        """The value as JSON text, NULL when undefined; only for paths."""
        if self.json is not None:
            return self.json
        if self.column is not None:
            return f"json_quote({self.column})"
        if self.boolean is not None:
            return f"CASE {self.boolean} WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"
        for _, fragment in self.slots:
            return f"CASE WHEN {fragment} IS NOT NULL THEN json_quote({fragment}) END"
        return NULL


NOTHING = Operand()
"""Undefined."""


def coalesce(fragments: Sequence[str]) -> str:
    """The first of ``fragments`` that is not NULL."""
    if len(fragments) > 1:
        return f"coalesce({', '.join(fragments)})"
    return fragments[0] if fragments else NULL


def balanced(operator: str, fragments: Sequence[str]) -> str:
    """``fragments`` joined by an associative ``operator``, nested evenly: SQLite bounds how deep expressions are."""
    if len(fragments) == 1:
        return fragments[0]
    half = len(fragments) // 2
    return f"({balanced(operator, fragments[:half])} {operator} {balanced(operator, fragments[half:])})"


# --- JSON columns

_COLUMNS = {"desired": "t.desired", "reported": "t.reported"}


def json_path(steps: Steps) -> str | None:
    """``steps`` in SQLite's notation, names quoted as JSON; ``None`` when no document can have such a place."""
    parts = ["$"]
    for step in steps:
        if isinstance(step, int):
            if step > LARGEST_POSITION:
                return None
            parts.append(f"[{step}]")
        else:
            parts.append("." + json.dumps(step, ensure_ascii=False))
    return "".join(parts)


def json_operand(column: str, steps: Steps, bindings: Bindings) -> Operand:
    """The value at ``steps`` in the JSON text ``column``; nulls do not occur in twins."""
    text = json_path(steps)
    if text is None:
        return NOTHING
    path = bindings.bind(text)
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


def place_of(path: Path) -> tuple[str, Steps] | None:
    """The JSON column that holds ``path``, and the steps within it; ``None`` when it lies in none."""
    if path.field == TAGS and path.steps:
        return "t.tags", path.steps
    if path.field == PROPERTIES and len(path.steps) > 1:
        part, *below = path.steps
        return (_COLUMNS[str(part)], tuple(below)) if below[0] not in {"$version", "$metadata"} else None
    return None


# --- fields


def _object(json_text: str) -> Operand:
    return Operand(fixed_kind="'object'", json=json_text)


def _properties(part: str) -> str:
    """Desired or reported properties as a twin shows them."""
    return f"json_set(t.{part}, '$.\"$metadata\"', json(t.{part}_metadata), '$.\"$version\"', t.{part}_version)"


_THUMBPRINTS = {"primaryThumbprint": "i.primary_thumbprint", "secondaryThumbprint": "i.secondary_thumbprint"}

WAITING = (
    "coalesce((SELECT q.depth FROM queues AS q WHERE q.hub = i.hub AND q.queue = "
    "iif(i.module_id = '', i.device_id, i.device_id || '/' || i.module_id)), 0)"
)
"""How many messages wait for an identity, whose queue is named by its key."""

_FIELDS: dict[str, Operand] = {
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
"""Fields that are one value each; those that a query may name and that are not here are undefined."""


def operand_of(path: Path, source: Source, bindings: Bindings) -> Operand:
    """What ``path`` is in SQL, over ``identities AS i`` and ``twins AS t``."""
    field, steps = path.field, path.steps
    place = place_of(path)
    if place is not None:
        return json_operand(*place, bindings)
    if field == TAGS:
        return Operand(fixed_kind="CASE WHEN t.tags <> '{}' THEN 'object' END", json="nullif(t.tags, '{}')")
    if field == PROPERTIES:
        return _properties_operand(steps, bindings)
    if field == "parentScopes":
        return json_operand("coalesce(i.parent_scopes, '[]')", steps, bindings)
    if field == "capabilities" and source is Source.DEVICES:
        if not steps:
            return _object("json_object('iotEdge', json(CASE i.iot_edge WHEN 1 THEN 'true' ELSE 'false' END))")
        return Operand(boolean="i.iot_edge") if steps == ("iotEdge",) else NOTHING
    if field == "x509Thumbprint":
        if not steps:
            members = [f"'{name}', {column}" for name, column in _THUMBPRINTS.items()]
            return _object(f"json_object({', '.join(members)})")
        column = _THUMBPRINTS.get(str(steps[0])) if len(steps) == 1 else None
        return NOTHING if column is None else Operand(text=column, column=column)
    return NOTHING if steps else _FIELDS.get(field, NOTHING)


def _properties_operand(steps: Steps, bindings: Bindings) -> Operand:
    if not steps:
        return _object(f"json_object('desired', {_properties('desired')}, 'reported', {_properties('reported')})")
    part, *below = steps
    if not below:
        return _object(_properties(str(part)))
    if below[0] == "$version":
        return Operand(number=f"t.{part}_version") if len(below) == 1 else NOTHING
    return json_operand(f"t.{part}_metadata", tuple(below[1:]), bindings)
