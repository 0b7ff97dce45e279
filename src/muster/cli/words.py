"""A refusal of the registry in the words of the command line."""

from __future__ import annotations

from muster.core.errors import DEVICE_NOT_FOUND, MODULE_NOT_FOUND

_ABSENT = {row.name: row for row in (DEVICE_NOT_FOUND, MODULE_NOT_FOUND)}


def words_of(name: str, message: str) -> str:
    """What to print for the error ``name``. For what is missing Azure says the bare id: a sentence is made of it."""
    row = _ABSENT.get(name)
    return message or name if row is None else f"{message}: {row.cause} {row.remedy}"
