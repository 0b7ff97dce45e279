"""A hub as allocation sees it."""

from __future__ import annotations

from typing import NamedTuple


class Candidate(NamedTuple):
    """A hub that a device may get: its host name, and its share against the others' weights."""

    host: str
    weight: int = 1
