"""Nodes with their leases, and who is connected to which."""

from __future__ import annotations

from alembic import op

revision, down_revision = "0005", "0004"

STEPS: tuple[str, ...] = ()


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
