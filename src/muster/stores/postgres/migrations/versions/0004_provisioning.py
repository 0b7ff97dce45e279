"""Enrollments, registrations and the timeline of provisioning services."""

from __future__ import annotations

from alembic import op

revision, down_revision = "0004", "0003"

STEPS: tuple[str, ...] = ()


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
