"""Stores in which several hubs keep what is theirs: neither sees anything of the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import DEVICE_NOT_FOUND, HubError
from muster.core.limits import REFUSALS_KEPT
from muster.core.outbox import Entry, Outbox
from muster.identity.contract import Edit, IdentityStore
from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey
from muster.identity.refusals import KeptRefusal
from muster.messages.blob_contract import Blob, Block, Content
from muster.stores.postgres import hub_removal as postgres_removal
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.twins import PostgresTwinStore
from muster.stores.sqlite.blobs import SqliteBlobIndex
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_removal import forget_hub
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.stores.sqlite.refusals import SqliteRefusalStore
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.contract import TwinStore
from tests.postgres import emptied_database

ONE_HUB = next(number for number, step in enumerate(MIGRATIONS) if "refusals_of_one" in step)
"""The layout of the last version that had one hub only."""
MUCH = 1 << 30


class Database(NamedTuple):
    writer: Writer
    reader: apsw.Connection

    async def settled(self) -> None:
        for _ in range(2):
            await self.writer.submit(lambda _: None)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    writer = Writer(tmp_path / "hub.db", MIGRATIONS, asyncio.get_running_loop(), durable=False)
    reader = open_connection(writer.path, readonly=True)
    yield Database(writer, reader)
    reader.close()
    await writer.close()


class Stores(NamedTuple):
    outbox: Callable[[str], Outbox]
    identities: IdentityStore
    twins: TwinStore
    forget_hub: Callable[[str], Awaitable[None]]


def _sqlite(directory: Path) -> Opener[Stores]:
    return opener_of(
        directory,
        lambda writer, reader: Stores(
            partial(SqliteOutbox, writer),
            SqliteIdentityStore(writer, reader),
            SqliteTwinStore(writer, reader),
            partial(forget_hub, writer),
        ),
    )


def _postgres(_: Path) -> Opener[Stores]:
    return postgres_opener(
        emptied_database(),
        lambda database: Stores(
            partial(PostgresOutbox, database),
            PostgresIdentityStore(database),
            PostgresTwinStore(database),
            partial(postgres_removal.forget_hub, database),
        ),
    )


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Stores]:
    made: Opener[Stores] = request.param(tmp_path)
    return made


@pytest.fixture
async def stores(opener: Opener[Stores]) -> AsyncIterator[Stores]:
    async with opener() as stores:
        yield stores


def refusal(number: int) -> KeptRefusal:
    return KeptRefusal(f"{number:032x}", float(number), "d", {})


def blob(etag: str) -> Blob:
    return Blob(name="d/f", etag=etag, size=1, created=1.0, modified=1.0, headers={}, metadata={})


async def test_a_hub_that_refuses_much_drops_nothing_of_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.stores.sqlite.refusals.REFUSALS_KEPT", REFUSALS_KEPT._replace(open=5))
    quiet, busy = (SqliteRefusalStore(database.writer, database.reader, name) for name in ("quiet", "busy"))
    quiet.keep(refusal(0))
    for number in range(1, 40):
        busy.keep(refusal(number))
        await database.settled()
    assert await quiet.newest(None, 100) == [refusal(0)]
    assert await busy.newest("d", 100) == [refusal(number) for number in range(39, 34, -1)]
    assert await busy.find(refusal(0).tracking_id) is None


async def test_each_hub_tells_its_own_events(stores: Stores) -> None:
    one, other = stores.outbox("one"), stores.outbox("other")
    one.put([Entry("d", b"1"), Entry("d", b"2")])
    other.put([Entry("d", b"3")])
    one.put([Entry("d", b"4")])
    numbered = await one.take(0, 10, MUCH)
    assert [entry.record for _, entry in numbered] == [b"1", b"2", b"4"]
    assert await one.take(numbered[-1].number, 10, MUCH) == []
    assert [entry.record for _, entry in await other.take(0, 10, MUCH)] == [b"3"]


async def test_files_of_the_same_name(database: Database) -> None:
    one, other = (SqliteBlobIndex(database.writer, database.reader, name) for name in ("one", "other"))
    wanted = {store: Content(blob(etag), [Block("b", etag, 1)]) for store, etag in ((one, "1"), (other, "2"))}
    for store, content in wanted.items():
        await store.change("d/f", lambda _, content=content: content)
        await store.stage("d/f", Block("s", f"staged {content.blob.etag}", 1), 10.0, 1)
    assert await one.change("d/f", lambda _: None) == (None, {"1": 1, "staged 1": 1})
    assert await one.get("d/f") is None
    assert await one.next_expiry() is None
    assert await other.get("d/f") == wanted[other]
    assert await other.files() == {"2": 1, "staged 2": 1}
    assert await one.expire(11.0) == {}
    assert await other.expire(11.0) == {"staged 2": 1}


async def test_a_later_hub_of_the_name_knows_no_twin_of_the_earlier(stores: Stores) -> None:
    identities, twins, key = stores.identities, stores.twins, IdentityKey("d")
    device = Identity(key=key, generation_id="1", version=1, authentication=Authentication(AuthenticationType.NONE))
    assert await identities.edit("one", [Edit(key, lambda _: device)]) == [device]
    await twins.edit("one", key, lambda twin: replace(twin, version=twin.version + 1), lambda _: None)
    await stores.forget_hub("one")
    with pytest.raises(HubError) as caught:
        await twins.edit("one", key, lambda twin: twin, lambda _: None)
    assert caught.value.row is DEVICE_NOT_FOUND


async def test_what_an_earlier_version_kept_is_the_first_hubs(tmp_path: Path) -> None:
    loop, path = asyncio.get_running_loop(), tmp_path / "hub.db"
    before = Writer(path, MIGRATIONS[:ONE_HUB], loop, durable=False)

    def fill(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO settings VALUES ('hub-name', CAST('mine' AS BLOB))")
        connection.execute("INSERT INTO outbox (device_id, record) VALUES ('d', x'31')")
        for number in (3, 7):
            connection.execute(
                "INSERT INTO refusals VALUES (?, ?, ?, ?, 'd', '{}')", (number, *(str(number),) * 2, number)
            )
        connection.execute("INSERT INTO blobs VALUES ('d/f', '1', 1, 1.0, 1.0, '{}', '{}')")
        connection.execute("INSERT INTO blob_blocks VALUES ('d/f', 0, 'b', 'file', 1)")
        connection.execute("INSERT INTO blob_staged VALUES ('d/f', 's', 'staged', 1, 5.0)")

    await before.submit(fill)
    await before.close()
    writer = Writer(path, MIGRATIONS, loop, durable=False)
    reader = open_connection(path, readonly=True)
    index = SqliteBlobIndex(writer, reader, "mine")
    assert await index.get("d/f") == Content(blob("1"), [Block("b", "file", 1)])
    assert await index.files() == {"file": 1, "staged": 1}
    assert [entry for _, entry in await SqliteOutbox(writer, "mine").take(0, 10, MUCH)] == [Entry("d", b"1")]
    refusals = SqliteRefusalStore(writer, reader, "mine")
    assert [one.at for one in await refusals.newest("d", 10)] == [7.0, 3.0]
    refusals.keep(refusal(9))
    await Database(writer, reader).settled()
    assert [one.at for one in await refusals.newest(None, 2)] == [9.0, 7.0]
    reader.close()
    await writer.close()
