"""Statements of queries as asyncpg takes them: parameters are numbers there, and each says its type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from muster.stores.postgres.texts import spelled

_PARAMETER = re.compile(r"'(?:[^']|'')*'|:([a-z]\w*)")
_TYPES = {
    "limit": "bigint",
    "slice": "bigint",
    "present_devices": "text[]",
    "present_modules": "text[]",
    "present_connected": "boolean[]",
    "present_activity": "float8[]",
}


class Text(NamedTuple):
    """A statement, and the names of its parameters in their order."""

    sql: str
    names: tuple[str, ...]

    def values(self, bindings: Mapping[str, Any]) -> list[Any]:
        """What the parameters stand for; strings as they are kept."""
        return [_kept(bindings[name]) for name in self.names]


def text_of(statement: str, bindings: Mapping[str, Any]) -> Text:
    """``statement`` with ``:name`` for each parameter, which is in ``bindings`` when its value is a number."""
    numbers: dict[str, int] = {}

    def parameter(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:  # a string, whatever it holds
            return found[0]
        number = numbers.setdefault(name, len(numbers) + 1)
        kind = "float8" if isinstance(bindings.get(name), int | float) else "text"
        return f"CAST(${number} AS {_TYPES.get(name, kind)})"

    return Text(_PARAMETER.sub(parameter, statement), tuple(numbers))


def _kept(value: Any) -> Any:
    return spelled(value) if isinstance(value, str) else value
