"""Whether nodes are on the bus, as they say."""

from __future__ import annotations

from alembic import op

revision, down_revision = "0008", "0007"


def upgrade() -> None:
    """Add the column; nodes of before, and those that have just come, are."""
    op.execute("ALTER TABLE nodes ADD on_bus boolean NOT NULL DEFAULT true")
