"""Enrollments and registrations in PostgreSQL, by the id scope of their provisioning service."""

from __future__ import annotations

from collections.abc import Sequence

from muster.provisioning.contract import (
    EnrollmentChange,
    EnrollmentNote,
    EnrollmentStanding,
    RegistrationChange,
    RegistrationNote,
)
from muster.provisioning.model import Enrollment, EnrollmentKey, EnrollmentKind, Registration
from muster.stores.postgres.changes import alone, changed
from muster.stores.postgres.database import Database, Step
from muster.stores.provisioning_rows import (
    ENROLLMENT_COLUMNS,
    REGISTRATION_COLUMNS,
    enrollment_of,
    enrollment_row,
    registration_of,
    registration_row,
)

# Only the fixed lists of columns go into these texts; every value is bound.
_ENROLLMENT = f"SELECT {ENROLLMENT_COLUMNS} FROM enrollments WHERE scope = $1 AND kind = $2 AND id = $3"  # noqa: S608
_LOCK_ENROLLMENT = f"{_ENROLLMENT} FOR UPDATE"
_ENROLLMENTS = (
    f"SELECT {ENROLLMENT_COLUMNS} FROM enrollments "  # noqa: S608
    "WHERE scope = $1 AND kind = $2 AND id > $3 ORDER BY id LIMIT $4"
)
_OTHERS = (
    f"SELECT {ENROLLMENT_COLUMNS} FROM enrollments "  # noqa: S608
    "WHERE scope = $1 AND kind = $2 AND id <> $3 ORDER BY id"
)
_MAKE_ENROLLMENT = (
    f"INSERT INTO enrollments (scope, {ENROLLMENT_COLUMNS}) "  # noqa: S608
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING"
)
_CHANGE_ENROLLMENT = (
    "UPDATE enrollments SET attestation = $4, secrets = $5, record = $6, version = $7, created = $8, updated = $9 "
    "WHERE scope = $1 AND kind = $2 AND id = $3"
)
_DELETE_ENROLLMENT = "DELETE FROM enrollments WHERE scope = $1 AND kind = $2 AND id = $3"
_DELETE_ITS_REGISTRATIONS = (
    "DELETE FROM registrations WHERE scope = $1 AND kind = $2 AND enrollment_id = $3 AND intent IS NULL"
)
_LOCK_ITS_REGISTRATIONS = (
    "SELECT 1 FROM registrations WHERE scope = $1 AND kind = $2 AND enrollment_id = $3 "
    "ORDER BY registration_id FOR UPDATE"
)
_REGISTRATION = f"SELECT {REGISTRATION_COLUMNS} FROM registrations WHERE scope = $1 AND registration_id = $2"  # noqa: S608
_LOCK_REGISTRATION = f"{_REGISTRATION} FOR UPDATE"
_REGISTRATIONS = (
    f"SELECT {REGISTRATION_COLUMNS} FROM registrations WHERE scope = $1 AND kind = $2 "  # noqa: S608
    "AND enrollment_id = $3 AND registration_id > $4 ORDER BY registration_id LIMIT $5"
)
_UNFINISHED = f"SELECT {REGISTRATION_COLUMNS} FROM registrations WHERE scope = $1 AND intent IS NOT NULL"  # noqa: S608
_MAKE_REGISTRATION = (
    f"INSERT INTO registrations (scope, {REGISTRATION_COLUMNS}) "  # noqa: S608
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING"
)
_CHANGE_REGISTRATION = (
    "UPDATE registrations SET kind = $3, enrollment_id = $4, record = $5, intent = $6, version = $7, created = $8, "
    "updated = $9 WHERE scope = $1 AND registration_id = $2"
)
_DELETE_REGISTRATION = "DELETE FROM registrations WHERE scope = $1 AND registration_id = $2"


