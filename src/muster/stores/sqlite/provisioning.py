"""Enrollments and registrations in ``hub.db``, by the id scope of their provisioning service."""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from muster.provisioning.contract import (
    EnrollmentChange,
    EnrollmentNote,
    EnrollmentStanding,
    RegistrationChange,
    RegistrationNote,
)
from muster.provisioning.model import Enrollment, EnrollmentKey, EnrollmentKind, Registration
from muster.stores.provisioning_rows import (
    ENROLLMENT_COLUMNS,
    REGISTRATION_COLUMNS,
    enrollment_of,
    enrollment_row,
    registration_of,
    registration_row,
)
from muster.stores.sqlite.audit import keep
from muster.stores.sqlite.database import Writer, told_as_refusal

# Only the fixed lists of columns go into these texts; every value is bound.
_ENROLLMENT = f"SELECT {ENROLLMENT_COLUMNS} FROM enrollments WHERE scope = ? AND kind = ? AND id = ?"  # noqa: S608
_ENROLLMENTS = (
    f"SELECT {ENROLLMENT_COLUMNS} FROM enrollments "  # noqa: S608
    "WHERE scope = ? AND kind = ? AND id > ? ORDER BY id LIMIT ?"
)
_OTHERS = f"SELECT {ENROLLMENT_COLUMNS} FROM enrollments WHERE scope = ? AND kind = ? AND id <> ?"  # noqa: S608
_PUT_ENROLLMENT = f"INSERT OR REPLACE INTO enrollments (scope, {ENROLLMENT_COLUMNS}) VALUES (?{', ?' * 8})"  # noqa: S608
_DELETE_ENROLLMENT = "DELETE FROM enrollments WHERE scope = ? AND kind = ? AND id = ?"
_DELETE_ITS_REGISTRATIONS = (
    "DELETE FROM registrations WHERE scope = ? AND kind = ? AND enrollment_id = ? AND intent IS NULL"
)
_REGISTRATION = f"SELECT {REGISTRATION_COLUMNS} FROM registrations WHERE scope = ? AND registration_id = ?"  # noqa: S608
_REGISTRATIONS = (
    f"SELECT {REGISTRATION_COLUMNS} FROM registrations WHERE scope = ? AND kind = ? "  # noqa: S608
    "AND enrollment_id = ? AND registration_id > ? ORDER BY registration_id LIMIT ?"
)
_UNFINISHED = f"SELECT {REGISTRATION_COLUMNS} FROM registrations WHERE scope = ? AND intent IS NOT NULL"  # noqa: S608
_PUT_REGISTRATION = f"INSERT OR REPLACE INTO registrations (scope, {REGISTRATION_COLUMNS}) VALUES (?{', ?' * 8})"  # noqa: S608
_DELETE_REGISTRATION = "DELETE FROM registrations WHERE scope = ? AND registration_id = ?"


class SqliteProvisioningStore:
    """``provisioning.contract.ProvisioningStore`` on a ``hub.db``.

    ``reader`` is used by the loop's thread only. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection) -> None:
        self._writer = writer
        self._reader = reader

    async def enrollment(self, scope: str, key: EnrollmentKey) -> Enrollment | None:
        with told_as_refusal(self._writer.path):
            return _enrollment(self._reader, scope, key)

    async def enrollments(self, scope: str, kind: EnrollmentKind, after: str, limit: int) -> Sequence[Enrollment]:
        with told_as_refusal(self._writer.path):
            return [enrollment_of(row) for row in self._reader.execute(_ENROLLMENTS, (scope, kind.value, after, limit))]

    async def edit_enrollment(
        self, scope: str, key: EnrollmentKey, change: EnrollmentChange, note: EnrollmentNote | None = None
    ) -> Enrollment | None:
        def write(connection: apsw.Connection) -> Enrollment | None:
            groups: list[Enrollment] = []
            if key.kind is EnrollmentKind.GROUP:
                groups = [enrollment_of(row) for row in connection.execute(_OTHERS, (scope, key.kind.value, key.id))]
            present = _enrollment(connection, scope, key)
            wanted = change(EnrollmentStanding(present, groups))
            if wanted is not None:
                connection.execute(_PUT_ENROLLMENT, (scope, *enrollment_row(wanted)))
            else:
                connection.execute(_DELETE_ENROLLMENT, (scope, key.kind.value, key.id))
                connection.execute(_DELETE_ITS_REGISTRATIONS, (scope, key.kind.value, key.id))
            if note is not None:
                keep(self._writer, connection, (note(present, wanted),))
            return wanted

        return await self._writer.submit(write)

    async def registration(self, scope: str, registration_id: str) -> Registration | None:
        with told_as_refusal(self._writer.path):
            return _registration(self._reader, scope, registration_id)

    async def registrations(self, scope: str, key: EnrollmentKey, after: str, limit: int) -> Sequence[Registration]:
        values = (scope, key.kind.value, key.id, after, limit)
        with told_as_refusal(self._writer.path):
            return [registration_of(row) for row in self._reader.execute(_REGISTRATIONS, values)]

    async def edit_registration(
        self, scope: str, registration_id: str, change: RegistrationChange, note: RegistrationNote | None = None
    ) -> Registration | None:
        def write(connection: apsw.Connection) -> Registration | None:
            present = _registration(connection, scope, registration_id)
            wanted = change(present)
            if wanted is not None:
                connection.execute(_PUT_REGISTRATION, (scope, *registration_row(wanted)))
            else:
                connection.execute(_DELETE_REGISTRATION, (scope, registration_id))
            if note is not None:
                keep(self._writer, connection, (note(present, wanted),))
            return wanted

        return await self._writer.submit(write)

    async def unfinished(self, scope: str) -> Sequence[Registration]:
        with told_as_refusal(self._writer.path):
            return [registration_of(row) for row in self._reader.execute(_UNFINISHED, (scope,))]


def _enrollment(connection: apsw.Connection, scope: str, key: EnrollmentKey) -> Enrollment | None:
    row = connection.execute(_ENROLLMENT, (scope, key.kind.value, key.id)).fetchone()
    return None if row is None else enrollment_of(row)


def _registration(connection: apsw.Connection, scope: str, registration_id: str) -> Registration | None:
    row = connection.execute(_REGISTRATION, (scope, registration_id)).fetchone()
    return None if row is None else registration_of(row)
