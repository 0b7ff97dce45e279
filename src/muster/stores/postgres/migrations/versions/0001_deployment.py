"""What the nodes of a deployment share: settings, roles and grants, the audit log."""

from __future__ import annotations

from alembic import op

revision, down_revision = "0001", None

STEPS = (
    'CREATE TABLE settings (name text COLLATE "C" PRIMARY KEY, value bytea NOT NULL)',
    'CREATE TABLE roles (name text COLLATE "C" PRIMARY KEY, patterns text NOT NULL)',
    """
    CREATE TABLE grants (
        role text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        principal text COLLATE "C" NOT NULL,
        issuer text COLLATE "C" NOT NULL,
        hub text COLLATE "C" NOT NULL,
        devices text COLLATE "C" NOT NULL,
        PRIMARY KEY (role, kind, principal, issuer, hub, devices)
    )
    """,
    "CREATE TABLE audit (number bigint PRIMARY KEY, line bytea NOT NULL)",
    """
    CREATE FUNCTION audit_is_only_appended_to() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the audit log is only appended to'; END $$
    """,
    """
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
        FOR EACH STATEMENT EXECUTE FUNCTION audit_is_only_appended_to()
    """,
    "CREATE TABLE audit_pending (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "
    "scope text NOT NULL, draft text NOT NULL)",
    "CREATE TABLE audit_written (number bigint NOT NULL)",
    "INSERT INTO audit_written VALUES (0)",
)


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
