"""What nodes say of themselves, and since when they have their leases."""

from __future__ import annotations

from alembic import op

revision, down_revision = "0007", "0006"

STEP = """ALTER TABLE nodes
    ADD about jsonb NOT NULL DEFAULT '{}',
    ADD since timestamptz NOT NULL DEFAULT clock_timestamp()"""


def upgrade() -> None:
    """Add the columns; nodes of before leave them to their defaults."""
    op.execute(STEP)
