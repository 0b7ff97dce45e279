"""Certificate authorities and their revocation lists in ``hub.db``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from muster.core.audit import Draft
from muster.identity.authority_contract import (
    Authority,
    AuthorityChange,
    AuthorityNote,
    AuthorityStanding,
    KeptList,
    RevocationRules,
)
from muster.stores.sqlite.audit import keep
from muster.stores.sqlite.database import Writer, told_as_refusal

_COLUMNS = "name, certificate, verified, created, updated, version, code, fail_closed, list_url, responder_url, refresh"
# Only the fixed list of columns goes into these texts; every value is bound.
_ALL = f"SELECT {_COLUMNS} FROM authorities WHERE hub = ? ORDER BY name"  # noqa: S608
_GET = f"SELECT {_COLUMNS} FROM authorities WHERE hub = ? AND name = ?"  # noqa: S608
_OTHERS = "SELECT count(*) FROM authorities WHERE hub = ? AND name <> ?"
_PUT = f"INSERT OR REPLACE INTO authorities (hub, {_COLUMNS}) VALUES (?{', ?' * 11})"  # noqa: S608
_DELETE = "DELETE FROM authorities WHERE hub = ? AND name = ?"
_LISTS = "SELECT authority, issuer, der FROM revocation_lists WHERE hub = ? ORDER BY authority, issuer"
_PUT_LIST = (
    "INSERT OR REPLACE INTO revocation_lists (hub, authority, issuer, der) "
    "SELECT hub, name, ?3, ?4 FROM authorities WHERE hub = ?1 AND name = ?2"
)
_DELETE_LISTS = "DELETE FROM revocation_lists WHERE hub = ? AND authority = ?"


class SqliteAuthorityStore:
    """``identity.authority_contract.AuthorityStore`` on a ``hub.db``; names differ in more than case.

    ``reader`` is used by the loop's thread only. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(self, writer: Writer, reader: apsw.Connection) -> None:
        self._writer = writer
        self._reader = reader

    async def authorities(self, hub: str) -> Sequence[Authority]:
        with told_as_refusal(self._writer.path):
            return [_authority(row) for row in self._reader.execute(_ALL, (hub,))]

    async def edit_authority(
        self, hub: str, name: str, change: AuthorityChange, note: AuthorityNote | None = None
    ) -> Authority | None:
        def write(connection: apsw.Connection) -> Authority | None:
            row = connection.execute(_GET, (hub, name)).get
            present = None if row is None else _authority(row)
            wanted = change(AuthorityStanding(present, connection.execute(_OTHERS, (hub, name)).get))
            if wanted is not None:
                connection.execute(_PUT, _row(hub, wanted))
            else:
                connection.execute(_DELETE, (hub, name))
                connection.execute(_DELETE_LISTS, (hub, name))
            if note is not None:
                keep(self._writer, connection, (note(present, wanted),))
            return wanted

        return await self._writer.submit(write)

    async def put_list(self, hub: str, kept: KeptList, draft: Draft | None = None) -> bool:
        def write(connection: apsw.Connection) -> bool:
            connection.execute(_PUT_LIST, (hub, kept.authority, kept.issuer, kept.der))
            done = bool(connection.changes())
            if done and draft is not None:
                keep(self._writer, connection, (draft,))
            return done

        return await self._writer.submit(write)

    async def lists(self, hub: str) -> Sequence[KeptList]:
        with told_as_refusal(self._writer.path):
            return [KeptList(*row) for row in self._reader.execute(_LISTS, (hub,))]


def _row(hub: str, one: Authority) -> tuple[Any, ...]:
    rules = one.rules
    return (
        hub, one.name, one.certificate, one.verified, one.created, one.updated, one.version, one.code,
        rules.fail_closed, rules.list_url, rules.responder_url, rules.refresh,
    )  # fmt: skip


def _authority(row: tuple[Any, ...]) -> Authority:
    name, certificate, verified, created, updated, version, code, fail_closed, *rest = row
    return Authority(
        name=name, certificate=certificate, verified=bool(verified), created=created, updated=updated, version=version,
        code=code, rules=RevocationRules(bool(fail_closed), *rest),
    )  # fmt: skip
