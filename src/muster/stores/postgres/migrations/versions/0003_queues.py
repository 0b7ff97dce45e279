"""Queues and their messages, refusals, authorities and revocation lists, the index of blobs."""

from __future__ import annotations

from alembic import op

from muster.stores.postgres.partitions import spread

revision, down_revision = "0003", "0002"

_QUEUE = """
    hub text COLLATE "C" NOT NULL,
    queue text COLLATE "C" NOT NULL,
"""

STEPS: tuple[str, ...] = (
    *spread("queues", f"{_QUEUE} next bigint NOT NULL, depth integer NOT NULL, PRIMARY KEY (hub, queue)", "hub, queue"),
    *spread(
        "queue_messages",
        f"""
        {_QUEUE}
        number bigint NOT NULL,
        enqueued double precision NOT NULL,
        expires double precision NOT NULL,
        due double precision NOT NULL,
        deliveries integer NOT NULL DEFAULT 0,
        token uuid,
        locked_until double precision,
        holder text COLLATE "C",
        head text NOT NULL,
        body bytea NOT NULL,
        PRIMARY KEY (hub, queue, number)
        """,
        "hub, queue",
    ),
    "CREATE INDEX queue_messages_by_due ON queue_messages (hub, due)",
    "CREATE UNIQUE INDEX queue_messages_by_token ON queue_messages (hub, queue, token) WHERE token IS NOT NULL",
    "CREATE INDEX queue_messages_by_holder ON queue_messages (hub, queue, holder) WHERE holder IS NOT NULL",
    *spread(
        "queue_records",
        f"""
        {_QUEUE}
        number bigint NOT NULL,
        made double precision NOT NULL,
        text text NOT NULL,
        PRIMARY KEY (hub, queue, number)
        """,
        "hub, queue",
    ),
    "CREATE INDEX queue_records_by_age ON queue_records (hub, made)",
)


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
