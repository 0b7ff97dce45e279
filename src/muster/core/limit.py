"""The form of a limit; the rows are in ``limits`` and ``certificate_limits``."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Profile(StrEnum):
    """``azure`` copies every limit of the cloud service; ``open`` lifts the ones users hate."""

    AZURE = "azure"
    OPEN = "open"


class Limit(NamedTuple):
    """One row. ``azure`` and ``open`` are the values in force under that profile, in ``unit``."""

    name: str
    azure: int
    open: int
    unit: str
    source: str
    reason: str

    def under(self, profile: Profile) -> int:
        """The value in force under ``profile``."""
        return self.azure if profile is Profile.AZURE else self.open
