"""The form of a named mistake; the mistakes themselves are in ``causes`` and ``certificate_causes``."""

from __future__ import annotations

from typing import NamedTuple


class Cause(NamedTuple):
    """One named mistake."""

    name: str
    headline: str
    remedy: str
