"""What every ``UploadStore`` promises, beside the ``IdentityStore`` of the same database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import DEVICE_NOT_FOUND, TOO_MANY_UPLOADS, HubError
from muster.identity.contract import Edit, IdentityStore
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.messages.upload_contract import Slot, UploadStore
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.uploads import PostgresUploadStore
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.uploads import SqliteUploadStore
from tests.postgres import emptied_database

HUB = "hub"


class Stores(NamedTuple):
    identities: IdentityStore
    uploads: UploadStore

    async def add(self, *keys: IdentityKey) -> None:
        def make(key: IdentityKey) -> Identity:
            return Identity(key=key, generation_id="1", version=1, authentication=Authentication())

        edits = [Edit(key, lambda _, key=key: make(key)) for key in keys]  # type: ignore[misc]
        assert all(isinstance(one, Identity) for one in await self.identities.edit(HUB, edits))

    async def drop(self, key: IdentityKey) -> None:
        assert await self.identities.edit(HUB, [Edit(key, lambda _: None)]) == [None]

    async def begin(self, slot: Slot, now: float = 0.0, most: int = 3) -> None:
        await self.uploads.begin(HUB, slot, now, most)


def slot(number: int, device_id: str = "d", expires_at: float = 100.0) -> Slot:
    return Slot(f"c{number}", device_id, f"{device_id}/f{number}", expires_at)


def _sqlite(directory: Path) -> Opener[Stores]:
    return opener_of(
        directory, lambda writer, reader: Stores(SqliteIdentityStore(writer, reader), SqliteUploadStore(writer, reader))
    )


def _postgres(_: Path) -> Opener[Stores]:
    return postgres_opener(
        emptied_database(), lambda database: Stores(PostgresIdentityStore(database), PostgresUploadStore(database))
    )


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Stores]:
    made: Opener[Stores] = request.param(tmp_path)
    return made


@pytest.fixture
async def stores(opener: Opener[Stores]) -> AsyncIterator[Stores]:
    async with opener() as stores:
        await stores.add(IdentityKey("d"), IdentityKey("d", "m"), IdentityKey("e"))
        yield stores


async def test_a_slot_comes_back_as_it_was_begun(stores: Stores) -> None:
    await stores.begin(slot(1))
    assert await stores.uploads.get(HUB, "d", "c1") == slot(1)
    for hub, device_id, correlation_id in ((HUB, "d", "c2"), (HUB, "e", "c1"), ("other", "d", "c1")):
        assert await stores.uploads.get(hub, device_id, correlation_id) is None


async def test_a_slot_ends_once(stores: Stores) -> None:
    await stores.begin(slot(1))
    assert await stores.uploads.end(HUB, "e", "c1") is False
    assert await asyncio.gather(*(stores.uploads.end(HUB, "d", "c1") for _ in range(3))) == [True, False, False]
    assert await stores.uploads.get(HUB, "d", "c1") is None


async def test_a_device_has_so_many_slots_that_have_not_lapsed(stores: Stores) -> None:
    outcomes = await asyncio.gather(*(stores.begin(slot(number)) for number in range(5)), return_exceptions=True)
    refused = [one.row for one in outcomes if isinstance(one, HubError)]
    assert refused == [TOO_MANY_UPLOADS] * 2
    await stores.begin(slot(1, "e"))
    await stores.begin(slot(9), now=100.0)
    with pytest.raises(HubError, match="cannot exceed 3"):
        await stores.begin(slot(10), now=99.0)


async def test_without_a_device_there_is_no_slot(stores: Stores) -> None:
    for device_id in ("x", "d/m", ""):
        with pytest.raises(HubError) as caught:
            await stores.begin(slot(1, device_id))
        assert caught.value.row is DEVICE_NOT_FOUND


async def test_slots_go_with_their_device_and_not_with_its_module(stores: Stores) -> None:
    for number in range(3):
        await stores.begin(slot(number))
    await stores.begin(slot(0, "e"))
    await stores.drop(IdentityKey("d", "m"))
    assert await stores.uploads.get(HUB, "d", "c0") is not None
    await stores.drop(IdentityKey("d"))
    await stores.add(IdentityKey("d"))
    assert await stores.uploads.get(HUB, "d", "c0") is None
    assert await stores.uploads.get(HUB, "e", "c0") is not None
    for number in range(3):
        await stores.begin(slot(number))


async def test_what_has_lapsed_is_forgotten_when_asked_to(stores: Stores) -> None:
    assert await stores.uploads.next_expiry(HUB) is None
    for number in range(3):
        await stores.begin(slot(number, expires_at=100.0 + number))
    assert await stores.uploads.next_expiry(HUB) == 100.0
    assert await stores.uploads.expire(HUB, 99.9) == []
    assert sorted(await stores.uploads.expire(HUB, 101.0)) == [slot(0), slot(1, expires_at=101.0)]
    assert await stores.uploads.next_expiry(HUB) == 102.0
    assert await stores.uploads.get(HUB, "d", "c0") is None
    assert await stores.uploads.expire("other", 1e9) == []


async def test_slots_are_there_after_reopening(opener: Opener[Stores]) -> None:
    async with opener() as stores:
        await stores.add(IdentityKey("d"))
        await stores.begin(slot(1))
    async with opener() as stores:
        assert await stores.uploads.get(HUB, "d", "c1") == slot(1)
        assert await stores.uploads.next_expiry(HUB) == 100.0
