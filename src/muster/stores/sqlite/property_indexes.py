"""Indexes on properties of twins that the operator has named: SQLite indexes on expressions over the JSON text."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from muster.stores.sql.property_indexes import PREFIX, PropertyIndexes
from muster.stores.sql.query_operands import Bindings, place_of
from muster.stores.sqlite.query_dialect import SqliteDialect, json_path
from muster.twins.query.syntax import Path, Scalar

_BOOLEANS = {False: b"\x00", True: b"\x01"}


class SqlitePropertyIndexes(PropertyIndexes):
    """See ``PropertyIndexes``. A boolean is a blob there, so that it equals no number; objects and arrays, which cannot
    be compared, are left out."""

    dialect = SqliteDialect()

    def create(self, connection: apsw.Connection) -> None:
        """Make what is missing and drop what is not wanted any more. Part of a transaction; takes a second or so for
        each property of 10^5 twins that is new."""
        rows = connection.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'index' AND name LIKE ?", (f"{PREFIX}%",)
        )
        present = {name for (name,) in rows}
        for name in present - self.paths.keys():
            connection.execute(f'DROP INDEX "{name}"')
        for name in self.paths.keys() - present:
            value = _indexed_value(self.paths[name], "")
            connection.execute(f'CREATE INDEX "{name}" ON twins (hub, {value}) WHERE ({value}) IS NOT NULL')

    def search(self, path: Path, values: Sequence[Scalar], bindings: Bindings) -> str:
        """See ``PropertyIndexes``."""
        constants = [_BOOLEANS[value] if isinstance(value, bool) else value for value in values]
        return f"{_indexed_value(path)} IN ({', '.join(map(bindings.bind, constants))})"


def _indexed_value(path: Path, table: str = "t.") -> str:
    """The expression that is indexed."""
    place = place_of(path)
    assert place is not None
    column, steps = place
    quoted = json_path(steps).replace("'", "''")
    arguments = f"{column.replace('t.', table)}, '{quoted}'"
    return (
        f"CASE json_type({arguments}) WHEN 'text' THEN json_extract({arguments}) "
        f"WHEN 'integer' THEN json_extract({arguments}) WHEN 'real' THEN json_extract({arguments}) "
        f"WHEN 'true' THEN x'01' WHEN 'false' THEN x'00' END"
    )
