"""Certificate authorities and their revocation lists in PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from muster.core.audit import Draft
from muster.identity.authority_contract import (
    Authority,
    AuthorityChange,
    AuthorityNote,
    AuthorityStanding,
    KeptList,
    RevocationRules,
)
from muster.stores.postgres.changes import alone
from muster.stores.postgres.database import Database, Step

_COLUMNS = "name, certificate, verified, created, updated, version, code, fail_closed, list_url, responder_url, refresh"
_FIELDS = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS.split(", "))
# Only the fixed list of columns goes into these texts; every value is bound.
_ALL = f"SELECT {_COLUMNS} FROM authorities WHERE hub = $1 ORDER BY folded"  # noqa: S608
_GET = f"SELECT {_COLUMNS} FROM authorities WHERE hub = $1 AND folded = $2 FOR UPDATE"  # noqa: S608
_OTHERS = "SELECT count(*) FROM authorities WHERE hub = $1 AND folded <> $2"
_PUT = (
    f"INSERT INTO authorities (hub, folded, {_COLUMNS}) "  # noqa: S608
    f"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT (hub, folded) DO UPDATE SET {_FIELDS}"
)
_DELETE = "DELETE FROM authorities WHERE hub = $1 AND folded = $2"
_LISTS = (
    "SELECT name, issuer, der FROM revocation_lists JOIN authorities USING (hub, folded) WHERE hub = $1 "
    "ORDER BY folded, issuer"
)
_PUT_LIST = (
    "INSERT INTO revocation_lists (hub, folded, issuer, der) "
    "SELECT hub, folded, $3, $4 FROM authorities WHERE hub = $1 AND folded = $2 FOR KEY SHARE "
    "ON CONFLICT (hub, folded, issuer) DO UPDATE SET der = excluded.der"
)
_DELETE_LISTS = "DELETE FROM revocation_lists WHERE hub = $1 AND folded = $2"


class PostgresAuthorityStore:
    """``identity.authority_contract.AuthorityStore`` on a database of ``migrations``; names differ in more than case.

    Authorities of a hub are changed one after the other, so that they can be counted.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def authorities(self, hub: str) -> Sequence[Authority]:
        """See ``AuthorityStore``."""
        return [_authority(row) for row in await self._database.fetch(_ALL, hub)]

    async def edit_authority(
        self, hub: str, name: str, change: AuthorityChange, note: AuthorityNote | None = None
    ) -> Authority | None:
        """See ``AuthorityStore``."""
        folded = name.lower()

        async def work(step: Step) -> Authority | None:
            await alone(step, f"authorities of {hub}")
            row = await step.row(_GET, hub, folded)
            present = None if row is None else _authority(row)
            wanted = change(AuthorityStanding(present, await step.value(_OTHERS, hub, folded)))
            if wanted is not None:
                await step.write(_PUT, hub, folded, *_row(wanted))
            else:
                await step.write(_DELETE, hub, folded)
                await step.write(_DELETE_LISTS, hub, folded)
            if note is not None:
                step.record((note(present, wanted),))
            return wanted

        return await self._database.submit(_place(hub), work)

    async def put_list(self, hub: str, kept: KeptList, draft: Draft | None = None) -> bool:
        """See ``AuthorityStore``."""

        async def work(step: Step) -> bool:
            done = await step.write(_PUT_LIST, hub, kept.authority.lower(), kept.issuer, kept.der) > 0
            if done and draft is not None:
                step.record((draft,))
            return done

        return await self._database.submit(_place(hub), work)

    async def lists(self, hub: str) -> Sequence[KeptList]:
        """See ``AuthorityStore``."""
        return [KeptList(*row) for row in await self._database.fetch(_LISTS, hub)]


def _place(hub: str) -> str:
    return f"{hub}//authorities"


def _row(one: Authority) -> tuple[Any, ...]:
    rules = one.rules
    return (
        one.name, one.certificate, one.verified, one.created, one.updated, one.version, one.code,
        rules.fail_closed, rules.list_url, rules.responder_url, rules.refresh,
    )  # fmt: skip


def _authority(row: Any) -> Authority:
    name, certificate, verified, created, updated, version, code, *rules = row
    return Authority(
        name=name, certificate=certificate, verified=verified, created=created, updated=updated, version=version,
        code=code, rules=RevocationRules(*rules),
    )  # fmt: skip
