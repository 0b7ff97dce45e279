"""Indexes on properties of twins that the operator has named: SQLite indexes on expressions over the JSON text.

SQLite keeps them in step with every write, within the write's own transaction; a hub that starts with other properties
makes and drops them first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import apsw

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.query_limits import QUERY_INDEXES
from muster.stores.sqlite.query_operands import json_path, place_of
from muster.twins.query.parser import parse_path
from muster.twins.query.syntax import Path, Scalar

_PREFIX = "twin_property_"
_BOOLEANS = {False: b"\x00", True: b"\x01"}


class PropertyIndexes:
    """The indexed properties, by their names."""

    def __init__(self, properties: Sequence[str]) -> None:
        """``properties`` as queries name them: ``tags.building``, ``properties.reported.firmware.version``.

        Raises ``HubError`` 400004 for what is no path of tags, desired or reported properties, or too many.
        """
        if len(properties) > QUERY_INDEXES.open:
            raise HubError(
                ARGUMENT_INVALID, f"{len(properties)} properties are to be indexed, {QUERY_INDEXES.open} are allowed."
            )
        self._names = {_name(path): path for path in map(_path, properties)}

    def __contains__(self, path: Path) -> bool:
        return _name(path) in self._names

    def create(self, connection: apsw.Connection) -> None:
        """Make what is missing and drop what is not wanted any more. Part of a transaction; takes a second or so for
        each property of 10^5 twins that is new."""
        rows = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE ?", (f"{_PREFIX}%",)
        )
        present = {name for (name,) in rows}
        for name in present - self._names.keys():
            connection.execute(f'DROP INDEX "{name}"')
        for name in self._names.keys() - present:
            value = indexed_value(self._names[name], "")
            connection.execute(f'CREATE INDEX "{name}" ON twins (hub, {value}) WHERE ({value}) IS NOT NULL')


def index_of(path: Path) -> str:
    """The name of the index on ``path``, quoted."""
    return f'"{_name(path)}"'


def indexed_value(path: Path, table: str = "t.") -> str:
    """The expression that is indexed. A boolean is a blob there, so that it equals no number; objects and arrays,
    which cannot be compared, are left out."""
    place = place_of(path)
    assert place is not None
    column, steps = place
    text = json_path(steps)
    assert text is not None
    quoted = text.replace("'", "''")
    arguments = f"{column.replace('t.', table)}, '{quoted}'"
    return (
        f"CASE json_type({arguments}) WHEN 'text' THEN json_extract({arguments}) "
        f"WHEN 'integer' THEN json_extract({arguments}) WHEN 'real' THEN json_extract({arguments}) "
        f"WHEN 'true' THEN x'01' WHEN 'false' THEN x'00' END"
    )


def indexed_constant(value: Scalar) -> Scalar | bytes:
    """``value`` as it stands in an index."""
    return _BOOLEANS[value] if isinstance(value, bool) else value


def _path(text: str) -> Path:
    try:
        path = parse_path(text)
        place = place_of(path)
    except HubError:
        place = None
    if place is None or json_path(place[1]) is None:
        raise HubError(
            ARGUMENT_INVALID,
            f"{text} cannot be indexed, name a property: tags.<name>, properties.desired.<name> or "
            "properties.reported.<name>.",
        )
    return path


def _name(path: Path) -> str:
    steps = json.dumps([path.field, *path.steps], ensure_ascii=False)
    return _PREFIX + hashlib.sha256(steps.encode()).hexdigest()[:16]
