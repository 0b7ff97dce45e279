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
    # The numbers of logs that are bounded (refusals, the timeline): consecutive, so that the oldest are found by them.
    """
    CREATE TABLE log_numbers (
        log text COLLATE "C" NOT NULL,
        hub text COLLATE "C" NOT NULL,
        last bigint NOT NULL,
        PRIMARY KEY (log, hub)
    )
    """,
    """
    CREATE TABLE refusals (
        hub text COLLATE "C" NOT NULL,
        number bigint NOT NULL,
        identifier text COLLATE "C" NOT NULL,
        tracking_id text NOT NULL,
        at double precision NOT NULL,
        principal text COLLATE "C" NOT NULL,
        report text NOT NULL,
        PRIMARY KEY (hub, number)
    )
    """,
    "CREATE UNIQUE INDEX refusals_by_identifier ON refusals (hub, identifier)",
    "CREATE INDEX refusals_by_principal ON refusals (hub, principal, number)",
    # ``folded``: the name in lower case, which is what tells one from another.
    """
    CREATE TABLE authorities (
        hub text COLLATE "C" NOT NULL,
        folded text COLLATE "C" NOT NULL,
        name text NOT NULL,
        certificate bytea NOT NULL,
        verified boolean NOT NULL,
        created double precision NOT NULL,
        updated double precision NOT NULL,
        version bigint NOT NULL,
        code text NOT NULL,
        fail_closed boolean NOT NULL,
        list_url text NOT NULL,
        responder_url text NOT NULL,
        refresh bigint NOT NULL,
        PRIMARY KEY (hub, folded)
    )
    """,
    """
    CREATE TABLE revocation_lists (
        hub text COLLATE "C" NOT NULL,
        folded text COLLATE "C" NOT NULL,
        issuer bytea NOT NULL,
        der bytea NOT NULL,
        PRIMARY KEY (hub, folded, issuer)
    )
    """,
    # Names are kept as ``stores.postgres.texts`` spells them.
    """
    CREATE TABLE blobs (
        hub text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        etag text NOT NULL,
        size bigint NOT NULL,
        created double precision NOT NULL,
        modified double precision NOT NULL,
        headers text NOT NULL,
        metadata text NOT NULL,
        PRIMARY KEY (hub, name)
    )
    """,
    """
    CREATE TABLE blob_blocks (
        hub text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        position integer NOT NULL,
        block_id text NOT NULL,
        file text NOT NULL,
        size bigint NOT NULL,
        PRIMARY KEY (hub, name, position)
    )
    """,
    """
    CREATE TABLE blob_staged (
        hub text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        block_id text COLLATE "C" NOT NULL,
        file text NOT NULL,
        size bigint NOT NULL,
        expires_at double precision NOT NULL,
        PRIMARY KEY (hub, name, block_id)
    )
    """,
    "CREATE INDEX blob_staged_by_end ON blob_staged (hub, expires_at)",
)


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
