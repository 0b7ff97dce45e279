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
    CREATE TABLE queues (
        hub TEXT NOT NULL,
        queue TEXT NOT NULL,
        next INTEGER NOT NULL,
        depth INTEGER NOT NULL,
        PRIMARY KEY (hub, queue)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE queue_messages (
        id INTEGER PRIMARY KEY,
        hub TEXT NOT NULL,
        queue TEXT NOT NULL,
        number INTEGER NOT NULL,
        enqueued REAL NOT NULL,
        expires REAL NOT NULL,
        due REAL NOT NULL,
        deliveries INTEGER NOT NULL DEFAULT 0,
        token BLOB,
        locked_until REAL,
        holder TEXT,
        head TEXT NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX queue_messages_by_number ON queue_messages (hub, queue, number);
    CREATE INDEX queue_messages_by_due ON queue_messages (hub, due);
    CREATE UNIQUE INDEX queue_messages_by_token ON queue_messages (hub, token) WHERE token IS NOT NULL;
    CREATE INDEX queue_messages_by_holder ON queue_messages (hub, queue, holder) WHERE holder IS NOT NULL;
    CREATE TABLE queue_records (
        id INTEGER PRIMARY KEY,
        hub TEXT NOT NULL,
        queue TEXT NOT NULL,
        made REAL NOT NULL,
        text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX queue_records_by_queue ON queue_records (hub, queue);
    CREATE INDEX queue_records_by_hub ON queue_records (hub)
    """,
    """
    ALTER TABLE twins ADD COLUMN model_id TEXT
    """,
    """
    CREATE TABLE outbox (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id TEXT NOT NULL,
        record BLOB NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE uploads (
        hub TEXT NOT NULL,
        device_id TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        blob_name TEXT NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (hub, device_id, correlation_id)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX uploads_by_end ON uploads (hub, expires_at);
    CREATE TABLE blobs (
        name TEXT PRIMARY KEY,
        etag TEXT NOT NULL,
        size INTEGER NOT NULL,
        created REAL NOT NULL,
        modified REAL NOT NULL,
        headers TEXT NOT NULL,
        metadata TEXT NOT NULL
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE blob_blocks (
        name TEXT NOT NULL,
        position INTEGER NOT NULL,
        block_id TEXT NOT NULL,
        file TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (name, position)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE blob_staged (
        name TEXT NOT NULL,
        block_id TEXT NOT NULL,
        file TEXT NOT NULL,
        size INTEGER NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (name, block_id)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX blob_staged_by_end ON blob_staged (expires_at)
    """,
    """
    CREATE INDEX identities_disabled ON identities (hub, device_id, module_id) WHERE status = 'disabled';
    CREATE INDEX identities_edge ON identities (hub, device_id, module_id) WHERE iot_edge = 1;
    CREATE INDEX identities_by_scope ON identities (hub, device_scope, device_id, module_id)
        WHERE device_scope IS NOT NULL;
    CREATE INDEX identities_by_module ON identities (hub, module_id, device_id) WHERE module_id > ''
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
    """
    ALTER TABLE authorities ADD COLUMN refresh INTEGER NOT NULL DEFAULT 3
    """,
    """
    ALTER TABLE outbox ADD COLUMN hub TEXT NOT NULL DEFAULT '';
    UPDATE outbox SET hub = coalesce((SELECT CAST(value AS TEXT) FROM settings WHERE name = 'hub-name'), '');
    CREATE INDEX outbox_by_hub ON outbox (hub, number);
    ALTER TABLE refusals RENAME TO refusals_of_one;
    CREATE TABLE refusals (
        id INTEGER PRIMARY KEY,
        hub TEXT NOT NULL,
        number INTEGER NOT NULL,
        identifier TEXT NOT NULL,
        tracking_id TEXT NOT NULL,
        at REAL NOT NULL,
        principal TEXT NOT NULL,
        report TEXT NOT NULL,
        UNIQUE (hub, number),
        UNIQUE (hub, identifier)
    ) STRICT;
    INSERT INTO refusals (hub, number, identifier, tracking_id, at, principal, report)
        SELECT coalesce((SELECT CAST(value AS TEXT) FROM settings WHERE name = 'hub-name'), ''),
            number, identifier, tracking_id, at, principal, report FROM refusals_of_one ORDER BY number;
    DROP TABLE refusals_of_one;
    CREATE INDEX refusals_by_principal ON refusals (hub, principal, number);
    ALTER TABLE blobs RENAME TO blobs_of_one;
    ALTER TABLE blob_blocks RENAME TO blob_blocks_of_one;
    ALTER TABLE blob_staged RENAME TO blob_staged_of_one;
    CREATE TABLE blobs (
        hub TEXT NOT NULL,
        name TEXT NOT NULL,
        etag TEXT NOT NULL,
        size INTEGER NOT NULL,
        created REAL NOT NULL,
        modified REAL NOT NULL,
        headers TEXT NOT NULL,
        metadata TEXT NOT NULL,
        PRIMARY KEY (hub, name)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE blob_blocks (
        hub TEXT NOT NULL,
        name TEXT NOT NULL,
        position INTEGER NOT NULL,
        block_id TEXT NOT NULL,
        file TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (hub, name, position)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE blob_staged (
        hub TEXT NOT NULL,
        name TEXT NOT NULL,
        block_id TEXT NOT NULL,
        file TEXT NOT NULL,
        size INTEGER NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (hub, name, block_id)
    ) WITHOUT ROWID, STRICT;
    INSERT INTO blobs SELECT coalesce((SELECT CAST(value AS TEXT) FROM settings WHERE name = 'hub-name'), ''), *
        FROM blobs_of_one;
    INSERT INTO blob_blocks SELECT coalesce((SELECT CAST(value AS TEXT) FROM settings WHERE name = 'hub-name'), ''), *
        FROM blob_blocks_of_one;
    INSERT INTO blob_staged SELECT coalesce((SELECT CAST(value AS TEXT) FROM settings WHERE name = 'hub-name'), ''), *
        FROM blob_staged_of_one;
    DROP TABLE blobs_of_one;
    DROP TABLE blob_blocks_of_one;
    DROP TABLE blob_staged_of_one;
    CREATE INDEX blob_staged_by_end ON blob_staged (hub, expires_at)
    """,
    """
    CREATE TABLE enrollments (
        scope TEXT NOT NULL,
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        attestation TEXT NOT NULL,
        secrets TEXT NOT NULL,
        record TEXT NOT NULL,
        version INTEGER NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        PRIMARY KEY (scope, kind, id)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE registrations (
        scope TEXT NOT NULL,
        registration_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        enrollment_id TEXT NOT NULL,
        record TEXT NOT NULL,
        intent TEXT,
        version INTEGER NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        PRIMARY KEY (scope, registration_id)
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX registrations_by_enrollment ON registrations (scope, kind, enrollment_id, registration_id);
    CREATE INDEX registrations_unfinished ON registrations (scope, registration_id) WHERE intent IS NOT NULL;
    CREATE TABLE registration_timeline (
        number INTEGER PRIMARY KEY,
        scope TEXT NOT NULL,
        at REAL NOT NULL,
        registration_id TEXT NOT NULL,
        report TEXT NOT NULL
    ) STRICT;
    CREATE INDEX registration_timeline_by_id ON registration_timeline (scope, registration_id, number)
    """,
    """
    CREATE TABLE subscriptions (
        hub TEXT NOT NULL,
        device_id TEXT NOT NULL,
        module_id TEXT NOT NULL,
        filters TEXT NOT NULL,
        PRIMARY KEY (hub, device_id, module_id)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE TABLE roles (
        name TEXT PRIMARY KEY,
        patterns TEXT NOT NULL
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE grants (
        role TEXT NOT NULL,
        kind TEXT NOT NULL,
        principal TEXT NOT NULL,
        issuer TEXT NOT NULL,
        hub TEXT NOT NULL,
        devices TEXT NOT NULL,
        PRIMARY KEY (role, kind, principal, issuer, hub, devices)
    ) WITHOUT ROWID, STRICT
    """,
    """
    CREATE TABLE audit (number INTEGER PRIMARY KEY AUTOINCREMENT, line TEXT NOT NULL) STRICT;
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is only appended to'); END;
    CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is only appended to'); END
    """,
)
"""Steps for ``database.migrate``. Never edit one that was released; append another."""
