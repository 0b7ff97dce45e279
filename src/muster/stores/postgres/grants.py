"""Roles and grants of the operator in PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterable

from muster.access.custom_roles import CustomRole, kept_role
from muster.access.grants import Grant, KeptRoles, PrincipalKind
from muster.core.audit import Draft
from muster.stores.postgres.database import Database, Step

_PLACE = "/grants"
_ROLES = "SELECT name, patterns FROM roles ORDER BY name"
_PUT_ROLE = (
    "INSERT INTO roles (name, patterns) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET patterns = excluded.patterns"
)
_DELETE_ROLE = "DELETE FROM roles WHERE name = $1"
_COLUMNS = "role, kind, principal, issuer, hub, devices"
# Only the fixed list of columns goes into these texts; every value is bound.
_GRANTS = f"SELECT {_COLUMNS} FROM grants ORDER BY {_COLUMNS}"  # noqa: S608
_PUT = f"INSERT INTO grants ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING"  # noqa: S608
_DELETE = f"DELETE FROM grants WHERE ({_COLUMNS}) = ($1, $2, $3, $4, $5, $6)"  # noqa: S608


class PostgresGrantStore:
    """``access.grants.GrantStore`` on a database of ``migrations``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> KeptRoles:
        """See ``GrantStore``."""
        roles = [kept_role(name, json.loads(patterns)) for name, patterns in await self._database.fetch(_ROLES)]
        return KeptRoles(roles, [_grant(row) for row in await self._database.fetch(_GRANTS)])

    async def put_role(self, role: CustomRole, draft: Draft | None = None) -> None:
        """See ``GrantStore``."""
        await self._write(_PUT_ROLE, (role.name, json.dumps(role.patterns)), draft)

    async def remove_role(self, name: str, draft: Draft | None = None) -> None:
        """See ``GrantStore``."""
        await self._write(_DELETE_ROLE, (name,), draft)

    async def put_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        """See ``GrantStore``."""
        await self._write(_PUT, _row(grant), draft)

    async def remove_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        """See ``GrantStore``."""
        await self._write(_DELETE, _row(grant), draft)

    async def _write(self, statement: str, values: tuple[str, ...], draft: Draft | None) -> None:
        async def work(step: Step) -> None:
            await step.write(statement, *values)
            if draft is not None:
                step.record((draft,))

        await self._database.submit(_PLACE, work)


def _row(one: Grant) -> tuple[str, ...]:
    return one.role, one.kind.value, one.principal, one.issuer, one.hub, one.devices


def _grant(row: Iterable[str]) -> Grant:
    role, kind, principal, issuer, hub, devices = row
    return Grant(role=role, kind=PrincipalKind(kind), principal=principal, issuer=issuer, hub=hub, devices=devices)
