"""What every ``TwinStore`` promises, beside the ``IdentityStore`` of the same database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import DEVICE_NOT_FOUND, MODULE_NOT_FOUND, PRECONDITION_FAILED, HubError
from muster.identity.contract import Edit, IdentityStore
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.twins import PostgresTwinStore
from muster.stores.sqlite.database import Writer
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.contract import Change, TwinStore
from muster.twins.document import EMPTY, Twin, patch_twin, report
from tests.postgres import emptied_database

HUB = "hub"
DEVICE, MODULE = IdentityKey("d"), IdentityKey("d", "m")


class Stores(NamedTuple):
    identities: IdentityStore
    twins: TwinStore

    async def add(self, *keys: IdentityKey) -> None:
        for outcome in await self.identities.edit(HUB, [Edit(key, _making(key)) for key in keys]):
            assert isinstance(outcome, Identity)

    async def drop(self, key: IdentityKey) -> None:
        assert await self.identities.edit(HUB, [Edit(key, lambda _: None)]) == [None]

    async def change(self, key: IdentityKey, change: Change) -> Twin:
        return await self.twins.edit(HUB, key, change, lambda _: None)


def _making(key: IdentityKey) -> Callable[[object], Identity]:
    identity = Identity(key=key, generation_id="1", version=1, authentication=Authentication())
    return lambda _: identity


def tag(name: str, value: object = 1) -> Change:
    return lambda twin: patch_twin(twin, {name: value}, {}, 0.0)


def _sqlite(directory: Path) -> Opener[Stores]:
    return opener_of(
        directory, lambda writer, reader: Stores(SqliteIdentityStore(writer, reader), SqliteTwinStore(writer, reader))
    )


def _postgres(_: Path) -> Opener[Stores]:
    return postgres_opener(
        emptied_database(), lambda database: Stores(PostgresIdentityStore(database), PostgresTwinStore(database))
    )


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Stores]:
    made: Opener[Stores] = request.param(tmp_path)
    return made


@pytest.fixture
async def stores(opener: Opener[Stores]) -> AsyncIterator[Stores]:
    async with opener() as stores:
        await stores.add(DEVICE, MODULE)
        yield stores


async def test_a_new_identity_has_an_empty_twin(stores: Stores) -> None:
    assert await stores.twins.get(HUB, DEVICE) == EMPTY
    assert await stores.twins.get(HUB, MODULE) == EMPTY


async def test_a_twin_comes_back_as_it_was_written(stores: Stores) -> None:
    content = {"a": {"b": [1, 1.0, 1e300, True, "\x00ü\N{SNOWMAN} '; --", {}]}, "n": -4_503_599_627_370_496}

    def change(twin: Twin) -> Twin:
        return report(patch_twin(twin, content, content, 1.0), content, 2.0)

    written = await stores.change(DEVICE, change)
    assert written == change(EMPTY)
    assert await stores.twins.get(HUB, DEVICE) == written
    assert await stores.twins.get(HUB, MODULE) == EMPTY


async def test_without_an_identity_there_is_no_twin(stores: Stores) -> None:
    called: list[Twin] = []
    for key, row in (
        (IdentityKey("x"), DEVICE_NOT_FOUND),
        (IdentityKey("x", "m"), DEVICE_NOT_FOUND),
        (IdentityKey("d", "x"), MODULE_NOT_FOUND),
    ):
        assert await stores.twins.get(HUB, key) is None
        with pytest.raises(HubError) as caught:
            await stores.twins.edit(HUB, key, tag("t"), called.append)
        assert caught.value.row is row
    assert called == []
    assert await stores.twins.get("other", DEVICE) is None


async def test_a_twin_goes_with_its_identity_and_begins_anew(stores: Stores) -> None:
    await stores.add(IdentityKey("d", "n"), IdentityKey("e"))
    for key in (DEVICE, MODULE, IdentityKey("d", "n"), IdentityKey("e")):
        await stores.change(key, tag("t"))
    await stores.drop(MODULE)
    assert await stores.twins.get(HUB, MODULE) is None
    assert await stores.twins.get(HUB, IdentityKey("d", "n")) != EMPTY
    await stores.drop(DEVICE)
    for key in (DEVICE, IdentityKey("d", "n")):
        assert await stores.twins.get(HUB, key) is None
    await stores.add(DEVICE, MODULE)
    assert await stores.twins.get(HUB, DEVICE) == EMPTY
    assert await stores.twins.get(HUB, MODULE) == EMPTY
    assert await stores.twins.get(HUB, IdentityKey("e")) != EMPTY


@pytest.mark.parametrize("size", [1, 3000, 30_000])
async def test_a_change_begins_with_what_stands(stores: Stores, size: int) -> None:
    text = "x" * size
    for number in range(5):
        twin = await stores.change(DEVICE, tag(f"t{number}", text))
        assert twin.tags == {f"t{one}": text for one in range(number + 1)}
        assert await stores.twins.get(HUB, DEVICE) == twin
    reported = await stores.change(DEVICE, lambda twin: report(twin, {"r": text}, 1.0))
    assert (reported.tags, reported.desired, reported.reported.values) == (twin.tags, twin.desired, {"r": text})
    await stores.drop(DEVICE)
    await stores.add(DEVICE, MODULE)
    assert await stores.change(DEVICE, tag("t")) == patch_twin(EMPTY, {"t": 1}, {}, 0.0)
    await stores.drop(MODULE)
    with pytest.raises(HubError):
        await stores.change(MODULE, tag("t"))


async def test_an_identity_that_is_written_over_keeps_its_twin(stores: Stores) -> None:
    twin = await stores.change(DEVICE, tag("t"))
    await stores.add(DEVICE)
    assert await stores.twins.get(HUB, DEVICE) == twin


async def test_a_change_that_raises_changes_nothing(stores: Stores) -> None:
    def refuse(_: Twin) -> Twin:
        raise HubError(PRECONDITION_FAILED)

    called: list[Twin] = []
    outcomes = await asyncio.gather(
        stores.change(DEVICE, tag("a")),
        stores.twins.edit(HUB, DEVICE, refuse, called.append),
        stores.change(DEVICE, tag("b")),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], HubError)
    assert called == []
    found = await stores.twins.get(HUB, DEVICE)
    assert found is not None
    assert found.tags == {"a": 1, "b": 1}


async def test_no_change_is_seen_in_order_too(stores: Stores) -> None:
    _, seen = await asyncio.gather(stores.change(DEVICE, tag("a")), stores.change(DEVICE, lambda twin: twin))
    assert seen.tags == {"a": 1}
    assert seen == await stores.twins.get(HUB, DEVICE)


async def test_edits_are_made_and_told_in_the_order_asked_for(stores: Stores) -> None:
    told: list[tuple[object, int]] = []
    await asyncio.gather(
        *(
            stores.twins.edit(HUB, DEVICE, tag("n", number), lambda twin: told.append((twin.tags["n"], twin.version)))
            for number in range(100)
        )
    )
    assert told == [(number, number + 3) for number in range(100)]


async def test_what_is_told_is_durable_and_told_though_nobody_waits(stores: Stores) -> None:
    seen: asyncio.Queue[bool] = asyncio.Queue()
    looking: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    def then(twin: Twin) -> None:
        async def look() -> None:
            seen.put_nowait(await stores.twins.get(HUB, DEVICE) == twin)

        looking.add(loop.create_task(look()))

    task = asyncio.ensure_future(stores.twins.edit(HUB, DEVICE, tag("t"), then))
    await asyncio.sleep(0)
    task.cancel()
    assert await asyncio.wait_for(seen.get(), 10) is True
    assert task.cancelled()


async def test_twins_are_there_after_reopening(opener: Opener[Stores]) -> None:
    async with opener() as stores:
        await stores.add(DEVICE, MODULE)
        written = await stores.change(MODULE, tag("t"))
    async with opener() as stores:
        assert await stores.twins.get(HUB, MODULE) == written
        assert await stores.twins.get(HUB, DEVICE) == EMPTY


async def test_identities_from_before_there_were_twins_get_empty_ones(tmp_path: Path) -> None:
    """Of the SQLite store: its third step made the table."""
    path, loop = tmp_path / "hub.db", asyncio.get_running_loop()
    writer = Writer(path, MIGRATIONS[:2], loop, durable=False)
    await writer.submit(
        lambda connection: (
            connection.execute(
                "INSERT INTO identities (hub, device_id, module_id, generation_id, version, authentication, status, "
                "status_updated, iot_edge) VALUES ('hub', 'd', '', '1', 1, 'sas', 'enabled', 0.0, 0)"
            ).get
        )
    )
    await writer.close()
    async with _sqlite(tmp_path)() as stores:
        assert await stores.twins.get(HUB, DEVICE) == EMPTY
        changed = await stores.change(DEVICE, tag("t"))
        assert replace(changed, tags={}) == replace(EMPTY, version=3, revision=2)
