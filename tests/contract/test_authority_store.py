"""What every ``AuthorityStore`` promises, on each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.identity.authority_contract import (
    Authority,
    AuthorityChange,
    AuthorityStanding,
    AuthorityStore,
    KeptList,
    RevocationRules,
)
from muster.stores.postgres.authorities import PostgresAuthorityStore
from muster.stores.sqlite.authorities import SqliteAuthorityStore
from tests.postgres import emptied_database

HUB = "myhub"


def _sqlite(directory: Path) -> Opener[AuthorityStore]:
    return opener_of(directory, SqliteAuthorityStore)


def _postgres(_: Path) -> Opener[AuthorityStore]:
    return postgres_opener(emptied_database(), PostgresAuthorityStore)


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[AuthorityStore]:
    made: Opener[AuthorityStore] = request.param(tmp_path)
    return made


def authority(name: str, **more: object) -> Authority:
    blank = Authority(name=name, certificate=b"der", verified=False, created=1.5, updated=2.5, version=7)
    return replace(blank, **more)  # type: ignore[arg-type]


def becomes(one: Authority | None) -> AuthorityChange:
    return lambda _: one


async def test_authorities_are_kept_over_reopening_in_the_order_of_their_names(opener: Opener[AuthorityStore]) -> None:
    full = authority(
        "b", certificate=bytes(range(256)), verified=True, code="C0DE",
        rules=RevocationRules(True, "http://lists.example/a", "http://ocsp.example/", 17),
    )  # fmt: skip
    async with opener() as store:
        assert await store.edit_authority(HUB, "b", becomes(full)) == full
        await store.edit_authority(HUB, "a", becomes(authority("a")))
    async with opener() as store:
        assert await store.authorities(HUB) == [authority("a"), full]
        assert await store.authorities("other") == []


async def test_a_change_sees_how_things_stand_and_case_makes_no_name(
    opener: Opener[AuthorityStore],
) -> None:
    seen: list[AuthorityStanding] = []

    def look(standing: AuthorityStanding) -> Authority | None:
        seen.append(standing)
        return standing.authority

    async with opener() as store:
        await store.edit_authority(HUB, "Root", becomes(authority("Root")))
        await store.edit_authority(HUB, "else", becomes(authority("else")))
        await store.edit_authority(HUB, "ROOT", look)
        await store.edit_authority(HUB, "third", look)
        assert seen == [AuthorityStanding(authority("Root"), 1), AuthorityStanding(None, 2)]
        assert len(await store.authorities(HUB)) == 2


async def test_a_change_that_refuses_changes_nothing(opener: Opener[AuthorityStore]) -> None:
    def refuse(_: AuthorityStanding) -> Authority | None:
        raise HubError(PRECONDITION_FAILED)

    async with opener() as store:
        await store.edit_authority(HUB, "a", becomes(authority("a")))
        with pytest.raises(HubError):
            await store.edit_authority(HUB, "a", refuse)
        assert await store.authorities(HUB) == [authority("a")]


async def test_lists_are_kept_by_issuer_and_go_with_their_authority(opener: Opener[AuthorityStore]) -> None:
    async with opener() as store:
        assert not await store.put_list(HUB, KeptList("a", b"issuer", b"1"))
        await store.edit_authority(HUB, "a", becomes(authority("a")))
        await store.edit_authority(HUB, "b", becomes(authority("b")))
        for kept in (KeptList("a", b"x", b"1"), KeptList("a", b"y", b"2"), KeptList("b", b"x", b"3")):
            assert await store.put_list(HUB, kept)
        assert await store.put_list(HUB, KeptList("A", b"x", b"4"))
        await store.edit_authority(HUB, "a", becomes(authority("a", version=8)))
    async with opener() as store:
        assert sorted(await store.lists(HUB)) == [("a", b"x", b"4"), ("a", b"y", b"2"), ("b", b"x", b"3")]
        await store.edit_authority(HUB, "a", becomes(None))
        assert await store.lists(HUB) == [("b", b"x", b"3")]
        assert await store.authorities(HUB) == [authority("b")]
