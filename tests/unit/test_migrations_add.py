"""Migrations of PostgreSQL only add, for nodes of the version before go on while the tables are brought up to date
(docs/operate.md)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from muster.stores.postgres import schema

MIGRATIONS = sorted((Path(schema.__file__).parent / "migrations" / "versions").glob("0*.py"))
_TAKES_AWAY = re.compile(
    r"\b(DROP|RENAME|ALTER\s+COLUMN|SET\s+NOT\s+NULL|ADD\s+CONSTRAINT|SET\s+SCHEMA)\b", re.IGNORECASE
)
_ADDED = re.compile(r"\bADD\s+(?:COLUMN\s+)?(\w+\s+[^,;\"']+(?:DEFAULT\s+[^,\"]+)?)", re.IGNORECASE)


def taken_away(text: str) -> list[str]:
    """What nodes of before would miss, or could not fill in, in a migration's statements."""
    found = [one[0] for one in _TAKES_AWAY.finditer(text)]
    required = (one for one in _ADDED.findall(text) if re.search(r"\bNOT\s+NULL\b", one, re.IGNORECASE))
    return found + [one for one in required if not re.search(r"\bDEFAULT\b", one, re.IGNORECASE)]


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.stem)
def test_nothing_is_taken_away_from_nodes_of_the_version_before(path: Path) -> None:
    assert taken_away(path.read_text()) == []


def test_what_takes_away_is_found() -> None:
    for text in (
        "ALTER TABLE t DROP c",
        "ALTER TABLE t ALTER COLUMN c SET NOT NULL",
        "ALTER TABLE t ADD c text NOT NULL",
    ):
        assert taken_away(text)
    for text in (
        "ALTER TABLE t ADD c text",
        "ALTER TABLE t ADD c text NOT NULL DEFAULT ''",
        "CREATE TABLE t (a text NOT NULL)",
    ):
        assert not taken_away(text)


def test_they_are_one_line_of_versions() -> None:
    numbers = [path.stem.partition("_")[0] for path in MIGRATIONS]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    assert numbers[-1] == schema.newest_layout()
