"""Identities and what goes with them: twins, subscriptions, uploads, the outbox."""

from __future__ import annotations

from alembic import op

revision, down_revision = "0002", "0001"

STEPS: tuple[str, ...] = ()


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
