"""Fixtures that several modules use."""

from __future__ import annotations

from pathlib import Path

import pytest
from query_hub import Place
from query_places import DATABASES, place_of

from tests.postgres import emptied_database


@pytest.fixture(params=["sqlite", "postgres"])
def common(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where ``hub_database.one_of_several`` finds the others."""
    return str(tmp_path / "hub.db") if request.param == "sqlite" else emptied_database()


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a hub that queries are asked of."""
    return place_of(request.param, tmp_path, request.module.__name__)
