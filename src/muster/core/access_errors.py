"""Rows of the errors catalogue about what a proven caller may do."""

from __future__ import annotations

from muster.core.error import ErrorRow

FORBIDDEN = ErrorRow(
    403000,
    "GenericForbidden",
    "amqp:unauthorized-access",
    5,
    "The bearer token counts, and no role of its caller allows this.",
    "Give the caller a role that `muster why <tracking id>` names.",
)

ALL: tuple[ErrorRow, ...] = (FORBIDDEN,)
