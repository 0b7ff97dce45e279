"""Who reads which partition: owner levels count on all nodes."""

from __future__ import annotations

from alembic import op

revision, down_revision = "0009", "0008"


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """CREATE TABLE seats (
    hub text COLLATE "C" NOT NULL,
    place text COLLATE "C" NOT NULL,
    seats text NOT NULL,
    PRIMARY KEY (hub, place)
)"""
    )
