"""What every ``SubscriptionStore`` promises, beside the ``IdentityStore`` of the same database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.identity.contract import Edit, IdentityStore
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.sessions.contract import SubscriptionStore
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.subscriptions import PostgresSubscriptionStore
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.subscriptions import SqliteSubscriptionStore
from tests.postgres import emptied_database

HUB = "hub"
DEVICE, MODULE, OTHER = IdentityKey("d"), IdentityKey("d", "m"), IdentityKey("e")
FILTERS = {"$iothub/methods/POST/#": 0, "devices/d/messages/devicebound/#": 1, 'ü"\\/\U0001f600': 1}


class Stores(NamedTuple):
    identities: IdentityStore
    subscriptions: SubscriptionStore

    async def add(self, *keys: IdentityKey, generation_id: str = "1") -> None:
        def make(key: IdentityKey) -> Identity:
            return Identity(key=key, generation_id=generation_id, version=1, authentication=Authentication())

        edits = [Edit(key, lambda _, key=key: make(key)) for key in keys]  # type: ignore[misc]
        assert all(isinstance(one, Identity) for one in await self.identities.edit(HUB, edits))

    async def drop(self, key: IdentityKey) -> None:
        assert await self.identities.edit(HUB, [Edit(key, lambda _: None)]) == [None]

    async def put(self, key: IdentityKey, filters: dict[str, int], generation_id: str = "1", hub: str = HUB) -> None:
        await self.subscriptions.put(hub, key, generation_id, filters)


def _sqlite(directory: Path) -> Opener[Stores]:
    return opener_of(
        directory,
        lambda writer, reader: Stores(SqliteIdentityStore(writer, reader), SqliteSubscriptionStore(writer, reader)),
    )


def _postgres(_: Path) -> Opener[Stores]:
    return postgres_opener(
        emptied_database(),
        lambda database: Stores(PostgresIdentityStore(database), PostgresSubscriptionStore(database)),
    )


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Stores]:
    made: Opener[Stores] = request.param(tmp_path)
    return made


@pytest.fixture
async def stores(opener: Opener[Stores]) -> AsyncIterator[Stores]:
    async with opener() as stores:
        await stores.add(DEVICE, MODULE, OTHER)
        yield stores


async def test_filters_come_back_as_they_were_put_for_the_identity_alone(stores: Stores) -> None:
    await stores.put(DEVICE, FILTERS)
    assert await stores.subscriptions.get(HUB, DEVICE) == FILTERS
    for hub, key in ((HUB, MODULE), (HUB, OTHER), ("other", DEVICE)):
        assert await stores.subscriptions.get(hub, key) == {}


async def test_what_is_put_stands_in_the_place_of_what_was_and_nothing_deletes(stores: Stores) -> None:
    await stores.put(DEVICE, FILTERS)
    await stores.put(DEVICE, {"a/#": 1})
    assert await stores.subscriptions.get(HUB, DEVICE) == {"a/#": 1}
    for _ in range(2):
        await stores.put(DEVICE, {})
        assert await stores.subscriptions.get(HUB, DEVICE) == {}


async def test_the_last_of_several_at_once_counts(stores: Stores) -> None:
    await asyncio.gather(*(stores.put(DEVICE, {"a/#": qos} if qos else {}) for qos in (1, 0, 2, 0, 3)))
    assert await stores.subscriptions.get(HUB, DEVICE) == {"a/#": 3}


@pytest.mark.parametrize(("key", "left"), [(DEVICE, set()), (MODULE, {DEVICE})])
async def test_filters_go_with_their_identity(stores: Stores, key: IdentityKey, left: set[IdentityKey]) -> None:
    for one in (DEVICE, MODULE, OTHER):
        await stores.put(one, FILTERS)
    await stores.drop(key)
    await stores.add(*(one for one in (DEVICE, MODULE) if one not in left), generation_id="2")
    for one in (DEVICE, MODULE):
        assert await stores.subscriptions.get(HUB, one) == (FILTERS if one in left else {})
    assert await stores.subscriptions.get(HUB, OTHER) == FILTERS


async def test_nothing_is_kept_for_who_is_gone_or_is_another_by_now(stores: Stores) -> None:
    await stores.drop(DEVICE)
    await stores.put(DEVICE, FILTERS)
    assert await stores.subscriptions.get(HUB, DEVICE) == {}
    await stores.add(DEVICE, generation_id="2")
    await stores.put(DEVICE, FILTERS, generation_id="1")
    await stores.put(OTHER, FILTERS, hub="other")
    assert await stores.subscriptions.get(HUB, DEVICE) == {}
    assert await stores.subscriptions.get("other", OTHER) == {}


async def test_a_change_of_the_identity_leaves_its_filters(stores: Stores) -> None:
    await stores.put(DEVICE, FILTERS)
    await stores.add(DEVICE)
    assert await stores.subscriptions.get(HUB, DEVICE) == FILTERS


async def test_filters_are_there_after_reopening(opener: Opener[Stores]) -> None:
    async with opener() as stores:
        await stores.add(DEVICE, OTHER)
        await stores.put(DEVICE, FILTERS)
        await stores.put(OTHER, FILTERS)
        await stores.put(OTHER, {})
    async with opener() as stores:
        assert await stores.subscriptions.get(HUB, DEVICE) == FILTERS
        assert await stores.subscriptions.get(HUB, OTHER) == {}
