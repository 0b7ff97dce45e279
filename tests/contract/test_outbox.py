"""What every ``Outbox`` promises, with the stores whose changes fill it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.core.outbox import Entry, Outbox
from muster.identity.contract import Edit, IdentityStore
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.stores.postgres.database import Database
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.twins import PostgresTwinStore
from muster.stores.sqlite.database import Writer
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.contract import TwinStore
from muster.twins.document import Twin, patch_twin
from tests.postgres import emptied_database

HUB = "hub"
DEVICE, MODULE = IdentityKey("d"), IdentityKey("d", "m")
ALL, MUCH = 1000, 1 << 30


class Births:
    """Records identities in words."""

    def identity_changed(self, identity: Identity, twin: Twin, *, created: bool) -> Sequence[Entry]:
        return [entry(f"{identity.key} {'+' if created else '-'} {dict(twin.tags)}")]


class Stores(NamedTuple):
    outbox: Outbox
    identities: IdentityStore
    twins: TwinStore

    async def add(self, *keys: IdentityKey) -> None:
        await self.identities.edit(HUB, [Edit(key, _making(key)) for key in keys])

    async def tag(self, value: int, *entries: Entry) -> Twin:
        """A change of the twin, and what is recorded of it."""
        change = lambda twin: patch_twin(twin, {"t": value}, {}, 0.0)  # noqa: E731
        return await self.twins.edit(HUB, DEVICE, change, lambda _: None, lambda *_: entries)

    async def texts(self, told: int = 0, limit: int = ALL, limit_bytes: int = MUCH) -> list[str]:
        return [found.record.decode() for _, found in await self.outbox.take(told, limit, limit_bytes)]


def _making(key: IdentityKey) -> Callable[[object], Identity]:
    identity = Identity(key=key, generation_id="1", version=1, authentication=Authentication())
    return lambda _: identity


def entry(text: str) -> Entry:
    return Entry("d", text.encode())


def _sqlite(directory: Path) -> Opener[Stores]:
    def make(writer: Writer, reader: apsw.Connection) -> Stores:
        outbox = SqliteOutbox(writer, HUB)
        identities = SqliteIdentityStore(writer, reader, outbox, Births())
        return Stores(outbox, identities, SqliteTwinStore(writer, reader, outbox))

    return opener_of(directory, make)


def _postgres(_: Path) -> Opener[Stores]:
    def make(database: Database) -> Stores:
        outbox = PostgresOutbox(database, HUB)
        identities = PostgresIdentityStore(database, outbox, Births())
        return Stores(outbox, identities, PostgresTwinStore(database, outbox))

    return postgres_opener(emptied_database(), make)


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Stores]:
    made: Opener[Stores] = request.param(tmp_path)
    return made


@pytest.fixture
async def stores(opener: Opener[Stores]) -> AsyncIterator[Stores]:
    async with opener() as stores:
        await stores.add(DEVICE)
        ((number, _),) = await stores.outbox.take(0, ALL, MUCH)
        assert await stores.texts(number) == []
        yield stores


async def test_entries_come_in_the_order_of_the_changes(stores: Stores) -> None:
    changes = [stores.tag(n, entry(f"{n}a"), entry(f"{n}b")) for n in range(50)]
    stores.outbox.put([entry("put")])
    await asyncio.gather(*changes)
    expected = [f"{n}{letter}" for n in range(50) for letter in "ab"]
    found = await stores.texts()
    assert [text for text in found if text != "put"] == expected
    assert "put" in found


async def test_what_was_told_is_removed_and_nothing_else(stores: Stores) -> None:
    await stores.tag(1, entry("1"), entry("2"), entry("3"))
    first, second, _ = await stores.outbox.take(0, ALL, MUCH)
    assert first.number < second.number
    assert await stores.texts(first.number) == ["2", "3"]
    assert await stores.texts(first.number) == ["2", "3"]
    await stores.tag(2, entry("4"))
    assert await stores.texts(second.number) == ["3", "4"]


async def test_as_much_as_is_asked_for(stores: Stores) -> None:
    await stores.tag(1, entry("a" * 10), entry("b" * 10), entry("c" * 10))
    assert len(await stores.texts(limit=2)) == 2
    for most, count in ((1, 1), (10, 1), (11, 2), (20, 2), (21, 3)):
        assert len(await stores.texts(limit_bytes=most)) == count


async def test_entries_stay_over_a_restart_and_numbers_rise(opener: Opener[Stores]) -> None:
    async with opener() as stores:
        await stores.add(DEVICE)
        await stores.tag(1, entry("1"))
        stores.outbox.put([entry("2")])
        (_, second, _) = await stores.outbox.take(0, ALL, MUCH)
        assert await stores.texts(second.number) == ["2"]
    async with opener() as stores:
        (kept,) = await stores.outbox.take(0, ALL, MUCH)
        assert kept.entry == entry("2")
        assert await stores.texts(kept.number) == []
    async with opener() as stores:
        await stores.tag(2, entry("3"))
        (last,) = await stores.outbox.take(0, ALL, MUCH)
        assert last.number > kept.number


async def test_a_refused_or_empty_change_leaves_no_entry(stores: Stores) -> None:
    def refuse(_: Twin) -> Twin:
        raise HubError(PRECONDITION_FAILED)

    def fail(*_: object) -> Sequence[Entry]:
        raise RuntimeError

    for change in (refuse, lambda twin: twin):
        with contextlib.suppress(HubError):
            await stores.twins.edit(HUB, DEVICE, change, lambda _: None, lambda *_: [entry("no")])
    with pytest.raises(RuntimeError):
        await stores.twins.edit(HUB, DEVICE, lambda twin: replace(twin, version=9), lambda _: None, fail)
    refused = await stores.identities.edit(
        HUB, [Edit(MODULE, refuse), Edit(DEVICE, lambda standing: standing.identity)]
    )  # type: ignore[arg-type]
    assert isinstance(refused[0], HubError)
    assert await stores.texts() == []
    assert (await stores.twins.get(HUB, DEVICE) or Twin()).version == 2, "what cannot be recorded is not done"
    seen = await stores.twins.edit(HUB, DEVICE, lambda twin: twin, lambda _: None)
    assert seen.version == 2, "nor remembered"


async def test_identities_are_recorded_with_their_twins(stores: Stores) -> None:
    await stores.tag(7)
    await stores.add(MODULE)
    await stores.identities.edit(HUB, [Edit(DEVICE, lambda _: None)])
    assert await stores.texts() == ["d/m + {}", "d/m - {}", "d - {'t': 7}"]


async def test_the_listener_hears_once_entries_can_be_taken(stores: Stores) -> None:
    heard: list[asyncio.Task[list[str]]] = []
    stores.outbox.when_filled(lambda: heard.append(asyncio.ensure_future(stores.texts())))
    await stores.tag(1, entry("1"))
    await asyncio.sleep(0)
    assert await heard[-1] == ["1"]
    stores.outbox.put([entry("2")])
    async with asyncio.timeout(10):
        while len(heard) < 2:
            await asyncio.sleep(0.001)
    assert await heard[-1] == ["1", "2"]
    count = len(heard)
    await stores.tag(2)
    assert len(heard) == count, "nothing has come"
