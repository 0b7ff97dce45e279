"""What every ``GrantStore`` promises, on each of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.access.custom_roles import make_role
from muster.access.grants import Grant, GrantStore, PrincipalKind
from muster.stores.postgres.grants import PostgresGrantStore
from muster.stores.sqlite.grants import SqliteGrantStore
from muster.stores.sqlite.hub_removal import forget_hub
from tests.postgres import emptied_database

ROLE = make_role("Operator", ["twins/*", "directMethods/invoke/action"])
EVERYWHERE = Grant(role="IoT Hub Data Reader", kind=PrincipalKind.GROUP, principal="ops")
SOMEWHERE = Grant(
    role="Operator", kind=PrincipalKind.APPLICATION, principal="app'1", issuer="https://issuer.test/", hub="north",
    devices="tags.site = 'Köln'",
)  # fmt: skip


def _sqlite(directory: Path) -> Opener[GrantStore]:
    return opener_of(directory, SqliteGrantStore)


def _postgres(_: Path) -> Opener[GrantStore]:
    return postgres_opener(emptied_database(), PostgresGrantStore)


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[GrantStore]:
    made: Opener[GrantStore] = request.param(tmp_path)
    return made


async def test_roles_and_grants_are_kept_over_reopening(opener: Opener[GrantStore]) -> None:
    async with opener() as store:
        assert [*(await store.load()).roles, *(await store.load()).grants] == []
        await store.put_role(ROLE)
        for grant in (EVERYWHERE, SOMEWHERE, EVERYWHERE):
            await store.put_grant(grant)
    async with opener() as store:
        kept = await store.load()
        assert list(kept.roles) == [ROLE]
        assert set(kept.grants) == {EVERYWHERE, SOMEWHERE}
        assert len(kept.grants) == 2


async def test_one_is_replaced_or_removed_and_the_others_stay(opener: Opener[GrantStore]) -> None:
    less = make_role("Operator", ["twins/read"])
    async with opener() as store:
        await store.put_role(ROLE)
        await store.put_role(make_role("operator", ["devices/read"]))
        await store.put_role(less)
        for grant in (EVERYWHERE, SOMEWHERE):
            await store.put_grant(grant)
        await store.remove_grant(EVERYWHERE)
        await store.remove_grant(EVERYWHERE)
        await store.remove_role("operator")
        await store.remove_role("nobody")
    async with opener() as store:
        kept = await store.load()
        assert (list(kept.roles), list(kept.grants)) == ([less], [SOMEWHERE])


async def test_grants_at_a_hub_go_with_it(tmp_path: Path) -> None:
    """A later hub of the same name inherits nothing."""
    async with opener_of(tmp_path, lambda writer, reader: (writer, SqliteGrantStore(writer, reader)))() as (
        writer,
        store,
    ):
        for grant in (EVERYWHERE, SOMEWHERE):
            await store.put_grant(grant)
        await forget_hub(writer, "north")
        assert list((await store.load()).grants) == [EVERYWHERE]
