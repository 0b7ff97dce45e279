"""Identities and what goes with them: twins, subscriptions, uploads, the outbox.

Strings that clients make up (reasons, scopes, whatever stands in a twin) are kept as ``stores.postgres.texts`` says,
since PostgreSQL's text and jsonb cannot hold U+0000. The empty module id means the device.
"""

from __future__ import annotations

from alembic import op

from muster.stores.postgres.partitions import by_device

revision, down_revision = "0002", "0001"

_MODULE = 'module_id text COLLATE "C" NOT NULL'
_NEVER = """'{"$lastUpdated": "0001-01-01T00:00:00Z"}'"""

STEPS: tuple[str, ...] = (
    *by_device(
        "identities",
        f"""
        {_MODULE},
        generation_id text NOT NULL,
        version bigint NOT NULL,
        authentication text COLLATE "C" NOT NULL,
        primary_key text,
        secondary_key text,
        primary_thumbprint text COLLATE "C",
        secondary_thumbprint text COLLATE "C",
        status text COLLATE "C" NOT NULL,
        status_reason text COLLATE "C",
        status_updated double precision NOT NULL,
        iot_edge boolean NOT NULL,
        device_scope text COLLATE "C",
        parent_scopes jsonb,
        managed_by text COLLATE "C"
        """,
        "module_id",
    ),
    # A row for each connection that writes, summed when read: by one row all creations would wait for each other.
    """
    CREATE TABLE identity_counts (
        hub text COLLATE "C" NOT NULL,
        status text COLLATE "C" NOT NULL,
        bucket integer NOT NULL,
        devices bigint NOT NULL,
        PRIMARY KEY (hub, status, bucket)
    )
    """,
    *by_device(
        "twins",
        f"""
        {_MODULE},
        version bigint NOT NULL DEFAULT 2,
        revision bigint NOT NULL DEFAULT 1,
        tags jsonb NOT NULL DEFAULT '{{}}',
        desired jsonb NOT NULL DEFAULT '{{}}',
        desired_metadata jsonb NOT NULL DEFAULT {_NEVER},
        desired_version bigint NOT NULL DEFAULT 1,
        reported jsonb NOT NULL DEFAULT '{{}}',
        reported_metadata jsonb NOT NULL DEFAULT {_NEVER},
        reported_version bigint NOT NULL DEFAULT 1,
        model_id text COLLATE "C"
        """,
        "module_id",
    ),
    *by_device("subscriptions", f"{_MODULE}, filters text NOT NULL", "module_id"),
    *by_device(
        "uploads",
        """
        correlation_id text COLLATE "C" NOT NULL,
        blob_name text NOT NULL,
        expires_at double precision NOT NULL
        """,
        "correlation_id",
    ),
    "CREATE INDEX uploads_by_end ON uploads (hub, expires_at)",
    # Numbers of one device grow in the order of its changes, for its row is locked while they are given.
    "CREATE SEQUENCE outbox_numbers",
    *by_device("outbox", "number bigint NOT NULL DEFAULT nextval('outbox_numbers'), record bytea NOT NULL", "number"),
    "CREATE INDEX outbox_by_number ON outbox (hub, number)",
)


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
