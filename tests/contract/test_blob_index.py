"""What every ``BlobIndex`` promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import HubError
from muster.core.storage_errors import BLOB_EXISTS, INVALID_BLOCK_ID, TOO_MANY_BLOCKS
from muster.messages.blob_contract import Blob, BlobIndex, Block, Content, Standing
from muster.stores.postgres.blobs import PostgresBlobIndex
from muster.stores.sqlite.blobs import SqliteBlobIndex
from tests.postgres import emptied_database


def block(number: int, file: str = "") -> Block:
    return Block(f"b{number}", file or f"file{number}", number)


def blob(name: str = "d/f", etag: str = "1") -> Blob:
    return Blob(
        name=name, etag=etag, size=6, created=1.0, modified=2.5, headers={"Content-Type": "a/b"}, metadata={"x": "ü'\0"}
    )


def _sqlite(directory: Path) -> Opener[BlobIndex]:
    return opener_of(directory, partial(SqliteBlobIndex, hub="hub"))


def _postgres(_: Path) -> Opener[BlobIndex]:
    return postgres_opener(emptied_database(), partial(PostgresBlobIndex, hub="hub"))


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[BlobIndex]:
    made: Opener[BlobIndex] = request.param(tmp_path)
    return made


@pytest.fixture
async def index(opener: Opener[BlobIndex]) -> AsyncIterator[BlobIndex]:
    async with opener() as index:
        yield index


async def stage(index: BlobIndex, number: int, file: str = "", *, expires_at: float = 100.0, most: int = 3) -> set[str]:
    return set(await index.stage("d/f", block(number, file), expires_at, most))


async def test_a_blob_comes_back_as_it_was_written(index: BlobIndex) -> None:
    wanted = Content(blob(), [block(2), block(1), block(2)])
    assert await index.change("d/f", lambda _: wanted) == (wanted, {})
    assert await index.get("d/f") == wanted
    assert await index.get("d/F") is None
    assert await index.files() == {"file1": 1, "file2": 2}


async def test_a_change_sees_what_there_is_and_frees_what_goes(index: BlobIndex) -> None:
    seen: list[Standing] = []

    def change(standing: Standing) -> Content:
        seen.append(standing)
        return Content(blob(etag="2"), [block(2), block(3)])

    await index.change("d/f", lambda _: Content(blob(), [block(1), block(2)]))
    await stage(index, 3)
    await stage(index, 4)
    _, freed = await index.change("d/f", change)
    assert seen == [Standing(blob(), [block(1), block(2)], {"b3": block(3), "b4": block(4)})]
    assert freed == {"file1": 1, "file4": 4}
    assert await index.files() == {"file2": 2, "file3": 3}
    content, freed = await index.change("d/f", lambda _: None)
    assert (content, set(freed), await index.get("d/f"), await index.files()) == (None, {"file2", "file3"}, None, {})


async def test_a_change_that_raises_changes_nothing(index: BlobIndex) -> None:
    def refuse(_: Standing) -> Content:
        raise HubError(BLOB_EXISTS)

    await index.change("d/f", lambda _: Content(blob(), [block(1)]))
    await stage(index, 2)
    with pytest.raises(HubError) as caught:
        await index.change("d/f", refuse)
    assert caught.value.row is BLOB_EXISTS
    assert await index.files() == {"file1": 1, "file2": 2}


async def test_changes_are_made_one_after_the_other(index: BlobIndex) -> None:
    def count(standing: Standing) -> Content:
        number = len(standing.blocks) + 1
        return Content(blob(etag=str(number)), [*standing.blocks, block(number)])

    await asyncio.gather(*(index.change("d/f", count) for _ in range(50)))
    found = await index.get("d/f")
    assert found is not None
    assert [one.file for one in found.blocks] == [f"file{number}" for number in range(1, 51)]


async def test_a_block_replaces_the_one_with_its_id(index: BlobIndex) -> None:
    assert await stage(index, 1, "old") == set()
    assert await stage(index, 1, "new") == {"old"}
    assert set(await index.stage("d/g", block(1, "other"), 100.0, 3)) == set(), "of another blob"
    assert await index.files() == {"new": 1, "other": 1}


async def test_blocks_that_wait_are_so_many_and_have_ids_of_one_length(index: BlobIndex) -> None:
    for number in (1, 2, 3, 3):
        await stage(index, number)
    with pytest.raises(HubError) as caught:
        await stage(index, 4)
    assert caught.value.row is TOO_MANY_BLOCKS
    with pytest.raises(HubError) as caught:
        await stage(index, 10, most=9)
    assert caught.value.row is INVALID_BLOCK_ID
    assert len(await index.files()) == 3


async def test_blocks_wait_until_their_time(index: BlobIndex) -> None:
    assert await index.next_expiry() is None
    for number in (1, 2, 3):
        await stage(index, number, expires_at=100.0 + number)
    assert await index.next_expiry() == 101.0
    assert await index.expire(102.0) == {"file1": 1, "file2": 2}
    assert set(await index.expire(102.0)) == set()
    assert (await index.next_expiry(), await index.files()) == (103.0, {"file3": 3})


async def test_everything_is_there_after_reopening(opener: Opener[BlobIndex]) -> None:
    async with opener() as index:
        await index.change("d/f", lambda _: Content(blob(), [block(1)]))
        await stage(index, 2)
    async with opener() as index:
        assert await index.get("d/f") == Content(blob(), [block(1)])
        assert (await index.next_expiry(), await index.files()) == (100.0, {"file1": 1, "file2": 2})
