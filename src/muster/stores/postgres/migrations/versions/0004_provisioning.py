"""Enrollments, registrations and the timeline of provisioning services."""

from __future__ import annotations

from alembic import op

from muster.stores.postgres.partitions import spread

revision, down_revision = "0004", "0003"

STEPS: tuple[str, ...] = (
    *spread(
        "enrollments",
        """
        scope text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL,
        attestation text NOT NULL,
        secrets text NOT NULL,
        record text NOT NULL,
        version bigint NOT NULL,
        created double precision NOT NULL,
        updated double precision NOT NULL,
        PRIMARY KEY (scope, kind, id)
        """,
        "scope, kind, id",
    ),
    *spread(
        "registrations",
        """
        scope text COLLATE "C" NOT NULL,
        registration_id text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        enrollment_id text COLLATE "C" NOT NULL,
        record text NOT NULL,
        intent text,
        version bigint NOT NULL,
        created double precision NOT NULL,
        updated double precision NOT NULL,
        PRIMARY KEY (scope, registration_id)
        """,
        "scope, registration_id",
    ),
    "CREATE INDEX registrations_by_enrollment ON registrations (scope, kind, enrollment_id, registration_id)",
    "CREATE INDEX registrations_unfinished ON registrations (scope, registration_id) WHERE intent IS NOT NULL",
    """
    CREATE TABLE registration_timeline (
        scope text COLLATE "C" NOT NULL,
        number bigint NOT NULL,
        at double precision NOT NULL,
        registration_id text COLLATE "C" NOT NULL,
        report text NOT NULL,
        PRIMARY KEY (scope, number)
    )
    """,
    "CREATE INDEX registration_timeline_by_id ON registration_timeline (scope, registration_id, number)",
)


def upgrade() -> None:
    """Make the tables."""
    for step in STEPS:
        op.execute(step)
