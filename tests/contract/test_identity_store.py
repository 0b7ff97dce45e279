"""What every ``IdentityStore`` promises, on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import DEVICE_NOT_FOUND, PRECONDITION_FAILED, HubError
from muster.identity.contract import Counts, Edit, IdentityStore, Standing
from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey, Status
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.sqlite.identities import SqliteIdentityStore
from tests.postgres import emptied_database

HUB = "hub"


def _sqlite(directory: Path) -> Opener[IdentityStore]:
    return opener_of(directory, SqliteIdentityStore)


def _postgres(_: Path) -> Opener[IdentityStore]:
    return postgres_opener(emptied_database(), PostgresIdentityStore)


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[IdentityStore]:
    made: Opener[IdentityStore] = request.param(tmp_path)
    return made


@pytest.fixture
async def store(opener: Opener[IdentityStore]) -> AsyncIterator[IdentityStore]:
    async with opener() as store:
        yield store


def device(device_id: str, **fields: object) -> Identity:
    given: dict[str, object] = {
        "key": IdentityKey(device_id),
        "generation_id": "638000000000000001",
        "version": 1,
        "authentication": Authentication(primary_key="cHJpbWFyeQ==", secondary_key="c2Vjb25kYXJ5"),
    }
    return Identity(**(given | fields))  # type: ignore[arg-type]


def module(device_id: str, module_id: str, **fields: object) -> Identity:
    return device(device_id, key=IdentityKey(device_id, module_id), **fields)


def put(identity: Identity) -> Edit:
    return Edit(identity.key, lambda _: identity)


def drop(key: IdentityKey) -> Edit:
    return Edit(key, lambda _: None)


async def test_an_identity_comes_back_as_it_was_written(store: IdentityStore) -> None:
    full = device(
        "d",
        authentication=Authentication(
            AuthenticationType.SELF_SIGNED, primary_thumbprint="A" * 40, secondary_thumbprint="B" * 64
        ),
        version=1_073_741_824,
        status=Status.DISABLED,
        status_reason="stolen, Zürich \N{SNOWMAN} \x00 '; DROP TABLE identities; --",
        status_updated=1_700_000_000.123_456,
        iot_edge=True,
        device_scope="ms-azure-iot-edge://d-638000000000000001",
        parent_scopes=("ms-azure-iot-edge://p-1",),
    )
    part = module("d", "m", managed_by="IotEdge", authentication=Authentication(AuthenticationType.NONE))
    assert await store.edit(HUB, [put(full), put(part)]) == [full, part]
    assert await store.get(HUB, full.key) == full
    assert await store.get(HUB, part.key) == part


async def test_what_is_not_there_is_none_or_empty(store: IdentityStore) -> None:
    assert await store.get(HUB, IdentityKey("d")) is None
    assert await store.get(HUB, IdentityKey("d", "m")) is None
    assert list(await store.devices(HUB, 10)) == []
    assert list(await store.modules(HUB, "d")) == []
    assert await store.counts(HUB) == Counts(0, 0)
    assert await store.edit(HUB, []) == []


async def test_ids_differ_by_case_and_by_every_legal_character(store: IdentityStore) -> None:
    ids = ["a", "A", "a-", "a:", "a.", "a+", "a%", "a_", "a#", "a*", "a?", "a!", "a(", "a)", "a,", "a=", "a@", "a;",
           "a$", "a'", "aa", "x" * 128]  # fmt: skip
    await store.edit(HUB, [put(device(name)) for name in ids])
    assert [identity.device_id for identity in await store.devices(HUB, 1000)] == sorted(ids)
    for name in ids:
        found = await store.get(HUB, IdentityKey(name))
        assert found is not None
        assert found.device_id == name


async def test_hubs_do_not_see_each_other(store: IdentityStore) -> None:
    await store.edit(HUB, [put(device("d"))])
    await store.edit("other", [put(device("d", version=7)), put(device("e"))])
    ours, theirs = await store.get(HUB, IdentityKey("d")), await store.get("other", IdentityKey("d"))
    assert ours is not None
    assert theirs is not None
    assert (ours.version, theirs.version) == (1, 7)
    assert [found.device_id for found in await store.devices(HUB, 10)] == ["d"]
    assert (await store.counts(HUB), await store.counts("other")) == (Counts(1, 0), Counts(2, 0))
    await store.edit(HUB, [drop(IdentityKey("d"))])
    assert await store.get("other", IdentityKey("d")) == theirs


async def test_devices_are_listed_in_order_without_modules_up_to_the_limit(store: IdentityStore) -> None:
    names = [f"d{number:04}" for number in range(450)]
    await store.edit(HUB, [put(device(name)) for name in reversed(names)])
    await store.edit(HUB, [put(module(name, "m")) for name in names[:5]])
    assert [found.device_id for found in await store.devices(HUB, 1000)] == names
    assert [found.device_id for found in await store.devices(HUB, 401)] == names[:401]
    assert [found.key for found in await store.devices(HUB, 3)] == [IdentityKey(name) for name in names[:3]]


async def test_modules_are_listed_in_order_and_only_those_of_the_device(store: IdentityStore) -> None:
    await store.edit(HUB, [put(device("a")), put(device("ab"))])
    await store.edit(HUB, [put(module("a", name)) for name in ("z", "$edgeHub", "b")])
    await store.edit(HUB, [put(module("ab", "c"))])
    assert [found.module_id for found in await store.modules(HUB, "a")] == ["$edgeHub", "b", "z"]


async def test_a_change_sees_how_things_stand(store: IdentityStore) -> None:
    seen: list[Standing] = []

    def look(standing: Standing) -> Identity | None:
        seen.append(standing)
        return standing.identity

    first = device("d")
    await store.edit(HUB, [put(first), put(module("d", "m1")), put(module("d", "m2"))])
    await store.edit(HUB, [Edit(first.key, look), Edit(IdentityKey("d", "m3"), look)])
    assert seen[-2].identity == first
    assert seen[-1] == Standing(None, first, 2)
    assert await store.get(HUB, IdentityKey("d", "m3")) is None


async def test_a_module_of_a_missing_device_is_answered_404001(store: IdentityStore) -> None:
    (outcome,) = await store.edit(HUB, [put(module("ghost", "m"))])
    assert isinstance(outcome, HubError)
    assert (outcome.row, outcome.message) == (DEVICE_NOT_FOUND, "ghost")
    assert await store.get(HUB, IdentityKey("ghost", "m")) is None


async def test_an_edit_that_raises_changes_nothing_and_the_others_stand(store: IdentityStore) -> None:
    def refuse(_: Standing) -> Identity | None:
        raise HubError(PRECONDITION_FAILED)

    await store.edit(HUB, [put(device("b"))])
    outcomes = await store.edit(HUB, [put(device("a")), Edit(IdentityKey("b"), refuse), put(device("c"))])
    assert isinstance(outcomes[1], HubError)
    assert outcomes[1].row is PRECONDITION_FAILED
    assert [found.device_id for found in await store.devices(HUB, 10)] == ["a", "b", "c"]
    assert await store.counts(HUB) == Counts(3, 0)


async def test_later_edits_of_a_call_see_the_earlier_ones(store: IdentityStore) -> None:
    def next_version(standing: Standing) -> Identity | None:
        assert standing.identity is not None
        return replace(standing.identity, version=standing.identity.version + 1)

    key = IdentityKey("d")
    outcomes = await store.edit(HUB, [put(device("d")), Edit(key, next_version), Edit(key, next_version)])
    assert [outcome.version for outcome in outcomes if isinstance(outcome, Identity)] == [1, 2, 3]


async def test_edits_made_at_the_same_time_do_not_overwrite_each_other(store: IdentityStore) -> None:
    def next_version(standing: Standing) -> Identity | None:
        assert standing.identity is not None
        return replace(standing.identity, version=standing.identity.version + 1)

    await store.edit(HUB, [put(device("d", version=0))])
    await asyncio.gather(*(store.edit(HUB, [Edit(IdentityKey("d"), next_version)]) for _ in range(50)))
    found = await store.get(HUB, IdentityKey("d"))
    assert found is not None
    assert found.version == 50


async def test_deleting_a_device_deletes_its_modules(store: IdentityStore) -> None:
    await store.edit(HUB, [put(device("d")), put(module("d", "m")), put(device("e")), put(module("e", "m"))])
    assert await store.edit(HUB, [drop(IdentityKey("d"))]) == [None]
    assert await store.get(HUB, IdentityKey("d", "m")) is None
    assert await store.get(HUB, IdentityKey("e", "m")) is not None
    assert await store.counts(HUB) == Counts(1, 0)


async def test_deleting_a_module_leaves_its_device(store: IdentityStore) -> None:
    await store.edit(HUB, [put(device("d")), put(module("d", "m")), put(module("d", "n"))])
    assert await store.edit(HUB, [drop(IdentityKey("d", "m"))]) == [None]
    assert [found.module_id for found in await store.modules(HUB, "d")] == ["n"]
    assert await store.counts(HUB) == Counts(1, 0)


async def test_counts_follow_every_change(store: IdentityStore) -> None:
    off = device("b", status=Status.DISABLED)
    await store.edit(HUB, [put(device("a")), put(off), put(device("c")), put(module("a", "m"))])
    assert await store.counts(HUB) == Counts(2, 1)
    await store.edit(HUB, [put(replace(off, status=Status.ENABLED)), put(device("a", status=Status.DISABLED))])
    assert await store.counts(HUB) == Counts(2, 1)
    await store.edit(HUB, [drop(IdentityKey("a")), drop(IdentityKey("nobody")), put(device("c", version=2))])
    assert await store.counts(HUB) == Counts(2, 0)


async def test_what_was_written_is_there_after_reopening(opener: Opener[IdentityStore]) -> None:
    async with opener() as store:
        await store.edit(HUB, [put(device("d")), put(module("d", "m")), put(device("e", status=Status.DISABLED))])
    async with opener() as store:
        assert await store.get(HUB, IdentityKey("d")) == device("d")
        assert [found.module_id for found in await store.modules(HUB, "d")] == ["m"]
        assert await store.counts(HUB) == Counts(1, 1)
