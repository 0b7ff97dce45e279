"""The layout of ``hub.db``, where a hub keeps all but its telemetry."""

from __future__ import annotations

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE identities (
        hub TEXT NOT NULL,
        device_id TEXT NOT NULL,
        module_id TEXT NOT NULL,
        generation_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        authentication TEXT NOT NULL,
        primary_key TEXT,
        secondary_key TEXT,
        primary_thumbprint TEXT,
        secondary_thumbprint TEXT,
        status TEXT NOT NULL,
        status_reason TEXT,
        status_updated REAL NOT NULL,
        iot_edge INTEGER NOT NULL,
        device_scope TEXT,
        parent_scopes TEXT,
        managed_by TEXT,
        PRIMARY KEY (hub, device_id, module_id)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE identity_counts (
        hub TEXT NOT NULL,
        status TEXT NOT NULL,
        devices INTEGER NOT NULL,
        PRIMARY KEY (hub, status)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE settings (
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE TABLE refusals (
        number INTEGER PRIMARY KEY,
        identifier TEXT NOT NULL UNIQUE,
        tracking_id TEXT NOT NULL,
        at REAL NOT NULL,
        principal TEXT NOT NULL,
        report TEXT NOT NULL
    ) STRICT;
    CREATE INDEX refusals_by_principal ON refusals (principal, number)
    """,
    """
    CREATE TABLE twins (
        hub TEXT NOT NULL,
        device_id TEXT NOT NULL,
        module_id TEXT NOT NULL,
        version INTEGER NOT NULL DEFAULT 2,
        revision INTEGER NOT NULL DEFAULT 1,
        tags TEXT NOT NULL DEFAULT '{}',
        desired TEXT NOT NULL DEFAULT '{}',
        desired_metadata TEXT NOT NULL DEFAULT '{"$lastUpdated":"0001-01-01T00:00:00Z"}',
        desired_version INTEGER NOT NULL DEFAULT 1,
        reported TEXT NOT NULL DEFAULT '{}',
        reported_metadata TEXT NOT NULL DEFAULT '{"$lastUpdated":"0001-01-01T00:00:00Z"}',
        reported_version INTEGER NOT NULL DEFAULT 1,
        PRIMARY KEY (hub, device_id, module_id)
    ) WITHOUT ROWID, STRICT;
    INSERT INTO twins (hub, device_id, module_id) SELECT hub, device_id, module_id FROM identities
    """,
    """
    CREATE TABLE authorities (
        hub TEXT NOT NULL,
        name TEXT NOT NULL COLLATE NOCASE,
        certificate BLOB NOT NULL,
        verified INTEGER NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        version INTEGER NOT NULL,
        code TEXT NOT NULL,
        fail_closed INTEGER NOT NULL,
        list_url TEXT NOT NULL,
        responder_url TEXT NOT NULL,
        PRIMARY KEY (hub, name)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE revocation_lists (
        hub TEXT NOT NULL,
        authority TEXT NOT NULL COLLATE NOCASE,
        issuer BLOB NOT NULL,
        der BLOB NOT NULL,
        PRIMARY KEY (hub, authority, issuer)
    ) STRICT
    """,
)
"""Steps for ``database.migrate``. Never edit one that was released; append another."""
