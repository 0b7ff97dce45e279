"""Fixtures that several modules use."""

from __future__ import annotations

from pathlib import Path

import pytest
from query_hub import Place
from query_places import DATABASES, place_of


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place for a hub that queries are asked of."""
    return place_of(request.param, tmp_path, request.module.__name__)
