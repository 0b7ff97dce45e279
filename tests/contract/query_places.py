"""Where the tests of queries keep their twins: on every database."""

from __future__ import annotations

from functools import cache
from itertools import count
from pathlib import Path

from query_hub import Place, PostgresPlace, SqlitePlace

from tests.postgres import new_database

DATABASES = ("sqlite", "postgres")
_hubs = count(1)


@cache
def _database(_: str) -> str:
    """One for each module of tests: to make one takes longer than most tests."""
    return new_database()


def place_of(database: str, directory: Path, module: str) -> Place:
    """An empty place for a hub. Not to be called on a running loop."""
    if database == "sqlite":
        return SqlitePlace(directory / "hub.db")
    return PostgresPlace(_database(module), f"hub{next(_hubs)}")