class PostgresProvisioningStore:
    """``provisioning.contract.ProvisioningStore`` on a database of ``migrations``.

    Groups of a scope are changed one after the other, since each change looks at all of them. ``unfinished`` tells also
    of what other nodes are working on.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enrollment(self, scope: str, key: EnrollmentKey) -> Enrollment | None:
        """See ``ProvisioningStore``."""
        row = await self._database.row(_ENROLLMENT, scope, key.kind.value, key.id)
        return None if row is None else enrollment_of(row)

    async def enrollments(self, scope: str, kind: EnrollmentKind, after: str, limit: int) -> Sequence[Enrollment]:
        """See ``ProvisioningStore``."""
        return [enrollment_of(row) for row in await self._database.fetch(_ENROLLMENTS, scope, kind.value, after, limit)]

    async def edit_enrollment(
        self, scope: str, key: EnrollmentKey, change: EnrollmentChange, note: EnrollmentNote | None = None
    ) -> Enrollment | None:
        """See ``ProvisioningStore``."""
        name = scope, key.kind.value, key.id
        is_group = key.kind is EnrollmentKind.GROUP

        async def work(step: Step) -> Enrollment | None:
            groups: list[Enrollment] = []
            if is_group:
                await alone(step, f"groups of {scope}")
                groups = [enrollment_of(row) for row in await step.fetch(_OTHERS, *name)]

            async def read() -> Enrollment | None:
                row = await step.row(_LOCK_ENROLLMENT, *name)
                return None if row is None else enrollment_of(row)

            async def write(before: Enrollment | None, after: Enrollment | None) -> bool:
                if after is None:
                    await step.write(_DELETE_ENROLLMENT, *name)
                    await step.fetch(_LOCK_ITS_REGISTRATIONS, *name)  # in the order in which others lock them
                    await step.write(_DELETE_ITS_REGISTRATIONS, *name)
                    return True
                query = _MAKE_ENROLLMENT if before is None else _CHANGE_ENROLLMENT
                return await step.write(query, scope, *enrollment_row(after)) > 0

            before, after = await changed(read, lambda one: change(EnrollmentStanding(one, groups)), write)
            if note is not None:
                step.record((note(before, after),))
            return after

        # What deletes the registrations of a group locks many rows: it comes last in a transaction.
        return await self._database.submit(f"~groups/{scope}" if is_group else f"{scope}/{key.id}", work)

    async def registration(self, scope: str, registration_id: str) -> Registration | None:
        """See ``ProvisioningStore``."""
        row = await self._database.row(_REGISTRATION, scope, registration_id)
        return None if row is None else registration_of(row)

    async def registrations(self, scope: str, key: EnrollmentKey, after: str, limit: int) -> Sequence[Registration]:
        """See ``ProvisioningStore``."""
        values = scope, key.kind.value, key.id, after, limit
        return [registration_of(row) for row in await self._database.fetch(_REGISTRATIONS, *values)]

    async def edit_registration(
        self, scope: str, registration_id: str, change: RegistrationChange, note: RegistrationNote | None = None
    ) -> Registration | None:
        """See ``ProvisioningStore``."""

        async def work(step: Step) -> Registration | None:
            async def read() -> Registration | None:
                row = await step.row(_LOCK_REGISTRATION, scope, registration_id)
                return None if row is None else registration_of(row)

            async def write(before: Registration | None, after: Registration | None) -> bool:
                if after is None:
                    await step.write(_DELETE_REGISTRATION, scope, registration_id)
                    return True
                query = _MAKE_REGISTRATION if before is None else _CHANGE_REGISTRATION
                return await step.write(query, scope, *registration_row(after)) > 0

            before, after = await changed(read, change, write)
            if note is not None:
                step.record((note(before, after),))
            return after

        return await self._database.submit(f"{scope}/{registration_id}", work)

    async def unfinished(self, scope: str) -> Sequence[Registration]:
        """See ``ProvisioningStore``."""
        return [registration_of(row) for row in await self._database.fetch(_UNFINISHED, scope)]
