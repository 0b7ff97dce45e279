"""Roles and grants of the operator in ``hub.db``."""

from __future__ import annotations

import json

import apsw

from muster.access.custom_roles import CustomRole, kept_role
from muster.access.grants import Grant, KeptRoles, PrincipalKind
from muster.core.audit import Draft
from muster.stores.sqlite.audit import keep
from muster.stores.sqlite.database import Writer, told_as_refusal

_ROLES = "SELECT name, patterns FROM roles ORDER BY name"
_PUT_ROLE = "INSERT OR REPLACE INTO roles (name, patterns) VALUES (?, ?)"
_DELETE_ROLE = "DELETE FROM roles WHERE name = ?"
_COLUMNS = "role, kind, principal, issuer, hub, devices"
# Only the fixed list of columns goes into these texts; every value is bound.
_GRANTS = f"SELECT {_COLUMNS} FROM grants ORDER BY {_COLUMNS}"  # noqa: S608
_PUT = f"INSERT OR IGNORE INTO grants ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608
_DELETE = f"DELETE FROM grants WHERE ({_COLUMNS}) = (?, ?, ?, ?, ?, ?)"  # noqa: S608


class SqliteGrantStore:
    """``access.grants.GrantStore`` on a ``hub.db``.

    ``reader`` is used by the loop's thread only. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection) -> None:
        self._writer = writer
        self._reader = reader

    async def load(self) -> KeptRoles:
        with told_as_refusal(self._writer.path):
            roles = [kept_role(name, json.loads(patterns)) for name, patterns in self._reader.execute(_ROLES)]
            return KeptRoles(roles, [_grant(row) for row in self._reader.execute(_GRANTS)])

    async def put_role(self, role: CustomRole, draft: Draft | None = None) -> None:
        await self._write(_PUT_ROLE, (role.name, json.dumps(role.patterns)), draft)

    async def remove_role(self, name: str, draft: Draft | None = None) -> None:
        await self._write(_DELETE_ROLE, (name,), draft)

    async def put_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        await self._write(_PUT, _row(grant), draft)

    async def remove_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        await self._write(_DELETE, _row(grant), draft)

    async def _write(self, statement: str, values: tuple[str, ...], draft: Draft | None) -> None:
        def write(connection: apsw.Connection) -> None:
            connection.execute(statement, values)
            if draft is not None:
                keep(self._writer, connection, (draft,))

        await self._writer.submit(write)


def _row(one: Grant) -> tuple[str, ...]:
    return one.role, one.kind.value, one.principal, one.issuer, one.hub, one.devices


def _grant(row: tuple[str, ...]) -> Grant:
    role, kind, principal, issuer, hub, devices = row
    return Grant(
        role=role, kind=PrincipalKind(kind), principal=principal, issuer=issuer, hub=hub, devices=devices
    )  # fmt: skip
