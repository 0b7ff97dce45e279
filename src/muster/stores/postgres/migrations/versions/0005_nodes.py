"""Nodes with their leases, and who is connected to which."""

from __future__ import annotations

from alembic import op

from muster.stores.postgres.partitions import by_device

revision, down_revision = "0005", "0004"

_NODES = """CREATE TABLE nodes (
    lease text PRIMARY KEY,
    node text NOT NULL,
    until timestamptz NOT NULL,
    devices jsonb NOT NULL DEFAULT '{}'
)"""
_LEASES = "CREATE SEQUENCE leases"  # asked once for each start of a node: no hot path
_SESSIONS = """module_id text COLLATE "C" NOT NULL,
    generation_id text NOT NULL,
    epoch bigint NOT NULL,
    lease text NOT NULL,
    holders text[] NOT NULL,
    connected boolean NOT NULL,
    changed float8 NOT NULL"""

STEPS: tuple[str, ...] = (_NODES, _LEASES, *by_device("sessions", _SESSIONS, "module_id"))


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
