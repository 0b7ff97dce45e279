"""Limits of the audit log; see ``core.limits``."""

from __future__ import annotations

from muster.core.limit import Limit

AUDIT_REFUSALS_BURST = Limit(
    "refused changes on record at once",
    100,
    100,
    "records",
    "own choice",
    "Of callers that proved nothing, and as many of those that are known and lack a right; beyond, the rate holds.",
)
AUDIT_REFUSALS_AN_HOUR = Limit(
    "refused changes on record",
    360,
    360,
    "records per hour",
    "own choice",
    "For each of the two kinds, some 10 MB a day together: strangers must not fill the disk. The next record says how "
    "many were left out; muster why knows more of them.",
)
AUDIT_PAGE = Limit(
    "audit records in one answer",
    1000,
    1000,
    "records",
    "own choice",
    "muster audit asks for the next ones by itself.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
"""Part of ``core.limits.ALL``."""
